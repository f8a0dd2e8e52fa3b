"""Wires over time: never fuller than full, what they carry is what transfers move, only where a step was recorded."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from moesim.hwmodels.wires import OWN_WIRES, WIRES
from moesim.sim.clock.plan import ScriptRun, Send
from moesim.sim.train.beside import _uplink_use
from moesim.sim.train.predict import predict_train
from moesim.sim.train.step import StepResult
from moesim.sim.train.wire_use import _wire_of, stretches, wire_use

BUSY: dict[str, Any] = {  # experts across hosts, sends and reductions beside them: NICs are shared
    "model": {"base": "mixtral-8x7b", "layers": 8},
    "cluster": {"node": "dgx-h100", "gpus": 64},
    "layout": {"pp": 2, "vpp": 2, "ep": 8, "tp": 2, "schedule": "interleaved"},
    "train": {"global_batch": 64, "seq_len": 2048},
    "routing": "balanced",
}


def recorded(**changes: Any) -> StepResult:
    return predict_train({**BUSY, **changes}, record=True).step


def carried(step: StepResult) -> dict[tuple[int, str], float]:
    """Seconds at full rate on every wire, from the transfers themselves."""
    plan, total = step.timeline.program, dict[tuple[int, str], float]()
    for item, number, start, end in step.pieces:
        slot = plan.items[item]
        assert isinstance(slot, ScriptRun)
        for wire, share in slot.script.pieces[number].loads if end > start else ():
            key = (plan.lane_of[item].rank, WIRES[wire])
            total[key] = total.get(key, 0.0) + share * slot.script.pieces[number].seconds
    for send in plan.items:
        for link, share in send.loads if isinstance(send, Send) else ():
            key = (link // len(WIRES), WIRES[link % len(WIRES)])
            assert isinstance(send, Send) and isinstance(send.seconds, float)
            total[key] = total.get(key, 0.0) + share * send.seconds
    return total


def test_wires_carry_what_transfers_move_and_are_never_fuller_than_full() -> None:
    step = recorded()
    use = wire_use(step)
    assert {wire for _, wire in use} == set(OWN_WIRES)
    assert any(share > 0.999 for rows in use.values() for _, share in rows)  # somebody had to share
    for key, seconds in carried(step).items():
        rows = use[key]
        assert sum(share * (b - a) for (a, share), (b, _) in pairwise(rows)) == pytest.approx(seconds, rel=1e-6)
        assert max(share for _, share in rows) <= 1.0 + 1e-9 and rows[-1][1] == 0.0
        assert all(b > a for (a, _), (b, _) in pairwise(rows))


def test_where_gpus_differ_wires_are_never_fuller_than_full() -> None:
    use = wire_use(recorded(routing={"lognormal": 0.6, "seed": 3}, jitter=0.05))
    assert use and all(0.0 <= share <= 1.0 + 1e-9 for rows in use.values() for _, share in rows)


def test_pieces_lie_inside_their_slots_and_change_nothing() -> None:
    step = recorded()
    assert list(stretches(step))
    for item, _, start, end in step.pieces:
        assert step.timeline.start_s[item] <= start <= end <= step.timeline.end_s[item] + 1e-12
    plain = predict_train(BUSY).step
    assert plain.pieces == [] and not list(stretches(plain))
    assert plain.timeline.end_s == step.timeline.end_s and plain.breakdown_s == step.breakdown_s


def test_uplinks_are_numbered_below_zero_and_wires_of_ranks_from_zero_on() -> None:
    assert [_wire_of(link) for link in (-1, -2, -9)] == [(0, "uplink"), (1, "uplink"), (8, "uplink")]
    assert [_wire_of(link) for link in (0, len(WIRES), 2 * len(WIRES) + 1)] == [
        (0, WIRES[0]),
        (1, WIRES[0]),
        (2, WIRES[1]),
    ]


def test_a_link_of_a_gpu_is_no_uplink() -> None:
    """Shares of uplinks of jobs beside each other: numbers below zero are uplinks, wires of GPUs begin at zero."""
    ran: Any = [SimpleNamespace(seconds=2.0, carried_s={-1: 0.5, 0: 1.0, 3: 0.25}),
                SimpleNamespace(seconds=2.0, carried_s={-1: 0.1, -2: 1.0, 0: 1.0})]  # fmt: skip
    jobs: Any = [None, None]
    assert _uplink_use(jobs, {1: ran}) == {-1: [0.0, pytest.approx(0.15)], -2: [0.0, pytest.approx(0.25)]}
