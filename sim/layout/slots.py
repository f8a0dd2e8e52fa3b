"""Which expert sits in which slot of which rank: contiguous blocks, or a plan that copies and packs the busy ones.

The plan is EPLB's (DeepSeek, 2025): copies go to the experts with the most rows per copy, one after the other; then the
heaviest copies go first, each onto the least loaded rank that has a free slot. Every rank has as many slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.sim.layout.layout import BadLayout
from moesim.sim.model.arch import ModelArch
from moesim.sim.model.params import experts_in
from moesim.sim.question.scenario import Scenario

MOST_SLOTS = 16_384  # of a layer: plans are made slot by slot, for every layer
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How experts are placed on the ranks of their group: planned by load, or (the default) in contiguous blocks."""

    planned: bool = False
    spare_slots: int = 0  # beyond one per expert, over the whole expert-parallel group
    plan_age_steps: int = 0  # steps since the loads that the plan was made from
    rebalance_steps: int = 0  # steps between two plans; 0: one plan for good

    @property
    def mean_age_steps(self) -> int:
        """Steps since the loads of the plan in the mean: what is made every N steps ages by N / 2."""
        return self.plan_age_steps + self.rebalance_steps // 2


BLOCKS = Placement()


@dataclass(frozen=True, slots=True, eq=False)
class PlacementPlan:
    """The experts of one layer in slots, rank after rank.

    `slot_expert` [slots]: the expert in each slot; `copies` [experts]: slots that hold an expert; `order` [slots]: the
    number of a slot among the copies of its expert, from 0.
    """

    slot_expert: Ints
    copies: Ints
    order: Ints
    ranks: int
    contiguous: bool = False  # one slot per expert, in order


def placement_of(scenario: Scenario, arch: ModelArch) -> Placement:
    """The placement that a scenario asks for; `serve.expert_slots` is another name of its spare slots.

    BadLayout for a model without experts, for fewer slots than experts and where both names are given.
    """
    ask, spare = scenario.placement, scenario.serve.expert_slots if scenario.serve else 0
    named = "placement" if ask is not None else "serve.expert_slots"
    if ask is None and not spare:
        return BLOCKS
    if arch.moe is None:
        raise BadLayout(f"{named} places experts, and {arch.name} has none; leave it out")
    if ask is not None and spare:
        raise BadLayout("serve.expert_slots is another name of placement.spare_slots; give one of them")
    if ask is None:
        slots = arch.moe.experts + spare
    else:
        slots = arch.moe.experts * (ask.replicas or 1) + (ask.spare_slots or 0) if ask.slots is None else ask.slots
    if slots > MOST_SLOTS:
        raise BadLayout(f"{named} asks for {slots:,} slots of a layer's experts; use at most {MOST_SLOTS:,}")
    if slots < arch.moe.experts:
        raise BadLayout(f"placement.slots={slots} cannot hold the {arch.moe.experts} experts of {arch.name}; use more")
    age = 0 if ask is None else ask.plan_age_steps
    every = 0 if ask is None else ask.rebalance_every_steps or 0
    return Placement(planned=True, spare_slots=slots - arch.moe.experts, plan_age_steps=age, rebalance_steps=every)


