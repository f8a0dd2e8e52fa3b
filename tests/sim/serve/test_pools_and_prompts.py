"""Pools beside what prompts share, prompts that stay on decode workers, and changes that come faster than workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.prediction import ServePrediction
from moesim.sim.serve.workload import REJECTED

TALK = {"turns": 6, "think_s": 0.5, "system_tokens": 64, "first_tokens": 300, "added_tokens": 60, "answer_tokens": 80}
SESSIONS: dict[str, Any] = {"kind": "sessions", "count": 80, "rate_per_s": 4.0, "sessions": TALK}


def answer(
    workers: tuple[int, int] = (1, 1), requests: dict[str, Any] | None = None, serve: dict[str, Any] | None = None,
    **pools: Any,
) -> ServePrediction:  # fmt: skip
    each = dict(zip(("prefill", "decode"), ({"tp": 2, "workers": n} for n in workers), strict=True))
    return predict_serve(
        {
            "model": "qwen3-30b-a3b",
            "cluster": {"node": "dgx-h100", "gpus": 2 * sum(workers)},
            "serve": {"engine": "vllm", "requests": requests or SESSIONS, "pools": {**each, **pools}, **(serve or {})},
        },
        meets=False,
    )


def computed(p: ServePrediction) -> int:
    return sum(r.prefill_tokens for _, r in p.run.workers)


@pytest.mark.parametrize("engine", ["vllm", "trtllm"])
@pytest.mark.parametrize("local", [0, 400, 1_000_000])
def test_every_prompt_token_is_computed_once_or_found(engine: str, local: int) -> None:
    """Prompts that stay on the decode worker find nothing there, and give their blocks back."""
    p = answer(serve={"engine": engine, "router": "prefix"}, local_prefill_tokens=local)
    log = p.run.log
    assert log.served == 80 and log.preemptions == 0
    assert computed(p) == sum(log.prompt) - sum(log.hit)
    assert all(r.idle and r.blocks.held == 0 and r.queued_tokens == 0 for _, r in p.run.workers)
    if local == 1_000_000:
        assert sum(log.hit) == 0 and sum(r.prefill_tokens for r in p.run.prefill_replicas) == 0


def test_prefill_workers_do_not_have_answers() -> None:
    """A later prompt finds the last prompt there; the answer between them was written on the decode worker."""
    p = answer()
    requests, log = p.resolved.workload.requests, p.run.log
    later = [n for n, before in enumerate(requests.after) if before >= 0]
    assert later and all(log.hit[n] <= log.prompt[requests.after[n]] for n in later)
    assert any(log.hit[n] > log.prompt[requests.after[n]] - 16 for n in later)
    assert any("not answers" in line for line in p.assumptions)


@pytest.mark.parametrize("switch_s", [0, 30])
def test_changes_may_come_while_workers_still_switch(switch_s: float) -> None:
    """Back and forth at once, down to one worker: a pool is never empty, and ends as the last change says."""
    changes = [
        {"at_s": 0, "prefill": 1, "decode": 3},
        {"at_s": 1, "prefill": 3, "decode": 1},
        {"at_s": 2, "prefill": 1, "decode": 3},
        {"at_s": 2.5, "prefill": 2, "decode": 2},
    ]
    load = {"kind": "poisson", "rate_per_s": 10, "count": 150, "input_tokens": 600, "output_tokens": 50}
    p = answer((3, 1), load, changes=changes, switch_s=switch_s)
    assert p.run.log.served == 150 and computed(p) == 150 * 600
    assert all(r.idle and r.blocks.held == 0 for _, r in p.run.workers)


def test_capacity_is_of_caches_as_large_as_they_are() -> None:
    """The prefix column is of a cache without limit: prompts that find nothing in a small one are all computed."""
    load = {"kind": "sessions", "count": 200, "rate_per_s": 5.0, "sessions": {**TALK, "first_tokens": 3000}}
    asked: dict[str, Any] = {
        "model": "qwen3-30b-a3b",
        "cluster": {"node": "dgx-h100", "gpus": 2},
        "layout": {"tp": 2},
        "serve": {"engine": "vllm", "requests": load},
    }
    large = predict_serve(asked, meets=False)
    small = predict_serve({**asked, "serve": {**asked["serve"], "kv_blocks": 800}}, meets=False)
    assert sum(small.run.log.hit) < 0.7 * sum(large.run.log.hit)
    assert small.capacity_requests_per_s < 0.9 * large.capacity_requests_per_s
    for p in (small, large):
        assert p.requests_per_s <= p.capacity_requests_per_s


def test_who_is_turned_away_is_neither_served_nor_forgotten() -> None:
    """Turning requests away is quick: the capacity is of those that are served, and their share misses the limits."""
    load = {"kind": "poisson", "count": 400, "rate_per_s": 60.0, "input_tokens": 2000, "output_tokens": 100}
    asked: dict[str, Any] = {
        "model": "qwen3-30b-a3b",
        "cluster": {"node": "dgx-h100", "gpus": 1},
        "serve": {"engine": "vllm", "requests": load, "slo": {"ttft_s": 5, "tpot_s": 0.2}},
    }
    plain = predict_serve(asked, meets=False)
    for admission in ({"queue_limit": 5}, {"timeout_s": 0.1}):
        p = predict_serve({**asked, "serve": {**asked["serve"], "admission": admission}}, meets=False)
        log = p.run.log
        assert log.served < 300 and p.capacity_requests_per_s == pytest.approx(plain.capacity_requests_per_s, rel=0.02)
        assert p.label == "overloaded" and p.attained_share <= log.served / len(log) + 1e-9
        assert p.goodput_per_s <= p.requests_per_s + 1e-9


@pytest.mark.parametrize("pools", [None, {"prefill": {"workers": 1}, "decode": {"workers": 1}}])
def test_a_client_who_is_rejected_comes_back_later(pools: dict[str, Any] | None) -> None:
    """Of more clients than are let in, those outside try again after a while: not all at once until none is left."""
    load = {"kind": "closed", "concurrency": 12, "count": 400, "input_tokens": 2000, "output_tokens": 100}

    def served(wait_s: float) -> Any:
        admission = {"queue_limit": 4, "retry_after_s": wait_s}
        serve = {"engine": "vllm", "requests": load, "admission": admission, **({"pools": pools} if pools else {})}
        cluster = {"node": "dgx-h100", "gpus": 2 if pools else 1}
        return predict_serve({"model": "qwen3-30b-a3b", "cluster": cluster, "serve": serve}, meets=False)

    often, seldom = served(0.5), served(5.0)
    assert 8 < often.run.log.served < seldom.run.log.served
    for p, wait_s in ((often, 0.5), (seldom, 5.0)):
        log = p.run.log
        arrived = np.sort([t for t, status in zip(log.arrival_s, log.status, strict=True) if status == REJECTED])
        first = arrived[arrived < wait_s]
        assert len(first) <= 8 + log.served  # nobody came twice while they waited
        assert p.label == ("misses its limits" if log.served < 0.9 * len(log) else "stable")
        assert not any("retry_after_s" in line for line in p.assumptions)


def test_a_tier_that_is_slower_than_computing_is_told() -> None:
    tier = {"kind": "host", "bytes": 1e11}
    load = {"kind": "sessions", "count": 60, "rate_per_s": 2.0, "sessions": {**TALK, "first_tokens": 3000}}
    said = []
    for rate in (1e6, 50e9):
        asked = {
            "model": "qwen3-30b-a3b",
            "cluster": {"node": "dgx-h100", "gpus": 2},
            "layout": {"tp": 2},
            "serve": {"requests": load, "kv_blocks": 800, "kv_tiers": [{**tier, "bytes_per_s": rate}]},
        }
        p = predict_serve(asked, meets=False)
        assert p.cache["tiers"]["host"]["blocks_read"] > 0
        said.append([line for line in p.assumptions if "sooner without this tier" in line])
    assert len(said[0]) == 1 and not said[1]


def test_users_who_think_do_not_show_the_capacity() -> None:
    """Sessions of a few users leave the deployment idle: its capacity is what a full queue gets."""
    p = predict_serve(
        {
            "model": "qwen3-30b-a3b",
            "cluster": {"node": "dgx-h100", "gpus": 2},
            "layout": {"tp": 2},
            "serve": {"engine": "vllm", "requests": {**SESSIONS, "rate_per_s": None, "concurrency": 2}},
        },
        meets=False,
    )
    assert p.utilisation["idle"] > 0.1 and p.capacity_requests_per_s > 3.0 * p.requests_per_s and p.label == "stable"


def test_the_router_of_pools_is_told() -> None:
    shortest = [line for line in answer().assumptions if line.startswith("router: prompts go to")]
    assert len(shortest) == 1
    assert not [line for line in answer(serve={"router": "prefix"}).assumptions if line.startswith("router: prompts")]


@pytest.mark.parametrize("pp", [1, 2])
def test_what_prompts_share_is_in_the_cache_once(pp: int) -> None:
    """Fifty sequences behind one prompt of 4,000 tokens fit into 16,000, and what is shown of the cache says so."""
    load = {"kind": "sessions", "rate_per_s": 8, "count": 200}
    talk = {"turns": 1, "system_tokens": 4000, "first_tokens": 100, "answer_tokens": 100}
    p = predict_serve(
        {
            "model": "qwen3-30b-a3b",
            "cluster": {"node": "dgx-h100", "gpus": 2 * pp},
            "layout": {"tp": 2, "pp": pp},
            "serve": {"engine": "vllm", "kv_blocks": 1000, "requests": {**load, "sessions": talk}},
        },
        meets=False,
    )
    assert p.mean_batch > 5 and p.preemptions == 0
    assert 0.25 < p.kv_use < 0.9 and 4000 < max(p.over_time()["cached_tokens"]) <= p.kv_tokens
