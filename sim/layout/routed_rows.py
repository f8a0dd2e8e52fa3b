"""Rows that every expert-parallel rank gets in every micro-batch of one step, drawn from routing and placement.

One group of expert-parallel ranks trains on the tokens of its own ranks; `groups` of them are drawn apart (they are
data-parallel replicas of the same experts). Layers are drawn one at a time, each from a stream of its own, so that
asking for one layer, or in another order, gives the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from moesim.sim.layout.layout import Layout
from moesim.sim.layout.slots import (
    Placement,
    PlacementPlan,
    contiguous_plan,
    plan_placements,
    rank_rows,
    slots_of,
)
from moesim.sim.model.arch import ModelArch, MoeArch
from moesim.sim.model.params import experts_in
from moesim.traces.draws import Counts, Topics, draw_counts, inclusion, largest_remainder
from moesim.traces.rng import stream
from moesim.traces.routing import Floats, Routing


def moe_layers(arch: ModelArch) -> tuple[int, ...]:
    """Places of the layers with routed experts, in model order."""
    return tuple(i for i, kind in enumerate(arch.layers) if kind.ffn in ("moe", "moe_residual"))


def router_groups(moe: MoeArch, experts: int) -> int:
    """Groups of experts whose popularity has something in common: those of a group-limited router, else one."""
    return moe.groups if moe.groups > 1 and experts % moe.groups == 0 else 1


def expert_popularity(arch: ModelArch, routing: Routing, step: int = 0) -> dict[int, Floats]:
    """Expected share of every expert [experts] at a step, by place of the layer, as its router lets it come true.

    Under expert choice every expert takes its even share; where tokens choose, none gets more than every token.
    A group-limited router changes which experts go together, not how much each gets: shares are counted behind it.
    """
    moe = arch.moe
    if moe is None:
        return {}
    places = moe_layers(arch)
    popularity: dict[int, Floats] = {}
    sizes = [experts_in(arch, arch.layers[i]) for i in places]
    process = Routing() if moe.router == "expert_choice" else routing
    for experts in sorted(set(sizes)):
        table = process.popularity(len(places), experts, router_groups(moe, experts), step)
        table = inclusion(table, moe.top_k) / moe.top_k
        popularity |= {place: table[row] for row, place in enumerate(places) if sizes[row] == experts}
    return popularity


def placement_plans(
    arch: ModelArch, ep: int, routing: Routing, placement: Placement, step: int = 0
) -> dict[int, PlacementPlan]:
    """Where every layer's experts are, by place of the layer. BadLayout where slots do not divide among the ranks."""
    sizes = {place: experts_in(arch, arch.layers[place]) for place in moe_layers(arch)}
    if not placement.planned:
        blocks = {experts: contiguous_plan(experts, ep) for experts in set(sizes.values())}
        return {place: blocks[experts] for place, experts in sizes.items()}
    known = expert_popularity(arch, routing, step - placement.plan_age_steps)
    plans: dict[int, PlacementPlan] = {}
    for experts in sorted(set(sizes.values())):
        places = [place for place, size in sizes.items() if size == experts]
        loads = np.stack([known[place] for place in places])
        made = plan_placements(loads, ep, slots_of(placement, experts, ep))
        plans |= dict(zip(places, made, strict=True))
    return plans


