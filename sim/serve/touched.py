"""Which experts a pass touches, and how many rows each local expert gets, from the shares that routing gives them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from moesim.hwmodels.gpu import bytes_per_element
from moesim.hwmodels.work import Stream
from moesim.sim.model.params import expert_params, experts_in
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


def expert_bytes(job: ServeJob) -> float:
    """Bytes of one routed expert on one rank."""
    return expert_params(job.arch) * bytes_per_element(job.formats.experts) / job.layout.etp


def offload_bytes(job: ServeJob, tokens: int) -> float:
    """Bytes of experts that one rank fetches in a pass of `tokens` tokens: touched, and not found on the GPU."""
    if job.offload is None or job.arch.moe is None:
        return 0.0
    touched = 0.0
    for kind in job.arch.layers:
        experts = experts_in(job.arch, kind)
        if experts:
            touched += len(expert_rows(job, experts, job.arch.moe.top_k, tokens)[0])
    return touched * expert_bytes(job) * (1.0 - job.offload.hit_rate)


_KERNELS = 2  # assumed: grouped kernels per layer, one down and one up (Punica, S-LoRA)


def adapter_bytes(job: ServeJob) -> float:
    """Bytes of all adapters on one GPU: two thin matrices beside every projection of attention, 16 bits."""
    a = job.arch.attention
    if job.adapters is None or a is None:
        return 0.0
    width = (a.heads + 2 * a.kv_heads) * a.head_dim + a.heads * a.v_head_dim + 3 * job.arch.hidden
    return 2.0 * job.adapters.count * job.adapters.rank * width * job.arch.num_layers / job.layout.tp / job.layout.pp


def adapter_work(job: ServeJob, tokens: int) -> Stream:
    """Adapters that `tokens` tokens touch are read once each; which one a sequence asks for is even chance."""
    assert job.adapters is not None
    count = job.adapters.count
    touched = count * (1.0 - (1.0 - 1.0 / count) ** tokens)
    return Stream(adapter_bytes(job) / count * touched, "adapters", _KERNELS * job.arch.num_layers)
