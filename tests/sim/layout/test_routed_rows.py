"""Rows of ranks over one step: conserved and repeatable; as uneven as recorded loads, and as old plans leave them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moesim.hwmodels.cluster import build_cluster
from moesim.sim.layout.layout import BadLayout, Layout
from moesim.sim.layout.placement import expert_loads
from moesim.sim.layout.routed_rows import MicroBatches, RoutedRows, routed_rows
from moesim.sim.layout.slots import Placement
from moesim.sim.model.catalogue import load_model
from moesim.traces.routing import Routing

ARCH = load_model({"base": "deepseek-v3", "layers": 11})  # 3 dense layers, 8 of experts
BLOCKS = Placement()
RECORDED = {"kind": "lognormal", "sigma": 0.65, "group_sigma": 0.36}


def rows_of(
    routing: dict[str, Any], placement: Placement = BLOCKS, ep: int = 64, step: int = 0, **changed: Any
) -> RoutedRows:
    arch = changed.pop("arch", ARCH)
    batch = MicroBatches(**{"tokens_per_rank": 4096, "sequences_per_rank": 1.0, "count": 4, "groups": 2, **changed})
    return routed_rows(arch, Layout(gpus=128, ep=ep), Routing(**routing), placement, batch, step)


@pytest.mark.parametrize("routing", [{}, RECORDED, {**RECORDED, "topic": 0.6}, {**RECORDED, "sampling": False}])
def test_pairs_are_conserved_in_every_micro_batch_and_group(routing: dict[str, Any]) -> None:
    rows = rows_of(routing)
    assert rows.layers == tuple(range(3, 11))
    for place in rows.layers:
        layer = rows.layer(place)
        assert layer.rows.shape == (4, 2, 64) and layer.rows.dtype == np.int64
        assert (layer.rows.sum(axis=-1) == 4096 * 64 * 8).all()
        assert layer.expert_rows.sum() == 4 * 2 * 4096 * 64 * 8 and layer.dropped_share == 0.0
        assert (rows.expert_rows[place] == layer.expert_rows).all()


def test_a_layer_is_drawn_alike_whenever_it_is_asked_for() -> None:
    one, other = rows_of({**RECORDED, "topic": 0.6}), rows_of({**RECORDED, "topic": 0.6})
    backwards = {place: other.layer(place).rows for place in reversed(other.layers)}
    assert all((one.layer(place).rows == backwards[place]).all() for place in one.layers)
    later = rows_of({**RECORDED, "topic": 0.6}, step=1)
    assert all((later.layer(place).rows != backwards[place]).any() for place in one.layers)


@pytest.mark.parametrize(("ep", "busiest"), [(8, 1.64), (16, 1.82), (32, 2.16), (64, 2.76)])
def test_recorded_popularity_gives_recorded_imbalance(ep: int, busiest: float) -> None:
    """Between the least and the most uneven of 12 recorded workloads: 1.54-2.07, 1.7-2.6, 2.05-3.04, 2.6-3.8."""
    seeds = (rows_of({**RECORDED, "seed": seed}, ep=ep, count=1, groups=1) for seed in range(12))
    mean = np.mean([list(rows.imbalance.values()) for rows in seeds])
    assert mean == pytest.approx(busiest, rel=0.04)


def test_balanced_rows_are_those_of_the_folded_step() -> None:
    loads = expert_loads(ARCH, Layout(gpus=128, ep=8), build_cluster("dgx-h100", 128), Routing(), 77, None)
    rows = rows_of({}, ep=8, tokens_per_rank=77)
    for place in rows.layers:
        load = loads[place]
        assert load is not None and (rows.layer(place).rows == load.rank_rows).all()


def test_noise_of_sampling_is_small_and_that_of_topics_is_not() -> None:
    flat = {"kind": "lognormal", "sigma": 0.0}
    noise, topics = (np.mean(list(rows_of(r).imbalance.values())) for r in (flat, {**flat, "topic": 0.69}))
    assert noise == pytest.approx(1.013, abs=0.003)
    assert topics == pytest.approx(1.10, abs=0.02)  # 64 sequences a micro-batch: 9 % per expert, 4 % per rank


@pytest.mark.parametrize(
    ("drift", "age", "busiest"), [(1.0, 0, 1.02), (0.9999, 100, 1.11), (0.9995, 100, 1.26), (0.9995, 1000, 1.77)]
)
def test_an_old_plan_leaves_ranks_uneven(drift: float, age: int, busiest: float) -> None:
    placement = Placement(planned=True, spare_slots=64, plan_age_steps=age)
    routing = {"kind": "lognormal", "sigma": 0.58, "group_sigma": 0.36, "drift": drift}
    seeds = (rows_of({**routing, "seed": seed}, placement, count=1, groups=1) for seed in range(3))
    assert np.mean([list(rows.imbalance.values()) for rows in seeds]) == pytest.approx(busiest, rel=0.05)


def test_two_steps_with_one_plan_have_one_plan() -> None:
    """A plan of step 0 is the same for step 20 at age 20 and for step 50 at age 50."""
    routing = {**RECORDED, "drift": 0.999}
    plans = [rows_of(routing, Placement(planned=True, plan_age_steps=age), step=age).plans for age in (20, 50)]
    assert all((plans[0][place].slot_expert == plans[1][place].slot_expert).all() for place in plans[0])


def test_capacity_drops_what_is_over_the_limit_and_pads_what_is_under() -> None:
    free, limited = rows_of(RECORDED), rows_of(RECORDED, capacity_factor=1.25)
    limit = int(4096 * 64 * 8 * 1.25 // 256)
    for place in limited.layers:
        layer = limited.layer(place)
        assert (layer.rows == limit * 4).all()
        assert (layer.expert_rows == free.layer(place).expert_rows).all()
    assert 0.1 < limited.dropped_share < 0.4
    assert rows_of({}, capacity_factor=1.25).dropped_share == 0.0


def test_experts_that_choose_take_their_even_share() -> None:
    mixtral = load_model("mixtral-8x7b")
    assert mixtral.moe is not None
    arch = replace(mixtral, moe=replace(mixtral.moe, router="expert_choice"))
    rows = rows_of({**RECORDED, "topic": 0.6}, ep=8, arch=arch)
    assert all((rows.layer(place).rows == 4096 * 2).all() for place in rows.layers)


def test_slots_that_do_not_divide_are_refused() -> None:
    with pytest.raises(BadLayout, match="256 or 320 slots"):
        rows_of(RECORDED, Placement(planned=True, spare_slots=1))


def test_a_dense_model_has_no_rows() -> None:
    rows = rows_of(RECORDED, arch=load_model("llama-3.1-8b"))
    assert rows.layers == () and rows.dropped_share == 0.0
