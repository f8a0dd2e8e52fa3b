"""Rows of experts in one inference pass: what the busiest rank is expected to get, smoothly in the number of tokens.

Decode steps are summed in closed form, so a pass gets the expected maximum over ranks, not a draw: each rank's rows are
normal around its share, with the variance of tokens that pick experts, and the maximum is averaged over fixed draws.
The load is of one topic: a service, an agent, a benchmark; what evens out over a training mix does not even out here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from moesim.sim.layout.routed_rows import moe_layers, router_groups
from moesim.sim.layout.slots import (
    Ints,
    Placement,
    PlacementPlan,
    contiguous_plan,
    plan_placements,
    rank_shares,
    slots_of,
)
from moesim.sim.model.arch import MoeArch
from moesim.sim.model.params import experts_in
from moesim.sim.serve.job import ServeJob
from moesim.traces.draws import inclusion
from moesim.traces.rng import stream
from moesim.traces.routing import Floats, Routing

_LAYERS = 8  # of the model, evenly spaced, stand for all; more of them cost seconds and move the mean by under 1 %
_DRAWS = 128  # of every rank's noise, each with its mirror image: the expected maximum within 2 % of the noise


@dataclass(frozen=True, slots=True, eq=False)
class RankLoads:
    """Layers of one size that stand for all: what is expected of ranks, and how much it varies from pass to pass."""

    picked: Floats  # [layers, experts]: probability that a token picks the expert
    plans: tuple[PlacementPlan, ...]  # of those layers
    share: Floats  # [layers, ranks] of all pairs
    variance: Floats  # [layers, ranks] of a rank's pairs, per token
    uneven: bool  # False where every rank is forced to get as much


@lru_cache(maxsize=64)
def _loads(moe: MoeArch, experts: int, layers: int, routing: Routing, placement: Placement, ranks: int) -> RankLoads:
    forced = routing.kind == "balanced" or moe.router == "expert_choice"
    process, groups = Routing() if forced else routing, router_groups(moe, experts)
    some = _rows_of(layers, 1 if forced else _LAYERS)
    picked = inclusion(process.load_popularity(layers, experts, groups)[some], moe.top_k)
    plans = (contiguous_plan(experts, ranks),) * len(some)
    if placement.planned:
        known = process.load_popularity(layers, experts, groups, -placement.mean_age_steps)[some]
        plans = plan_placements(inclusion(known, moe.top_k), ranks, slots_of(placement, experts, ranks))
    share = [rank_shares(row / moe.top_k, plan) for row, plan in zip(picked, plans, strict=True)]
    # a copy gets every c-th token of its expert: its part of the spread, not of the variance
    spread = picked * (1.0 - picked) * routing.sampling
    variance = [rank_shares(row / plan.copies, plan) for row, plan in zip(spread, plans, strict=True)]
    return RankLoads(picked, plans, np.stack(share), np.stack(variance), ranks > 1 and not forced)


@lru_cache(maxsize=16)
def _noise(ranks: int) -> Floats:
    """Fixed standard normal draws, [2 x draws, 1, ranks]."""
    half = stream(0, "serve.busiest").standard_normal((_DRAWS, 1, ranks))
    return np.asarray(np.concatenate([half, -half]))


def _imbalances(loads: RankLoads, top_k: int, tokens: int) -> Floats:
    """Expected rows of the busiest rank over the mean, [layers]."""
    ranks = loads.share.shape[1]
    if not loads.uneven:
        return np.ones(len(loads.share))
    spread = np.sqrt(loads.variance / tokens) / top_k
    return np.asarray((loads.share + spread * _noise(ranks)).max(axis=2).mean(axis=0) * ranks)


def busiest_by_layer(job: ServeJob, tokens: int) -> dict[int, float]:
    """Expected rows of the busiest rank over the mean in a pass of so many tokens, by place of the layer.

    Of the layers that stand for all (of several sizes, those with most experts); empty without routed experts.
    """
    places, moe = moe_layers(job.arch), job.arch.moe
    if moe is None or not places:
        return {}
    loads = rank_loads(job)
    each = _imbalances(loads, moe.top_k, max(1, tokens))
    return {places[row]: float(value) for row, value in zip(_rows_of(len(places), len(each)), each, strict=True)}


def rank_loads(job: ServeJob, experts: int | None = None) -> RankLoads:
    """What the ranks of a model with routed experts expect, in layers of so many experts (else of those with most)."""
    places, moe = moe_layers(job.arch), job.arch.moe
    assert moe is not None
    if experts is None:
        experts = max(experts_in(job.arch, job.arch.layers[place]) for place in places)
    return _loads(moe, experts, len(places), job.routing, job.placement, job.layout.ep)


def _rows_of(layers: int, count: int) -> Ints:
    """Which of the layers with experts stand for all, in order."""
    return np.asarray(np.unique(np.linspace(0, layers - 1, count).round().astype(int)))


def expert_rows(job: ServeJob, experts: int, tokens: int) -> tuple[tuple[int, ...], float]:
    """(rows of every local expert of the busiest rank, its rows over the mean), in a layer of mean imbalance.

    The mean number of touched experts gets the rank's rows between them; a copy of an expert gets its part.
    """
    moe = job.arch.moe
    assert moe is not None
    return _rows(moe, experts, len(moe_layers(job.arch)), job.routing, job.placement, job.layout.ep, tokens)


@lru_cache(maxsize=65536)
def _rows(
    moe: MoeArch,
    experts: int,
    layers: int,
    routing: Routing,
    placement: Placement,
    ranks: int,
    tokens: int,
) -> tuple[tuple[int, ...], float]:
    loads = _loads(moe, experts, layers, routing, placement, ranks)
    each = _imbalances(loads, moe.top_k, tokens)
    imbalance = float(each.mean())
    layer = int(np.argmin(np.abs(each - imbalance)))
    plan, busiest = loads.plans[layer], int(np.argmax(loads.share[layer]))
    mine = plan.slot_expert.reshape(ranks, -1)[busiest]
    picked = loads.picked[layer, mine] / plan.copies[mine]
    hit = (1.0 - (1.0 - picked) ** tokens).sum()
    expected = np.sort(picked)[::-1] / picked.sum() * (tokens * moe.top_k / ranks * imbalance)
    count = max(1, min(len(mine), round(float(hit))))
    kept = expected[:count] * (expected.sum() / expected[:count].sum())
    rows = np.maximum(1, np.rint(kept)).astype(int)
    return tuple(int(r) for r in rows), imbalance
