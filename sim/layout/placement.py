"""Where experts live and what routing asks of each rank: rows per local expert, imbalance, copies per token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import comb

import numpy as np

from moesim.hwmodels.cluster import Cluster
from moesim.sim.layout.layout import Layout
from moesim.sim.layout.routed_rows import moe_layers, router_groups
from moesim.sim.model.arch import ModelArch, MoeArch
from moesim.traces.draws import inclusion, largest_remainder
from moesim.traces.routing import Routing


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLoad:
    """What routing asks of the busiest expert-parallel rank, for one layer and micro-batch.

    `rows` per local expert of that rank; `imbalance` its received tokens over the mean; `node_copies` and
    `rank_copies` distinct scale-up domains and ranks that one token reaches; `dropped_share` tokens not served.
    """

    rows: tuple[int, ...]
    rank_rows: tuple[int, ...]  # rows of every rank of the expert group; one number when they are equal
    imbalance: float
    node_copies: float
    rank_copies: float
    dropped_share: float = 0.0


@cache
def distinct_holders(holders: int, experts: int, top_k: int, groups: int = 1, top_k_groups: int = 1) -> float:
    """Mean number of distinct holders (ranks or domains) of a token's experts, experts spread in contiguous blocks.

    Free routing: n (1 - C(E - E/n, k) / C(E, k)). Group-limited routing first picks top_k_groups of `groups`.
    """
    if holders <= 1:
        return float(holders)
    if groups <= 1 or top_k_groups >= groups:
        per = experts // holders if experts >= holders else 1
        return holders * (1 - comb(experts - per, top_k) / comb(experts, top_k)) if per < experts else 1.0
    if holders <= groups:
        per_group = groups // holders
        return holders * (1 - comb(groups - per_group, top_k_groups) / comb(groups, top_k_groups))
    split = holders // groups  # every group lies on several holders
    in_group = experts // groups
    per = max(1, in_group // split)
    picked = max(1, round(top_k / top_k_groups))
    return top_k_groups * split * (1 - comb(in_group - per, picked) / comb(in_group, picked))


def _capacity(rows: list[int], pairs: int, experts: int, factor: float | None) -> tuple[list[int], int]:
    """Rows after a capacity limit (padded to it, as capacity kernels do) and how many pairs were dropped."""
    if factor is None:
        return rows, 0
    limit = int(-(-pairs * factor // experts))
    dropped = sum(max(0, r - limit) for r in rows)
    return [limit] * len(rows), dropped


def _busiest(rows: list[int], ep: int) -> tuple[tuple[int, ...], float]:
    per = len(rows) // ep
    blocks = [rows[i * per : (i + 1) * per] for i in range(ep)]
    totals = [sum(b) for b in blocks]
    top = max(range(ep), key=lambda i: (totals[i], -i))
    mean = sum(totals) / ep
    return tuple(blocks[top]), (totals[top] / mean if mean else 1.0)


def load_at(load: ExpertLoad | None, share: float) -> ExpertLoad | None:
    """The load of a rank that gets this share of the rows; an expert keeps one: none at all would be no kernel."""
    if load is None or share == 1.0:
        return load
    rows = tuple(max(1, round(r * share)) for r in load.rows)
    return replace(load, rows=rows, rank_rows=(sum(rows),), imbalance=max(1.0, share))


def expert_loads(
    arch: ModelArch, layout: Layout, cluster: Cluster, routing: Routing, tokens_per_rank: int, factor: float | None
) -> list[ExpertLoad | None]:
    """The load of the busiest rank for every layer (None where a layer has no experts).

    `tokens_per_rank` is what one GPU of the expert group contributes before top-k.
    """
    moe = arch.moe
    if moe is None:
        return [None] * arch.num_layers
    # the parts of an expert see the tokens of all their GPUs, unless every GPU sent the same ones
    tokens = tokens_per_rank * (1 if layout.duplicates == "send" else layout.etp)
    loads: list[ExpertLoad | None] = []
    seen: dict[int, ExpertLoad] = {}
    shares_of: dict[int, np.ndarray] = {}
    places = moe_layers(arch)
    for index, kind in enumerate(arch.layers):
        if kind.ffn not in ("moe", "moe_residual"):
            loads.append(None)
            continue
        experts = kind.experts or moe.experts
        if routing.even and experts in seen:
            loads.append(seen[experts])
            continue
        if experts not in shares_of:
            layers = 1 if routing.even else len(places)
            shares_of[experts] = routing.popularity(layers, experts, router_groups(moe, experts))
        table = shares_of[experts]
        row = 0 if routing.even else places.index(index)
        load = _load(moe, experts, layout, cluster, table[row], tokens, factor)
        seen[experts] = load
        loads.append(load)
    return loads


def _load(
    moe: MoeArch, experts: int, layout: Layout, cluster: Cluster, shares: np.ndarray, tokens: int, factor: float | None
) -> ExpertLoad:
    ep = layout.ep
    pairs = tokens * ep * moe.top_k
    if moe.router == "expert_choice":  # every expert picks its share of the tokens
        shares = np.full(experts, 1.0 / experts)
    # a token picks an expert once
    picked = inclusion(shares, moe.top_k) / moe.top_k if shares.max() * moe.top_k > 1.0 else shares
    rows = [int(n) for n in largest_remainder(picked, pairs)]
    kept, dropped = _capacity(rows, pairs, experts, factor)
    local, imbalance = _busiest(kept, ep)
    per = experts // ep
    totals = tuple(sum(kept[i * per : (i + 1) * per]) for i in range(ep))
    group = layout.group("ep", cluster)
    groups, chosen = (moe.groups, moe.top_k_groups) if moe.router == "group_limited" else (1, 1)
    return ExpertLoad(
        rows=local,
        rank_rows=totals if min(totals) != max(totals) else (totals[0],),
        imbalance=imbalance,
        node_copies=distinct_holders(group.domains, experts, moe.top_k, groups, chosen),
        rank_copies=distinct_holders(ep, experts, moe.top_k, groups, chosen),
        dropped_share=dropped / pairs if pairs else 0.0,
    )