def slots_of(placement: Placement, experts: int, ranks: int) -> int:
    """Slots of a layer's experts on `ranks` ranks. BadLayout unless every rank gets as many."""
    slots = experts + placement.spare_slots
    if slots % ranks:
        would = [n for n in (slots // ranks * ranks, -(-slots // ranks) * ranks) if n >= experts]
        raise BadLayout(
            f"{slots} expert slots ({experts} experts and {placement.spare_slots} spare) do not divide among "
            f"ep={ranks} ranks, and every rank holds as many; use {' or '.join(str(n) for n in would)} slots "
            f"({' or '.join(str(n - experts) for n in would)} spare)"
        )
    return slots


def check_slots(placement: Placement, arch: ModelArch, ranks: int) -> None:
    """BadLayout unless the slots of every layer divide among that many expert-parallel ranks."""
    if placement.planned:
        for experts in sorted({experts_in(arch, kind) for kind in arch.layers} - {0}):
            slots_of(placement, experts, ranks)


def contiguous_plan(experts: int, ranks: int) -> PlacementPlan:
    """One slot per expert, in order: the first experts on the first rank."""
    ones, zeros = np.ones(experts, np.int64), np.zeros(experts, np.int64)
    return PlacementPlan(np.arange(experts), ones, zeros, ranks, contiguous=True)


def plan_placement(load: Floats, ranks: int, slots: int) -> PlacementPlan:
    """EPLB's plan of one layer, from the rows each expert is expected to get [experts]. BadLayout for slots too few."""
    return plan_placements(np.asarray(load, dtype=np.float64)[None], ranks, slots)[0]


def plan_placements(load: Floats, ranks: int, slots: int) -> tuple[PlacementPlan, ...]:
    """EPLB's plans of several layers at once, from loads [layers, experts]."""
    layers, experts = load.shape
    if slots < experts or slots % ranks:
        raise BadLayout(
            f"{slots} slots cannot hold {experts} experts evenly on {ranks} ranks; use a multiple of {ranks}"
        )
    held, order, copies = _copied(load, slots)
    weight = np.take_along_axis(load / copies, held, axis=1)
    places = _packed(weight, ranks)  # slot of every copy
    slot_expert, slot_order = np.empty_like(held), np.empty_like(order)
    np.put_along_axis(slot_expert, places, held, axis=1)
    np.put_along_axis(slot_order, places, order, axis=1)
    return tuple(PlacementPlan(slot_expert[i], copies[i], slot_order[i], ranks) for i in range(layers))


def _copied(load: Floats, slots: int) -> tuple[Ints, Ints, Ints]:
    """(expert of every copy, which of its copies it is, copies per expert): the busiest per copy gets the next one."""
    layers, experts = load.shape
    held, order = np.empty((layers, slots), np.int64), np.zeros((layers, slots), np.int64)
    held[:, :experts] = np.arange(experts)
    copies = np.ones((layers, experts), np.int64)
    rows = np.arange(layers)
    each = load.copy()
    for slot in range(experts, slots):
        busiest = each.argmax(axis=1)
        held[:, slot] = busiest
        order[:, slot] = copies[rows, busiest]
        copies[rows, busiest] += 1
        each[rows, busiest] = load[rows, busiest] / copies[rows, busiest]
    return held, order, copies


def _packed(weight: Floats, ranks: int) -> Ints:
    """Slot of every copy [layers, copies]: heaviest first, onto the least loaded rank with a free slot."""
    layers, count = weight.shape
    per = count // ranks
    order = np.argsort(-weight, axis=1, kind="stable")
    rows = np.arange(layers)
    loads, filled = np.zeros((layers, ranks)), np.zeros((layers, ranks), np.int64)
    places = np.empty((layers, count), np.int64)
    for i in range(count):
        copy = order[:, i]
        rank = loads.argmin(axis=1)  # full ranks count as infinitely loaded
        places[rows, copy] = rank * per + filled[rows, rank]
        filled[rows, rank] += 1
        loads[rows, rank] += weight[rows, copy]
        loads[rows, rank] = np.where(filled[rows, rank] == per, np.inf, loads[rows, rank])
    return places


def rank_rows(counts: Ints, plan: PlacementPlan) -> Ints:
    """Rows of every rank [..., ranks] from rows of every expert [..., experts]: copies share their expert's evenly.

    Rows stay whole and keep their sum: the first copies take what does not divide.
    """
    held = counts
    if not plan.contiguous:
        whole, rest = np.divmod(counts, plan.copies)
        held = whole[..., plan.slot_expert] + (plan.order < rest[..., plan.slot_expert])
    return np.asarray(held.reshape(*counts.shape[:-1], plan.ranks, -1).sum(axis=-1))


def rank_shares(shares: Floats, plan: PlacementPlan) -> Floats:
    """The share of every rank, [..., ranks], from that of every expert [..., experts]: divided evenly over copies."""
    held = shares if plan.contiguous else (shares / plan.copies)[..., plan.slot_expert]
    return np.asarray(held.reshape(*shares.shape[:-1], plan.ranks, -1).sum(axis=-1))
