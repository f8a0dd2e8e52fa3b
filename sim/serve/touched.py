"""Which experts a step touches, and how many rows each local expert gets, from the shares that routing gives them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from moesim.sim.serve.job import ServeJob
from moesim.traces.routing import Routing


@lru_cache(maxsize=256)
def _shares(routing: Routing, experts: int) -> tuple[float, ...]:
    """Share of the token-expert pairs of every expert of a typical layer."""
    return tuple(float(v) for v in routing.shares(1, experts)[0])


def touched(shares: tuple[float, ...], top_k: int, tokens: float) -> list[float]:
    """Probability that each expert gets at least one of `tokens` tokens: 1 - (1 - p_e)^B with p_e = k x share."""
    return [1.0 - (1.0 - min(1.0, top_k * share)) ** tokens for share in shares]


def expert_rows(job: ServeJob, experts: int, top_k: int, tokens: int) -> tuple[tuple[int, ...], float]:
    """(rows of every local expert of the busiest rank, its rows over the mean).

    The mean number of touched experts gets the rank's rows between them. With `expert_slots` copies of busy
    experts even out the ranks (a perfect plan).
    """
    return _rows(_shares(job.routing, experts), top_k, tokens, job.layout.ep, job.expert_slots)


@lru_cache(maxsize=65536)
def _rows(shares: tuple[float, ...], top_k: int, tokens: int, ep: int, slots: int) -> tuple[tuple[int, ...], float]:
    pairs = tokens * top_k
    hit = np.array(touched(shares, top_k, float(tokens)))
    popularity = np.array(shares)
    load = popularity.reshape(ep, -1).sum(axis=1)  # contiguous blocks of experts per rank
    busiest = int(np.argmax(load))
    imbalance = 1.0 if slots or ep == 1 else float(load[busiest] * ep)
    mine = np.arange(len(shares)) * ep // len(shares) == busiest
    expected = popularity[mine] / popularity[mine].sum() * (pairs / ep * imbalance)
    count = max(1, min(int(mine.sum()), round(float(hit[mine].sum()))))
    ordered = np.sort(expected)[::-1]
    kept = ordered[:count] * (expected.sum() / ordered[:count].sum())
    rows = np.maximum(1, np.rint(kept)).astype(int)
    return tuple(int(r) for r in rows), imbalance
