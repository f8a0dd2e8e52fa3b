"""Price a segment: when each op runs, how long the segment blocks its rank, and what the time was spent on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.cost import CostModel
from moesim.hwmodels.work import Comm, ExpertExchange
from moesim.sim.layers.graph import STREAMS, HostBlock, Op, Segment
from moesim.sim.software.stack import Stack, Tuning


def flows_on_wire(op: Op) -> tuple[str, int] | None:
    """The wire an op loads and its flows there: one per peer for an all-to-all, one for a ring. None for compute."""
    work = op.work
    if not isinstance(work, Comm | ExpertExchange) or (op.stream == "compute" and op.kernels == 0):
        return None  # what a hidden transfer costs compute carries no bytes of its own
    group = work.group
    far = group.domains > 1
    if isinstance(work, ExpertExchange) and work.deduplicated and far:
        flows = group.domains - 1
    elif isinstance(work, ExpertExchange) or work.kind == "all_to_all":
        flows = group.ranks - (group.fewest if far else 1)
    else:
        flows = 1
    return ("nic" if far else "link"), max(1, flows)


def _party(stream: str) -> str:
    """Whose transfers these are: the layers', or one of the streams of parameters."""
    return stream if stream in ("gather", "dp") else "layers"


def meet(segment: Segment) -> bool:
    """True when transfers of two parties may run on one wire at the same time."""
    parties: dict[str, set[str]] = {}
    for op in segment.ops:
        use = flows_on_wire(op)
        if use is not None:
            parties.setdefault(use[0], set()).add(_party(op.stream))
    return any(len(p) > 1 for p in parties.values())


@dataclass
class _Clock:
    """Where every stream stands: its queue of op numbers, the op that runs, and what is left of it."""

    segment: Segment
    left_s: list[float]
    now_s: float = 0.0
    running: dict[str, int] = field(default_factory=dict)
    start_s: dict[int, float] = field(default_factory=dict)
    end_s: dict[int, float] = field(default_factory=dict)
    held_s: dict[str, float] = field(default_factory=dict)  # a stream may not start before

    def begin(self, queues: dict[str, list[int]]) -> bool:
        """Start the first op of each idle stream that waits for nothing; True when one started."""
        started = False
        for stream, queue in queues.items():
            if queue and stream not in self.running and self.held_s.get(stream, 0.0) <= self.now_s:
                op = self.segment.ops[queue[-1]]
                if all(j in self.end_s for j in op.after):
                    self.running[stream] = queue.pop()
                    self.start_s[self.running[stream]] = self.now_s
                    started = True
        return started

    def rates(self) -> dict[str, float]:
        """Progress per second of every running op: its flows over those of all parties on its wire."""
        using = {s: flows_on_wire(self.segment.ops[i]) for s, i in self.running.items()}
        most: dict[tuple[str, str], int] = {}
        for stream, use in using.items():
            if use is not None:
                key = (use[0], _party(stream))
                most[key] = max(most.get(key, 0), use[1])
        rates = dict.fromkeys(using, 1.0)
        for stream, use in using.items():
            if use is not None:
                others = sum(n for (wire, p), n in most.items() if wire == use[0] and p != _party(stream))
                rates[stream] = use[1] / (use[1] + others)
        return rates

    def advance(self, blocks: dict[int, HostBlock]) -> None:
        """Move to the next finish, or to where the CPU lets a held stream go on."""
        rates = self.rates()
        due = {s: self.left_s[i] / rates[s] for s, i in self.running.items()}
        wake = min((t - self.now_s for t in self.held_s.values() if t > self.now_s), default=inf)
        step = min(wake, min(due.values(), default=inf))
        over = [s for s in self.running if due[s] <= step * (1 + 1e-12)]
        for stream, i in self.running.items():
            self.left_s[i] -= rates[stream] * step
        self.now_s += step
        for stream in over:
            number = self.running.pop(stream)
            self.end_s[number] = self.now_s
            if number in blocks:
                block = blocks[number]
                begun = (self.start_s[i] for i in range(block.first, block.last + 1) if i in self.start_s)
                self.held_s["compute"] = max(self.now_s, min(begun) + block.host_s)


def shared_seconds(segment: Segment, seconds: Sequence[float]) -> list[float]:
    """Seconds of every op of a segment, given those it takes alone, where its transfers meet others."""
    if not meet(segment):
        return list(seconds)
    queues = {s: [i for i, op in enumerate(segment.ops) if op.stream == s][::-1] for s in STREAMS}
    blocks = {b.last: b for b in segment.blocks}
    clock = _Clock(segment, list(seconds))
    while any(queues.values()) or clock.running:
        while clock.begin(queues):
            pass
        clock.advance(blocks)
    return [clock.end_s[i] - clock.start_s[i] for i in range(len(segment.ops))]


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
        _background(segment, start, end),
        tuple(zip(start, end, strict=True)),
        stalls,
    )


def _background(segment: Segment, start: list[float], end: list[float]) -> tuple[BackgroundOp, ...]:
    """Reductions on the dp stream; everything else is waited for inside the segment."""
    reductions = []
    for i, op in enumerate(segment.ops):
        if op.stream == "dp":
            ready = max((end[j] for j in op.after), default=0.0)
            reductions.append(BackgroundOp(op.name, ready, end[i] - start[i]))
    return tuple(reductions)


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


def beside_slowdown(tuning: Tuning, stack: Stack, cluster: Cluster) -> dict[str, float]:
    """How many times as long compute and transfers take beside each other: kernels of the exchange hold some
    multiprocessors, and reach a share of their speed alone."""
    sms, held = cluster.gpu.sm_count, tuning.get("exchange_sms", stack.dispatcher)
    compute = sms / (sms - held) if sms > held else 1.0
    return {"compute_factor": compute, "transfers_factor": tuning.get("overlap_comm_slowdown", stack.constants_of)}
