"""What must hold of every timeline and every segment; an AssertionError names the first item that breaks it."""

from __future__ import annotations

from itertools import pairwise

from moesim.sim.clock.plan import Lane
from moesim.sim.clock.timeline import Timeline
from moesim.sim.layers.graph import STREAMS, Segment


def check_timeline(timeline: Timeline) -> None:
    """No lane overlaps itself and no item begins before what it waits for."""
    program = timeline.program
    for lane, items in program.lanes.items():
        for before, after in pairwise(items):
            began = f"{lane}: {program.labels[after]} began before its predecessor ended"
            assert timeline.start_s[after] >= timeline.end_s[before], began
    for item, preds in enumerate(program.preds):
        for pred in preds:
            began = f"{program.labels[item]} began before {program.labels[pred]} ended"
            assert timeline.start_s[item] >= timeline.end_s[pred], began


def check_segment(segment: Segment) -> None:
    """No op waits for itself or for a later one, a deadlock on real streams."""
    for i, op in enumerate(segment.ops):
        assert op.stream in STREAMS, f"{segment.name}: {op.name} runs on unknown stream {op.stream!r}"
        early = all(0 <= j < i for j in op.after)
        assert early, f"{segment.name}: {op.name} waits for an op that does not precede it"


def busy_s(timeline: Timeline, lane: Lane) -> float:
    """Seconds in which the lane runs an item."""
    return sum(timeline.end_s[i] - timeline.start_s[i] for i in timeline.program.lanes.get(lane, []))
