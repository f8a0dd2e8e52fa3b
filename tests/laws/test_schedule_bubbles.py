"""Pipeline schedules with equal stages have the bubbles of their papers, to the last bit (whole-number durations)."""

from __future__ import annotations

from collections import Counter

import pytest
from checks import busy_s, check_timeline
from hypothesis import given
from hypothesis import strategies as st
from oracles import bubble_gpipe, bubble_interleaved, constant_plan, seconds_of, walk

from moesim.sim.clock.plan import Lane
from moesim.sim.layout.pipeline import V_SHAPED, Slot, in_flight, orders

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


@given(pp=st.integers(2, 8), extra=st.integers(0, 24))
def test_zb_v_waits_for_its_first_micro_batch_alone(pp: int, extra: int) -> None:
    """Qi et al. 2024: no bubble from a rank's first slot to its last where F = I = W.

    The last rank starts when the first micro-batch has come down the V, p - 1 forwards of a stage (half a rank's)
    later; from then on it never idles, and no rank ends after it. 1F1B idles six times as long.
    """
    micro_batches = 2 * pp + extra
    useful = 2 * micro_batches * WORK
    plan = orders("zb-v", pp, 2, micro_batches)
    timeline = walk(constant_plan(plan, 2 * pp, _duration))
    assert timeline.makespan_s - useful == (pp - 1) * FORWARD
    for rank in range(pp):
        lane = timeline.program.lanes[Lane(rank, "compute")]
        assert timeline.end_s[lane[-1]] - timeline.start_s[lane[0]] <= useful + (pp - 1 - rank) * FORWARD
    assert _makespan("1f1b", pp, 1, micro_batches) * 2 - useful == 6 * (pp - 1) * FORWARD


@given(pp=st.integers(2, 12), extra=st.integers(0, 24))
def test_v_half_and_v_min_idle_about_a_half_and_two_thirds_of_1f1b(pp: int, extra: int) -> None:
    """The authors' table: bubbles of about p / 2m and 2p / 3m of the work, where 1F1B has p / m."""
    micro_batches = 3 * pp + extra
    plain = 6 * pp * FORWARD
    for schedule, share in (("v-half", 1 / 2), ("v-min", 2 / 3)):
        idle = _makespan(schedule, pp, 2, micro_batches) - 2 * micro_batches * WORK
        assert (pp - 1) * FORWARD <= idle <= share * plain, schedule


@pytest.mark.parametrize(("schedule", "waits"), [("zb-v", False), ("v-half", False), ("v-min", True)])
def test_unequal_parts_leave_gaps_in_every_micro_batch_of_v_min_alone(schedule: str, waits: bool) -> None:
    """The authors: V-Half has none where W + 2 I >= 2 F and W + 2 F >= 2 I; V-Min's hops leave nothing to give."""
    seconds = {"F": 1.0, "I": 1.25, "W": 0.75}
    spans = {}
    for micro_batches in (24, 48):
        plan = orders(schedule, 4, 2, micro_batches)
        spans[micro_batches] = walk(constant_plan(plan, 8, lambda slot: seconds[slot.phase])).makespan_s
    each = (spans[48] - spans[24]) / 24
    assert (each > 2.1 * WORK) if waits else (each == 2 * WORK)


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
    _runs_all_once(schedule, pp, vpp, micro_batches)


@given(schedule=st.sampled_from(V_SHAPED), pp=st.integers(2, 8), micro_batches=st.integers(1, 40))
def test_v_shapes_run_every_micro_batch_once_on_every_stage(schedule: str, pp: int, micro_batches: int) -> None:
    _runs_all_once(schedule, pp, 2, micro_batches)
    for rank, order in enumerate(orders(schedule, pp, 2, micro_batches)):
        assert {slot.stage for slot in order} == {rank, 2 * pp - 1 - rank}


def _runs_all_once(schedule: str, pp: int, vpp: int, micro_batches: int) -> None:
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
    for rank, order in enumerate(orders("1f1b", pp, 1, count)):
        assert sum(in_flight(order).values()) == min(count, pp - rank)
    for order in orders("zb-h1", pp, 1, count):  # weight gradients wait most where fewest micro-batches are ahead
        assert sum(in_flight(order).values()) == min(count, pp)


@given(pp=st.integers(2, 16), count=st.integers(1, 40))
def test_v_shapes_hold_what_their_authors_say(pp: int, count: int) -> None:
    """Micro-batches of a rank (two stages each) until their weight gradients: p, (p + 2) // 2 and (p + 4) // 3."""
    for schedule, most in (("zb-v", pp), ("v-half", (pp + 2) // 2), ("v-min", (pp + 4) // 3)):
        held = max(sum(in_flight(order).values()) / 2 for order in orders(schedule, pp, 2, count))
        assert held <= min(count, most), schedule
        assert count < 2 * pp or held == most, schedule


@given(half=st.integers(1, 5), extra=st.integers(0, 6))
def test_dualpipe_holds_at_most_one_micro_batch_more_than_it_has_ranks(half: int, extra: int) -> None:
    """DeepSeek-V3 report, table 2: activations of p + 1 micro-batches, whatever the rank, also until W."""
    pp = 2 * half
    for order in orders("dualpipe", pp, 1, 2 * pp + 2 * extra):
        assert sum(in_flight(order).values()) == pp + 1


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb-h1", "dualpipe", *V_SHAPED])
def test_makespan_lies_between_busiest_rank_and_serial_run(schedule: str) -> None:
    vpp = 2 if schedule in V_SHAPED else 1
    plan = orders(schedule, 4, vpp, 12)
    program = constant_plan(plan, 4 * vpp, lambda s: _duration(s, 0.1 + 0.01 * s.stage), send_s=0.05)
    timeline = walk(program)
    busiest = max(busy_s(timeline, Lane(rank, "compute")) for rank in range(4))
    assert busiest <= timeline.makespan_s <= sum(seconds_of(program, item) for item in range(len(program)))
