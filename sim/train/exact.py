"""The step op by op: every kernel of every micro-batch is an event of its own. Slow, and equal to the replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moesim.sim.clock.engine import Dep, Lane, Program
from moesim.sim.layers.graph import Segment

if TYPE_CHECKING:
    from moesim.sim.train.segment_time import SegmentTime


def expand(
    program: Program, segments: dict[int, Segment], times: dict[int, SegmentTime]
) -> tuple[Program, dict[int, int], dict[int, int]]:
    """A program in which each compute item is replaced by its segment's ops on compute, comm and dp lanes.

    `segments` and `times` are keyed by item number of `program`. Returns the expanded program and, for every old
    item, the numbers of the new items at whose start it begins and at whose end it is done.
    """
    big = Program()
    first: dict[int, int] = {}
    done: dict[int, int] = {}
    pending: list[tuple[int, int]] = []  # (new item, old item) whose outside dependencies are linked afterwards
    for old in range(len(program)):
        lane = program.lane_of[old]
        if lane.stream == "dp" and program.deps[old]:  # part of its segment's ops, added with them
            continue
        if lane.stream != "compute":
            new = big.add(lane, program.labels[old], program.durations_s[old])
            first[old] = done[old] = new
            pending.append((new, old))
            continue
        gate = big.add(lane, program.labels[old] + ".start", 0.0)
        pending.append((gate, old))
        first[old] = gate
        done[old] = _expand_segment(big, lane, gate, segments[old], times[old])
        for follower, number in zip(_followers(program, old), _tail(big, lane, segments[old]), strict=True):
            first[follower] = done[follower] = number
    for new, old in pending:
        deps = tuple(Dep((first if d.from_start else done)[d.item], d.lag_s, d.from_start) for d in program.deps[old])
        big.set_deps(new, (*big.deps[new], *deps))
    return big, first, done


def _followers(program: Program, old: int) -> list[int]:
    """dp items that follow item `old`: they were added right behind it."""
    items = []
    for item in range(old + 1, len(program)):
        if program.lane_of[item].stream == "compute":
            break
        if program.lane_of[item].stream == "dp":
            items.append(item)
    return items


def _tail(big: Program, lane: Lane, segment: Segment) -> list[int]:
    """Numbers of the segment's background ops, just added, in program order."""
    count = sum(op.stream == "dp" for op in segment.ops)
    return big.lanes[Lane(lane.rank, "dp")][-count:] if count else []


def _expand_segment(big: Program, lane: Lane, gate: int, segment: Segment, time: SegmentTime) -> int:
    """Add the segment's ops behind `gate`; returns an item that ends when its blocking streams are done."""
    numbers: list[int] = []
    last: dict[str, int] = {}
    for index, (op, (start, end)) in enumerate(zip(segment.ops, time.op_times, strict=True)):
        deps = [Dep(numbers[j]) for j in op.after]
        if op.stream != "compute":
            deps.append(Dep(gate))
        numbers.append(big.add(Lane(lane.rank, op.stream), op.name, end - start, tuple(deps)))
        last[op.stream] = numbers[-1]
        if index in time.stalls:
            big.add(lane, "host", time.stalls[index])
    joined = tuple(Dep(last[s]) for s in ("comm", "gather") if s in last)
    return big.add(lane, segment.name + ".end", 0.0, joined)
