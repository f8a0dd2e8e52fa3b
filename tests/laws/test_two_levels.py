"""Exchanges in two stages (Tutel's 2DH): what each stage travels on, what it must carry, and when it pays."""

from __future__ import annotations

import pytest

from moesim.hwmodels.wires import wire_seconds
from moesim.hwmodels.work import ExpertExchange
from moesim.sim.layout.layout import BadLayout
from moesim.sim.layout.pipeline import Slot
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.software.dispatchers import dispatcher_named
from moesim.sim.train.job import resolve
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import simulate_step
from moesim.sim.train.wire_use import stretches


def _prices(dispatcher: str, gpus: int = 64, model: str = "qwen3-235b-a22b") -> StepPrices:
    scenario = {
        "model": model,
        "cluster": {"node": "dgx-h100", "gpus": gpus},
        "layout": {"ep": gpus, "zero": 1},
        "train": {"global_batch": 2 * gpus, "seq_len": 4096, "recompute": "full"},
        "stack": {"name": "megatron-core", "dispatcher": dispatcher},
        "routing": "balanced",
    }
    resolved = resolve(parse_scenario(scenario))
    return StepPrices(resolved.job, resolved.kernels, resolved.tuning())


def _exchanges(prices: StepPrices) -> dict[str, ExpertExchange]:
    ops = prices.segment(Slot("F", 0, 0)).ops
    return {op.name.partition(".moe.")[2] or op.name: op.work for op in ops if isinstance(op.work, ExpertExchange)}


def test_each_stage_has_its_own_wire_and_the_network_carries_as_much() -> None:
    plain, staged = _prices("alltoall"), _prices("two-level")
    cluster = plain.job.cluster
    whole = [wire_seconds(work, cluster) for work in _exchanges(plain).values()]
    parts = {name: wire_seconds(work, cluster) for name, work in _exchanges(staged).items()}
    assert len(parts) == 2 * len({n.rpartition(".")[0] for n in parts})
    assert all(set(wires) == {"link" if name.endswith("inside") else "nic"} for name, wires in parts.items())
    far = {round(w["nic"], 9) for w in parts.values() if "nic" in w}
    assert far == {round(w["nic"], 9) for w in whole}


@pytest.mark.parametrize(("way", "order"), [("dispatch", ("inside", "between")), ("combine", ("between", "inside"))])
def test_stages_follow_each_other_and_the_timeline_shows_them(way: str, order: tuple[str, str]) -> None:
    """There from the host outwards, back from the network inwards; in the forward."""
    prices = _prices("two-level")
    seen = [s for s in stretches(simulate_step(prices, events=False, exact=True, record=True)) if way in s.name]
    first, second = ([s for s in seen if s.name.endswith(part)] for part in order)
    assert len(first) == len(second) > 0
    forward = zip(first[:10], second[:10], strict=True)
    assert all(a.end_s <= b.start_s + 1e-12 for a, b in forward)


def test_two_stages_pay_where_peers_are_many() -> None:
    gains = []
    for ep in (16, 64, 256):
        plain, staged = (
            simulate_step(_prices(d, ep, model="deepseek-v3"), events=False).step_time_s
            for d in ("alltoall", "two-level")
        )
        gains.append(plain / staged)
    assert gains == sorted(gains) and gains[0] < 1.0 < gains[-1]


def test_one_host_needs_no_second_stage() -> None:
    plain, staged = (simulate_step(_prices(d, 8), events=False).step_time_s for d in ("alltoall", "two-level"))
    assert plain == staged


def test_hosts_that_hold_unequal_numbers_are_refused() -> None:
    with pytest.raises(BadLayout, match="two-level sends over rails"):
        _odd().segment(Slot("F", 0, 0))


def _odd() -> StepPrices:
    scenario = {
        "model": "qwen3-235b-a22b",
        "cluster": {"node": "dgx-h100", "gpus": 64, "gpus_per_node": 6},
        "layout": {"ep": 64, "zero": 1},
        "train": {"global_batch": 64, "seq_len": 4096},
        "stack": {"name": "megatron-core", "dispatcher": "two-level"},
        "routing": "balanced",
    }
    resolved = resolve(parse_scenario(scenario))
    return StepPrices(resolved.job, resolved.kernels, resolved.tuning())


def test_people_spell_it_in_many_ways() -> None:
    assert {dispatcher_named(word) for word in ("2DH", "Tutel", "hierarchical", "two-level")} == {"two-level"}
