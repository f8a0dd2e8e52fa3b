"""Book every second of a simulated step: categories average over pipeline ranks and sum to the step time."""

from __future__ import annotations

from collections.abc import Mapping

from moesim.sim.clock.program import Lane
from moesim.sim.clock.timeline import Timeline
from moesim.sim.layout.pipeline import Slot
from moesim.sim.train.result import StepResult
from moesim.sim.train.segment_time import SegmentTime


def account(
    timeline: Timeline,
    slots: dict[int, Slot],
    times: dict[int, SegmentTime],
    tail_s: Mapping[str, float],
    named: dict[str, SegmentTime],
) -> StepResult:
    """Book every second of every rank, average over ranks, add the end of the step (`tail_s`, by category)."""
    spent: dict[str, float] = {}
    sources: dict[str, float] = {}
    variance = 0.0
    ranks = timeline.ranks()
    share = 1.0 / len(ranks)
    for rank in ranks:
        _account_rank(timeline, rank, times, spent, share)
        for item in timeline.program.lanes[Lane(rank, "compute")]:
            for source, seconds in times[item].by_source.items():
                sources[source] = sources.get(source, 0.0) + seconds * share
            variance += times[item].variance_s2 * share
    for key, seconds in tail_s.items():
        spent[key] = spent.get(key, 0.0) + seconds
        sources["assumed: step overheads"] = sources.get("assumed: step overheads", 0.0) + seconds
    step = timeline.makespan_s + sum(tail_s.values())
    return StepResult(step, spent, sources, variance, timeline, slots, named)


_WAITS = {"compute": "bubble", "dp": "dp_comm", "host": "host"}  # what an idle compute lane waited for, by lane


def _waits(timeline: Timeline, item: int, clock: float) -> dict[str, float]:
    """The idle seconds before `item`: each stretch belongs to what was still awaited, pipeline neighbours first."""
    program, start = timeline.program, timeline.start_s[item]
    until = dict.fromkeys(_WAITS, clock)
    for dep in program.deps[item]:
        ready = (timeline.start_s if dep.from_start else timeline.end_s)[dep.item] + dep.lag_s
        stream = program.lane_of[dep.item].stream
        until[stream] = max(until[stream], min(start, ready))
    found, done = {}, clock
    for stream, category in _WAITS.items():
        found[category] = max(0.0, until[stream] - done)
        done = max(done, until[stream])
    found["host"] += start - done
    return found


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