@dataclass(frozen=True, slots=True, eq=False)
class LayerRows:
    """One layer of one step. Rows are token-expert pairs that ranks compute, padding of capacity kernels included."""

    rows: Counts  # [micro_batches, groups, ep]
    expert_rows: Counts  # [experts]: pairs routed to each expert over the step, before drops
    dropped_share: float  # of all pairs

    @property
    def imbalance(self) -> float:
        """Busiest rank over the mean, averaged over micro-batches and groups."""
        return float(self.rows.max(axis=-1).mean() / self.rows.mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatches:
    """The micro-batches of one step: `count` of them in each of `groups` expert-parallel groups that are drawn apart.

    `tokens_per_rank` and `sequences_per_rank`: what one GPU of a group contributes to a micro-batch before top-k; a
    sequence cut over ranks counts in parts. `capacity_factor`: rows per expert over their mean, None for dropless.
    """

    tokens_per_rank: int
    sequences_per_rank: float
    count: int
    groups: int = 1
    capacity_factor: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutedRows:
    """Rows of one step's micro-batches: `layer` draws one layer; the summaries draw all of them once."""

    arch: ModelArch
    ep: int
    routing: Routing
    batch: MicroBatches
    tokens: int  # of one micro-batch, over the ranks of one expert-parallel group
    sequences: float  # the same
    step: int
    popularity: dict[int, Floats] = field(repr=False)
    plans: dict[int, PlacementPlan] = field(repr=False)

    @property
    def layers(self) -> tuple[int, ...]:
        """Places of the layers with routed experts."""
        return tuple(self.popularity)

    def layer(self, place: int) -> LayerRows:
        """The rows of the layer at this place of the model; drawn again, and alike, every time it is asked for."""
        moe = self.arch.moe
        assert moe is not None
        counts, plan = self._counts(place, moe), self.plans[place]
        pairs = self.tokens * moe.top_k
        kept, dropped = counts, 0
        if self.batch.capacity_factor is not None:
            limit = int(-(-pairs * self.batch.capacity_factor // counts.shape[-1]))
            dropped = int(np.maximum(0, counts - limit).sum())
            kept = np.full_like(counts, limit)  # capacity kernels pad every expert to the limit
        shape = (self.batch.count, self.batch.groups, self.ep)
        alike = self.batch.count * self.batch.groups // (counts.shape[0] * counts.shape[1])
        return LayerRows(
            rows=np.broadcast_to(rank_rows(kept, plan), shape),
            expert_rows=counts.sum(axis=(0, 1)) * alike,
            dropped_share=dropped / (pairs * counts.shape[0] * counts.shape[1]),
        )

    def _counts(self, place: int, moe: MoeArch) -> Counts:
        """Pairs per expert [micro_batches, groups, experts]; [1, 1, experts] where all micro-batches are alike."""
        shares = self.popularity[place]
        if not self.routing.drawn or moe.router == "expert_choice":
            return largest_remainder(shares, self.tokens * moe.top_k)[None, None]
        shape: tuple[int, ...] = (self.batch.count, self.batch.groups)
        if self.routing.has_topics:
            shares, shape = self._topics(moe, len(shares)).on(shares, place), ()
        if not self.routing.sampling:
            return largest_remainder(inclusion(shares, moe.top_k) / moe.top_k, self.tokens * moe.top_k)
        rng = stream(self.routing.seed, f"routing.draw.{self.step}.{place}")
        return draw_counts(rng, shares, self.tokens, moe.top_k, shape)

    def _topics(self, moe: MoeArch, experts: int) -> Topics:
        if experts not in self._topics_of:
            shape = (self.batch.count, self.batch.groups)
            groups = router_groups(moe, experts)
            self._topics_of[experts] = Topics(self.routing, self.sequences, experts, groups, self.step, shape)
        return self._topics_of[experts]

    @cached_property
    def _topics_of(self) -> dict[int, Topics]:
        return {}

    @cached_property
    def _summaries(self) -> dict[int, tuple[Counts, float, float]]:
        drawn = ((place, self.layer(place)) for place in self.layers)
        return {place: (each.expert_rows, each.imbalance, each.dropped_share) for place, each in drawn}

    @property
    def expert_rows(self) -> dict[int, Counts]:
        """Pairs routed to each expert [experts] over the step, all groups together, by place of the layer."""
        return {place: rows for place, (rows, _, _) in self._summaries.items()}

    @property
    def imbalance(self) -> dict[int, float]:
        """Busiest rank over the mean, averaged over micro-batches and groups, by place of the layer."""
        return {place: busiest for place, (_, busiest, _) in self._summaries.items()}

    @property
    def dropped_share(self) -> float:
        """Share of all pairs that a capacity limit drops."""
        return float(np.mean([dropped for _, _, dropped in self._summaries.values()])) if self.layers else 0.0


def routed_rows(
    arch: ModelArch, layout: Layout, routing: Routing, placement: Placement, batch: MicroBatches, step: int = 0
) -> RoutedRows:
    """What routing sends to every rank of the batch's expert-parallel groups in one step.

    Nothing is drawn for balanced routing. BadLayout for slots that do not divide among the ranks, BadTrace for counts
    that do not fit the model.
    """
    # the parts of an expert see the tokens of all their GPUs, unless every GPU sent the same ones
    senders = layout.ep * (1 if layout.duplicates == "send" else layout.etp)
    return RoutedRows(
        arch=arch,
        ep=layout.ep,
        routing=routing,
        batch=batch,
        tokens=batch.tokens_per_rank * senders,
        sequences=batch.sequences_per_rank * senders,
        step=step,
        popularity=expert_popularity(arch, routing, step),
        plans=placement_plans(arch, layout.ep, routing, placement, step),
    )
