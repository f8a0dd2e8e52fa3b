"""The run of a step: its program through the clock, what follows the pipeline, and every second booked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moesim.sim.clock.engine import Lane, Timeline, recursion, run
from moesim.sim.layout.pipeline import Slot
from moesim.sim.train.end_of_step import end_of_step_s
from moesim.sim.train.exact import expand
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.program import StepProgram, step_program
from moesim.sim.train.segment_time import SegmentTime


@dataclass(frozen=True, slots=True)
class StepResult:
    """A simulated step: seconds, where they went (sums to step_time_s), and the timeline of all pipeline ranks."""

    step_time_s: float
    breakdown_s: dict[str, float]
    by_source: dict[str, float]
    timeline: Timeline
    slots: dict[int, Slot]


def simulate_step(prices: StepPrices, events: bool = True) -> StepResult:
    """Run the step; `events` uses the SimPy engine, otherwise the recursion that gives the same bits."""
    step = step_program(prices)
    timeline = run(step.program) if events else recursion(step.program)
    return _booked(prices, step, timeline)


def simulate_exact(prices: StepPrices) -> StepResult:
    """The step with every operation as an event of its own; per-slot times are read back from that run."""
    step = step_program(prices)
    segments = {item: prices.segment(slot, step.variants[item]) for item, slot in step.slots.items()}
    big, first, done = expand(step.program, segments, step.times)
    ran = run(big)
    start = [ran.start_s[first[i]] for i in range(len(step.program))]
    end = [ran.end_s[done[i]] for i in range(len(step.program))]
    return _booked(prices, step, Timeline(step.program, start, end))


def _booked(prices: StepPrices, step: StepProgram, timeline: Timeline) -> StepResult:
    return account(timeline, step.slots, step.times, end_of_step_s(prices, timeline.makespan_s))


def account(
    timeline: Timeline,
    slots: dict[int, Slot],
    times: dict[int, SegmentTime],
    tail_s: Mapping[str, float],
) -> StepResult:
    """Book every second of every rank, average over ranks, add the end of the step (`tail_s`, by category)."""
    spent: dict[str, float] = {}
    sources: dict[str, float] = {}
    ranks = timeline.ranks()
    share = 1.0 / len(ranks)
    for rank in ranks:
        _account_rank(timeline, rank, times, spent, share)
        for item in timeline.program.lanes[Lane(rank, "compute")]:
            for source, seconds in times[item].by_source.items():
                sources[source] = sources.get(source, 0.0) + seconds * share
    for key, seconds in tail_s.items():
        spent[key] = spent.get(key, 0.0) + seconds
        sources["assumed: step overheads"] = sources.get("assumed: step overheads", 0.0) + seconds
    step = timeline.makespan_s + sum(tail_s.values())
    return StepResult(step, spent, sources, timeline, slots)


_WAITS = {"compute": "bubble", "dp": "dp_comm", "host": "host"}  # what an idle compute lane waited for, by lane


def _waits(timeline: Timeline, item: int, clock: float) -> dict[str, float]:
    """The idle seconds before `item`: each stretch belongs to what was still awaited, pipeline neighbours first."""
    program, start = timeline.program, timeline.start_s[item]
    until = dict.fromkeys(_WAITS, clock)
    for dep in program.deps[item]:
        ready = (timeline.start_s if dep.from_start else timeline.end_s)[dep.item] + dep.lag_s
        stream = program.lane_of[dep.item].stream
        until[stream] = max(until[stream], min(start, ready))
    waits, done = {}, clock
    for stream, category in _WAITS.items():
        waits[category] = max(0.0, until[stream] - done)
        done = max(done, until[stream])
    waits["host"] += start - done
    return waits


def _account_rank(
    timeline: Timeline, rank: int, times: dict[int, SegmentTime], spent: dict[str, float], share: float
) -> None:
    clock = 0.0
    program = timeline.program
    for item in program.lanes[Lane(rank, "compute")]:
        gap = timeline.start_s[item] - clock
        if gap > 0.0:
            for category, seconds in _waits(timeline, item, clock).items():
                spent[category] = spent.get(category, 0.0) + seconds * share
        for category, seconds in times[item].by_category.items():
            spent[category] = spent.get(category, 0.0) + seconds * share
        clock = timeline.end_s[item]
    host_end = max(clock, timeline.lane_end_s(Lane(rank, "host")))
    dp_end = max(host_end, timeline.lane_end_s(Lane(rank, "dp")))
    for category, seconds in (
        ("host", host_end - clock),
        ("dp_comm", dp_end - host_end),
        ("bubble", timeline.makespan_s - dp_end),
    ):
        spent[category] = spent.get(category, 0.0) + seconds * share
