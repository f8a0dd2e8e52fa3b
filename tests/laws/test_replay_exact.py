"""Replaying each distinct segment gives the same step as running every op of every micro-batch as an event."""

from __future__ import annotations

import pytest
from checks import check_timeline
from jobs import JOBS, prices_of

from moesim.sim.train.program import step_program
from moesim.sim.train.scripts import compile_script
from moesim.sim.train.step import simulate_step


@pytest.mark.parametrize("name", JOBS)
def test_replay_equals_exact(name: str) -> None:
    prices = prices_of(JOBS[name])
    replay, exact = simulate_step(prices), simulate_step(prices, exact=True)
    # where members differ, contention is added to all of a piece's members alike: shorter pieces say it more finely
    close = 1e-3 if prices.varies else 1e-9
    assert exact.step_time_s == pytest.approx(replay.step_time_s, rel=close)
    for category in {*exact.breakdown_s, *replay.breakdown_s}:
        seconds = replay.breakdown_s.get(category, 0.0)
        assert exact.breakdown_s.get(category, 0.0) == pytest.approx(seconds, rel=close, abs=close * replay.step_time_s)


@pytest.mark.parametrize("name", JOBS)
def test_both_clocks_give_the_same_bits(name: str) -> None:
    prices = prices_of(JOBS[name])
    events, heap = simulate_step(prices, events=True), simulate_step(prices, events=False)
    assert events.step_time_s == heap.step_time_s
    assert events.timeline.start_s == heap.timeline.start_s
    assert events.timeline.end_s == heap.timeline.end_s
    check_timeline(events.timeline)


@pytest.mark.parametrize("name", JOBS)
def test_breakdown_sums_to_the_step(name: str) -> None:
    step = simulate_step(prices_of(JOBS[name]))
    assert sum(step.breakdown_s.values()) == pytest.approx(step.step_time_s, rel=1e-9)
    assert all(seconds >= -1e-12 for seconds in step.breakdown_s.values()), step.breakdown_s


@pytest.mark.parametrize("name", JOBS)
def test_scripts_keep_every_operation_and_all_its_seconds(name: str) -> None:
    prices = prices_of(JOBS[name])
    step = step_program(prices)
    seen = set()
    for item, slot in step.slots.items():
        key = prices.key(slot, step.variants[item])
        if key in seen:
            continue
        seen.add(key)
        segment = prices.segment(slot, step.variants[item])
        script = compile_script(segment, prices.rules(slot.phase))
        told = sorted(op for piece in (*script.pieces, *script.tail) for op in piece.ops)
        assert told == list(range(len(segment.ops)))
        for piece in script.pieces:
            assert sum(seconds for _, seconds in piece.spent) == pytest.approx(piece.seconds, rel=1e-12)
        time = prices.segment_time(slot, step.variants[item])
        assert sum(time.by_category.values()) == pytest.approx(time.duration_s, rel=1e-9)
