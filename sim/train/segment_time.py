"""Price a segment: when each op runs, how long the segment blocks its rank, and what the time was spent on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from moesim.hwmodels.cost import CostModel
from moesim.sim.layers.graph import STREAMS, HostBlock, Op, Segment
from moesim.sim.train.shared_wires import shared_seconds


@dataclass(frozen=True, slots=True)
class BackgroundOp:
    """A transfer that may outlast its segment: ready `ready_s` after the segment starts, then `duration_s` long."""

    name: str
    ready_s: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class SegmentTime:
    """A priced segment. `by_category` sums to `duration_s`; `by_source` counts the same seconds by evidence."""

    duration_s: float
    host_s: float
    by_category: dict[str, float]
    by_source: dict[str, float]
    variance_s2: float
    background: tuple[BackgroundOp, ...] = ()
    op_times: tuple[tuple[float, float], ...] = field(default=(), repr=False)  # (start, end) of every op
    stalls: dict[int, float] = field(
        default_factory=dict, repr=False
    )  # seconds that the CPU holds up compute after an op


def price(segment: Segment, model: CostModel, gap_s: float, slowdown: dict[str, float] | None = None) -> SegmentTime:
    """Run the segment alone: every stream in program order, ops wait for `after`.

    `slowdown` multiplies op times per stream (communication and compute that run beside each other slow down);
    transfers that meet on a wire share it.
    Seconds in which compute waits are booked under the category of what it waits for.
    """
    factor = slowdown or {}
    costs = [model.cost(op.work) for op in segment.ops]
    alone = [
        cost.time_s * op.scale * factor.get(op.stream, 1.0) + (gap_s * op.kernels if op.stream == "compute" else 0.0)
        for op, cost in zip(segment.ops, costs, strict=True)
    ]
    free = dict.fromkeys(STREAMS, 0.0)
    start, end = [0.0] * len(segment.ops), [0.0] * len(segment.ops)
    spent: dict[str, float] = {}
    sources: dict[str, float] = {}
    variance = 0.0
    last_comm = ""
    block_of = {b.last: b for b in segment.blocks}
    stalls: dict[int, float] = {}
    for i, (op, cost, seconds) in enumerate(zip(segment.ops, costs, shared_seconds(segment, alone), strict=True)):
        begin, blocker = free[op.stream], -1
        for j in op.after:
            if end[j] > begin:
                begin, blocker = end[j], j
        if op.stream == "compute":
            if blocker >= 0:
                waited = segment.ops[blocker].category
                spent[waited] = spent.get(waited, 0.0) + begin - free["compute"]
            spent[op.category] = spent.get(op.category, 0.0) + seconds
            sources[cost.source] = sources.get(cost.source, 0.0) + seconds
            variance += (cost.spread * seconds) ** 2
        elif op.stream == "comm":
            last_comm = op.category
        start[i], end[i] = begin, begin + seconds
        free[op.stream] = end[i]
        block = block_of.get(i)
        if block is not None:  # the CPU was slower than the GPU: the next op cannot have been issued yet
            stall = start[block.first] + block.host_s - free["compute"]
            if stall > 0.0:
                stalls[i] = stall
                free["compute"] += stall
                spent["host"] = spent.get("host", 0.0) + stall
    duration = max(free["compute"], free["comm"])
    if free["comm"] > free["compute"]:
        spent[last_comm] = spent.get(last_comm, 0.0) + free["comm"] - free["compute"]
    return SegmentTime(
        duration,
        segment.host_s,
        spent,
        sources,
        variance,
        _background(segment, start, end),
        tuple(zip(start, end, strict=True)),
        stalls,
    )


def _background(segment: Segment, start: list[float], end: list[float]) -> tuple[BackgroundOp, ...]:
    """Reductions on the dp stream; everything else is waited for inside the segment."""
    found = []
    for i, op in enumerate(segment.ops):
        if op.stream == "dp":
            ready = max((end[j] for j in op.after), default=0.0)
            found.append(BackgroundOp(op.name, ready, end[i] - start[i]))
    return tuple(found)


def merge(forward: Segment, backward: Segment) -> Segment:
    """Run two segments beside each other on one rank: their transfers alternate with each other's compute.

    Each keeps its own order; blocks between transfers take turns on the compute stream, so that while one
    micro-batch waits for its tokens the other computes (DualPipe, two-batch and 1F1B all-to-all overlap). Stretches
    in which the CPU synchronises keep their own ops as ends; the other segment's ops in between only help them.
    """
    threads = [_turns(forward), _turns(backward)]
    ops: list[Op] = []
    where: list[dict[int, int]] = [{}, {}]
    cursors = [0, 0]
    while any(cursors[t] < len(threads[t]) for t in (0, 1)):
        share = [cursors[t] / len(threads[t]) if threads[t] else 1.0 for t in (0, 1)]
        thread = 0 if share[0] <= share[1] and cursors[0] < len(threads[0]) else 1
        if cursors[thread] >= len(threads[thread]):
            thread = 1 - thread
        for index, op in threads[thread][cursors[thread]]:
            ops.append(replace(op, after=tuple(where[thread][j] for j in op.after)))
            where[thread][index] = len(ops) - 1
        cursors[thread] += 1
    blocks = tuple(
        HostBlock(where[t][b.first], where[t][b.last], b.host_s)
        for t, segment in enumerate((forward, backward))
        for b in segment.blocks
    )
    return Segment(f"{forward.name}+{backward.name}", tuple(ops), forward.host_s + backward.host_s, blocks)


def _turns(segment: Segment) -> list[list[tuple[int, Op]]]:
    """Ops cut after every transfer on the comm stream."""
    blocks: list[list[tuple[int, Op]]] = [[]]
    for index, op in enumerate(segment.ops):
        blocks[-1].append((index, op))
        if op.stream == "comm":
            blocks.append([])
    return [b for b in blocks if b]
