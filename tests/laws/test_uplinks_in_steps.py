"""Uplinks in a step's network: alone as the closed form, left out where they carry all, never fuller than full."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from jobs import MOE

from moesim.hwmodels.wires import WIRES
from moesim.sim.clock.events import HeapClock
from moesim.sim.clock.network import Flow, Network
from moesim.sim.clock.plan import ScriptRun, Send
from moesim.sim.clock.shared_links import SharedLinks, seen_from_network
from moesim.sim.layout.uplinks import alone_on
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.job import resolve
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.program import step_program
from moesim.sim.train.step import StepResult, common_links, simulate_step
from moesim.sim.train.wire_use import wire_use

UPLINK = WIRES.index("uplink")
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "rings over leaves": (64, {"ep": 8}),
    "parameters gathered in every layer": (64, {"ep": 8, "zero": 3}),
    "exchanges over leaves": (64, {"ep": 16, "etp": 4, "tp": 4}),
    "stages that share leaves": (64, {"pp": 4, "ep": 8}),
    "stages that end inside a leaf": (96, {"pp": 2, "ep": 8}),
    "interleaved": (64, {"pp": 2, "vpp": 2, "ep": 8, "schedule": "interleaved"}),
    "DualPipe": (64, {"pp": 4, "ep": 8, "schedule": "dualpipe"}),
}


def ask(name: str, oversubscription: float, **changes: Any) -> dict[str, Any]:
    gpus, layout = LAYOUTS[name]
    fabric = {"fabric": "fat-tree-ib-400", "oversubscription": oversubscription}
    return {
        "model": MOE,
        "cluster": {"node": "dgx-h100", "gpus": gpus, **fabric},
        "layout": layout,
        "train": {"global_batch": 16 * gpus, "seq_len": 1024},
        "routing": "balanced",
        **changes,
    }


def prices_of(scenario: dict[str, Any], forced: bool = False) -> StepPrices:
    resolved = resolve(parse_scenario(scenario))
    job = resolved.job
    if forced:
        job = replace(job, beside=alone_on(job.layout, job.cluster))
    return StepPrices(job, resolved.kernels, resolved.tuning())


def step_of(scenario: dict[str, Any], forced: bool = False) -> StepResult:
    return simulate_step(prices_of(scenario, forced), events=False)


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_transfer_alone_overfills_a_link(name: str) -> None:
    """So that alone each takes its closed form's seconds; see the next test."""
    prices = prices_of(ask(name, 8.0))
    common, plan = common_links(prices), step_program(prices, exact=True).plan
    assert common
    climbing = 0
    for number, item in enumerate(plan.items):
        first = plan.lane_of[number].rank * len(WIRES)
        pieces = [*item.script.pieces] if isinstance(item, ScriptRun) else []
        loads = [tuple((first + wire, share) for wire, share in piece.loads) for piece in pieces]
        loads += [item.loads] if isinstance(item, Send) else []
        for load in loads:
            seen = seen_from_network(load, common)
            assert all(0.0 < share <= 1.0 + 1e-12 for _, share in seen)
            climbing += any(link < 0 for link, _ in seen)
    assert climbing


def test_a_lone_transfer_over_uplinks_takes_its_seconds_to_the_last_bit() -> None:
    clock, ends = HeapClock(), list[float]()
    links = SharedLinks(Network(clock), {2: ((-1, 0.5), (-2, 1.0))}, first=6)
    clock.at(0.3, lambda: links.start(Flow(0.7, ((0, 0.9), (2, 0.8)), 1.0, lambda end_s, _: ends.append(end_s)), 0.3))
    clock.run()
    assert ends == [0.3 + 0.7]
    assert links.carried_s == {6: 0.7 * 0.9, -1: 0.7 * 0.4, -2: 0.7 * 0.8}
    # up from a leaf and down to the same one are two directions of its uplinks
    assert seen_from_network(((2, 0.8), (5, 0.4)), {2: ((-1, 0.5),), 5: ((-1, 0.75),)}) == ((-1, 0.4),)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_fabric_that_blocks_nothing_costs_nothing_and_leaving_it_out_changes_nothing(name: str) -> None:
    prices = prices_of(ask(name, 1.0))
    plan = step_program(prices, exact=True).plan
    assert prices.uplinks is None and not common_links(prices)
    for item in plan.items:
        pieces = item.script.pieces if isinstance(item, ScriptRun) else ()
        assert all(wire != UPLINK for piece in pieces for wire, _ in piece.loads)
        assert not isinstance(item, Send) or all(link % len(WIRES) != UPLINK for link, _ in item.loads)
    out, forced = simulate_step(prices, events=False), step_of(ask(name, 1.0 + 1e-13), forced=True)
    assert forced.step_time_s == pytest.approx(out.step_time_s, rel=1e-9)


def test_uplinks_with_room_for_all_that_climbs_give_the_same_bits() -> None:
    """Rings: a quarter of what NICs send climbs, so that uplinks shared four to one carry it."""
    for name in ("rings over leaves", "parameters gathered in every layer"):
        assert step_of(ask(name, 4.0)).step_time_s == step_of(ask(name, 1.0)).step_time_s
        assert step_of(ask(name, 5.0)).step_time_s > step_of(ask(name, 4.0)).step_time_s


@pytest.mark.parametrize("name", LAYOUTS)
def test_wider_uplinks_are_never_slower(name: str) -> None:
    times = [step_of(ask(name, ratio)).step_time_s for ratio in (1.0, 2.0, 4.0, 8.0, 16.0)]
    assert all(b >= a * (1 - 0.005) for a, b in pairwise(times)) and times[-1] > times[0]


@pytest.mark.parametrize("name", LAYOUTS)
def test_uplinks_are_never_fuller_than_full_and_full_at_some_time(name: str) -> None:
    use = wire_use(predict_train(ask(name, 16.0), record=True).step)
    shares = [share for (_, wire), rows in use.items() if wire == "uplink" for _, share in rows]
    assert 0.5 < max(shares) <= 1.0 + 1e-9
    assert all(share <= 1.0 + 1e-9 for rows in use.values() for _, share in rows)


def test_transfers_of_one_stage_meet_on_its_uplinks() -> None:
    """Gathers and reductions of one layer, each slowed to a share of its NIC, together fill the uplinks twice."""
    name = "parameters gathered in every layer"
    large = {"model": {"base": "mixtral-8x7b", "layers": 8}, "train": {"global_batch": 64, "seq_len": 2048}}
    prices = prices_of(ask(name, 8.0, **large))
    met = simulate_step(prices, events=False).step_time_s
    prices.uplinks = None  # the closed forms' slowdown only, each transfer as if it were alone
    prices._op_wires.clear()
    assert met > 1.05 * simulate_step(prices, events=False).step_time_s
