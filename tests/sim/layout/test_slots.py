"""Slots: every rank holds as many, copies share an expert's rows, and a fresh plan evens out what blocks do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.sim.layout.layout import BadLayout
from moesim.sim.layout.slots import (
    Placement,
    contiguous_plan,
    plan_placement,
    plan_placements,
    rank_rows,
    rank_shares,
    slots_of,
)
from moesim.traces.rng import stream
from moesim.traces.routing import Routing

LOADS = Routing(kind="lognormal", sigma=0.58, group_sigma=0.36).popularity(20, 256, 8)


def test_a_fresh_plan_with_spare_slots_is_nearly_even() -> None:
    """256 experts on 64 ranks: 2.5 of the mean in blocks, 1.4 when only placed, 1.02 with one spare slot a rank."""
    blocks = rank_shares(LOADS, contiguous_plan(256, 64)).max(axis=1).mean() * 64
    placed, spare = (
        np.mean([rank_shares(LOADS[i], plan).max() * 64 for i, plan in enumerate(plan_placements(LOADS, 64, slots))])
        for slots in (256, 320)
    )
    assert blocks == pytest.approx(2.55, abs=0.15)
    assert placed == pytest.approx(1.44, abs=0.08)
    assert spare == pytest.approx(1.02, abs=0.01)


@given(experts=st.integers(1, 40), ranks=st.integers(1, 8), extra=st.integers(0, 3), seed=st.integers(0, 1000))
def test_every_plan_holds_every_expert_and_loses_no_row(experts: int, ranks: int, extra: int, seed: int) -> None:
    slots = (-(-experts // ranks) + extra) * ranks
    rng = stream(seed, "loads")
    plan = plan_placement(rng.exponential(size=experts), ranks, slots)
    assert len(plan.slot_expert) == slots and set(plan.slot_expert.tolist()) == set(range(experts))
    assert (np.bincount(plan.slot_expert, minlength=experts) == plan.copies).all()
    for expert in range(experts):  # copies are numbered from 0
        assert sorted(plan.order[plan.slot_expert == expert]) == list(range(plan.copies[expert]))
    counts = rng.integers(0, 1000, (5, experts))
    rows = rank_rows(counts, plan)
    assert rows.shape == (5, ranks) and (rows.sum(axis=1) == counts.sum(axis=1)).all()
    assert np.allclose(rank_shares(counts.astype(float), plan), rows, atol=slots // ranks)


def test_layers_planned_together_are_planned_as_alone() -> None:
    for load, together in zip(LOADS, plan_placements(LOADS, 32, 288), strict=True):
        alone = plan_placement(load, 32, 288)
        assert (alone.slot_expert == together.slot_expert).all() and (alone.order == together.order).all()


def test_copies_go_to_the_busiest_per_copy() -> None:
    plan = plan_placement(np.array([8.0, 3.0, 2.0, 1.0]), 2, 6)
    assert plan.copies.tolist() == [3, 1, 1, 1]
    assert (
        rank_rows(np.array([8, 3, 2, 1]), plan).tolist() == [7, 7]
        or rank_rows(np.array([8, 3, 2, 1]), plan).sum() == 14
    )


def test_blocks_are_the_plan_without_a_plan() -> None:
    assert rank_rows(np.arange(8), contiguous_plan(8, 4)).tolist() == [1, 5, 9, 13]


@pytest.mark.parametrize(("spare", "would"), [(1, "256 or 320 slots"), (70, "320 or 384 slots")])
def test_slots_that_do_not_divide_are_refused(spare: int, would: str) -> None:
    with pytest.raises(BadLayout, match=would):
        slots_of(Placement(planned=True, spare_slots=spare), 256, 64)
    assert slots_of(Placement(planned=True, spare_slots=64), 256, 64) == 320


@pytest.mark.parametrize("slots", [255, 300])
def test_plans_need_slots_for_all(slots: int) -> None:
    with pytest.raises(BadLayout, match="multiple of 64"):
        plan_placement(LOADS[0], 64, slots)
