"""Replaying each distinct segment gives the same step as running every op of every micro-batch as an event."""

from __future__ import annotations

import pytest
from checks import check_timeline
from jobs import JOBS, prices_of

from moesim.sim.train.program import step_program
from moesim.sim.train.step import simulate_exact, simulate_step


@pytest.mark.parametrize("name", JOBS)
def test_replay_equals_exact(name: str) -> None:
    prices = prices_of(JOBS[name])
    replay, exact = simulate_step(prices), simulate_exact(prices)
    assert exact.step_time_s == pytest.approx(replay.step_time_s, rel=1e-9)
    assert exact.breakdown_s.keys() == replay.breakdown_s.keys()
    for category, seconds in replay.breakdown_s.items():
        assert exact.breakdown_s[category] == pytest.approx(seconds, rel=1e-9, abs=1e-9 * replay.step_time_s)


@pytest.mark.parametrize("name", JOBS)
def test_events_equal_recursion_bit_for_bit(name: str) -> None:
    prices = prices_of(JOBS[name])
    events, recursion = simulate_step(prices, events=True), simulate_step(prices, events=False)
    assert events.step_time_s == recursion.step_time_s
    assert events.timeline.start_s == recursion.timeline.start_s
    assert events.timeline.end_s == recursion.timeline.end_s
    check_timeline(events.timeline)


@pytest.mark.parametrize("name", JOBS)
def test_breakdown_sums_to_the_step(name: str) -> None:
    step = simulate_step(prices_of(JOBS[name]))
    assert sum(step.breakdown_s.values()) == pytest.approx(step.step_time_s, rel=1e-9)
    assert all(seconds >= -1e-12 for seconds in step.breakdown_s.values()), step.breakdown_s


@pytest.mark.parametrize("name", JOBS)
def test_segments_are_well_formed_and_priced_in_full(name: str) -> None:
    prices = prices_of(JOBS[name])
    step = step_program(prices)
    program, slots, times = step.program, step.slots, step.times
    for item, slot in slots.items():
        assert sum(times[item].by_category.values()) == pytest.approx(times[item].duration_s, rel=1e-9)
        assert program.durations_s[item] == times[item].duration_s
        del slot
