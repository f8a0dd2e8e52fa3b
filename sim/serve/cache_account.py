"""What a run's caches of prompts did: hits by where they came from, what was evicted, what loading cost."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.sim.serve.accounts import latencies_of, spread
from moesim.sim.serve.prefix_cache import Shelf
from moesim.sim.serve.simulate import ServeRun
from moesim.sim.serve.workload import REJECTED, SERVED, TIMED_OUT


def cache_account(run: ServeRun) -> dict[str, Any]:
    """Of all workers that compute prompts together; empty where none keeps prompts.

    asked_tokens: of prompts that were admitted. hit_share: of them, not computed. tiers: by name the share of
    asked_tokens that it brought, blocks it read and wrote. load_wait_s: of passes, waiting for a tier.
    """
    replicas = run.prefill_replicas or run.replicas
    caches = [r.prefix for r in replicas if r.prefix is not None]
    if not caches:
        return {}
    asked = sum(c.asked_tokens for c in caches)
    tiers: dict[str, dict[str, float]] = {}
    shelves: list[Shelf] = []
    for cache in caches:
        for n, tier in enumerate(cache.tiers):
            of = tiers.setdefault(tier.name, {"hit_share": 0.0, "blocks_read": 0, "blocks_written": 0})
            of["hit_share"] += cache.tier_tokens[n] / max(1, asked)
            of["blocks_read"] += tier.read
            if all(tier.shelf is not other for other in shelves):
                shelves.append(tier.shelf)
                of["blocks_written"] += tier.shelf.written
    return {
        "asked_tokens": asked,
        "hit_tokens": sum(c.hit_tokens for c in caches),
        "hit_share": sum(c.hit_tokens for c in caches) / max(1, asked),
        "evicted_blocks": sum(c.evicted_blocks for c in caches),
        "load_wait_s": sum(r.load_wait_s for r in replicas),
        "tiers": tiers,
    }


def admission_account(run: ServeRun) -> dict[str, Any]:
    """Requests that were rejected, and that gave up; where there are classes, how each fared."""
    log = run.log
    account: dict[str, Any] = {"rejected": log.status.count(REJECTED), "timed_out": log.status.count(TIMED_OUT)}
    if log.priority:
        seen = latencies_of(run)
        of = np.array([c for c, status in zip(log.priority, log.status, strict=True) if status == SERVED])
        account["classes"] = [
            {"class": int(c), "requests": int((of == c).sum()), "ttft_s": spread(seen.ttft_s[of == c]).to_dict()}
            for c in sorted(set(log.priority))
        ]
    return account
