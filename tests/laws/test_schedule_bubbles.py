"""Pipeline schedules with equal stages have the bubbles of their papers, to the last bit (whole-number durations)."""

from __future__ import annotations

from collections import Counter

import pytest
from checks import busy_s, check_timeline
from hypothesis import given
from hypothesis import strategies as st
from oracles import bubble_gpipe, bubble_interleaved, constant_plan, seconds_of, walk

from moesim.sim.clock.plan import Lane
from moesim.sim.layout.pipeline import Slot, in_flight, orders

FORWARD, INPUT, WEIGHT = 1.0, 1.0, 1.0
WORK = FORWARD + INPUT + WEIGHT


def _duration(slot: Slot, scale: float = 1.0) -> float:
    whole = {"F": FORWARD, "B": INPUT + WEIGHT, "I": INPUT, "W": WEIGHT, "FB": WORK}[slot.phase]
    return whole * scale


def _makespan(schedule: str, pp: int, vpp: int, micro_batches: int) -> float:
    plan = orders(schedule, pp, vpp, micro_batches)
    program = constant_plan(plan, pp * vpp, _duration)
    timeline = walk(program)
    check_timeline(timeline)
    assert timeline.end_s == walk(program, events=False).end_s
    return timeline.makespan_s


@given(pp=st.integers(1, 9), micro_batches=st.integers(1, 24), schedule=st.sampled_from(["gpipe", "1f1b"]))
def test_gpipe_and_1f1b_idle_p_minus_1_over_m_plus_p_minus_1(pp: int, micro_batches: int, schedule: str) -> None:
    makespan = _makespan(schedule, pp, 1, micro_batches)
    assert makespan == (micro_batches + pp - 1) * WORK
    assert 1.0 - micro_batches * WORK / makespan == pytest.approx(bubble_gpipe(pp, micro_batches))


@given(pp=st.integers(2, 6), vpp=st.integers(2, 5), extra=st.integers(0, 20))
def test_interleaved_idles_p_minus_1_over_v_m(pp: int, vpp: int, extra: int) -> None:
    """Also where pp does not divide the micro-batches."""
    micro_batches = pp + extra
    useful = micro_batches * vpp * WORK
    makespan = _makespan("interleaved", pp, vpp, micro_batches)
    assert makespan / useful - 1.0 == pytest.approx(bubble_interleaved(pp, vpp, micro_batches))


@given(pp=st.integers(2, 8), extra=st.integers(0, 12))
def test_zb_h1_idles_a_third_of_1f1b(pp: int, extra: int) -> None:
    """Qi et al. 2024: the bubble shrinks from (p-1)(F+B+W) to (p-1)(F+B-W)."""
    micro_batches = 2 * pp + extra
    idle = _makespan("zb-h1", pp, 1, micro_batches) - micro_batches * WORK
    plain = _makespan("1f1b", pp, 1, micro_batches) - micro_batches * WORK
    assert plain == (pp - 1) * WORK
    assert idle == (pp - 1) * (FORWARD + INPUT - WEIGHT)


@given(half=st.integers(1, 5), extra=st.integers(0, 6))
def test_dualpipe_is_no_slower_than_1f1b_and_complete(half: int, extra: int) -> None:
    pp = 2 * half
    micro_batches = 2 * pp + 2 * extra
    dual = _makespan("dualpipe", pp, 1, micro_batches)
    assert micro_batches * WORK <= dual <= _makespan("1f1b", pp, 1, micro_batches)


@given(
    schedule=st.sampled_from(["gpipe", "1f1b", "interleaved", "zb-h1", "dualpipe"]),
    half=st.integers(1, 4),
    vpp=st.integers(1, 4),
    count=st.integers(1, 16),
)
def test_every_micro_batch_runs_once_on_every_stage(schedule: str, half: int, vpp: int, count: int) -> None:
    pp = 2 * half
    vpp = vpp if schedule == "interleaved" else 1
    micro_batches = 2 * pp + 2 * count if schedule == "dualpipe" else count
    assert _makespan(schedule, pp, vpp, micro_batches) >= micro_batches * vpp * WORK  # and no deadlock
    phases: Counter[tuple[str, int, int]] = Counter()
    for order in orders(schedule, pp, vpp, micro_batches):
        for slot in order:
            for phase in {"FB": "F", "B": "IW"}.get(slot.phase, slot.phase):
                phases[phase, slot.micro_batch, slot.stage] += 1
            if slot.phase == "FB":
                phases["I", slot.micro_batch_b, slot.stage_b] += 1
                phases["W", slot.micro_batch_b, slot.stage_b] += 1
    expected = {(p, m, s): 1 for p in "FIW" for m in range(micro_batches) for s in range(pp * vpp)}
    assert phases == expected


@given(pp=st.integers(1, 8), count=st.integers(1, 20))
def test_activations_in_flight(pp: int, count: int) -> None:
    for rank, order in enumerate(orders("gpipe", pp, 1, count)):
        assert in_flight(order) == {rank: count}
    for schedule in ("1f1b", "zb-h1"):
        for rank, order in enumerate(orders(schedule, pp, 1, count)):
            assert sum(in_flight(order).values()) == min(count, pp - rank)


@given(half=st.integers(1, 5), extra=st.integers(0, 6))
def test_dualpipe_holds_at_most_one_micro_batch_more_than_it_has_ranks(half: int, extra: int) -> None:
    """DeepSeek-V3 report, table 2: activations of p + 1 micro-batches, whatever the rank."""
    pp = 2 * half
    for order in orders("dualpipe", pp, 1, 2 * pp + 2 * extra):
        assert sum(in_flight(order).values()) <= pp + 1


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb-h1", "dualpipe"])
def test_makespan_lies_between_busiest_rank_and_serial_run(schedule: str) -> None:
    plan = orders(schedule, 4, 1, 12)
    program = constant_plan(plan, 4, lambda s: _duration(s, 0.1 + 0.01 * s.stage), send_s=0.05)
    timeline = walk(program)
    busiest = max(busy_s(timeline, Lane(rank, "compute")) for rank in range(4))
    assert busiest <= timeline.makespan_s <= sum(seconds_of(program, item) for item in range(len(program)))
