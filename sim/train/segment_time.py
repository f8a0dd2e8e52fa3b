"""Price a segment alone: its script through the walker, how long it blocks its rank, and what the time was spent on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.wires import WIRES
from moesim.sim.clock.events import HeapClock
from moesim.sim.clock.plan import Lane, Plan, ScriptRun, piece_send
from moesim.sim.clock.script import Script
from moesim.sim.clock.walker import Walker
from moesim.sim.layers.graph import HostBlock, Op, Segment
from moesim.sim.software.stack import Stack, Tuning


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
    piece_times: tuple[tuple[float, float], ...] = field(default=(), repr=False)  # (start, end) of every piece


def add_tail(plan: Plan, slot: int, script: Script, rank: int, links: tuple[int, ...]) -> list[int]:
    """Add what may outlast a slot to its rank's dp lane; returns the items."""
    items = []
    for piece in script.tail:
        item = plan.add(Lane(rank, "dp"), piece.name, piece_send(piece, links), "dp_comm")
        for after in piece.after:
            plan.follow(item, slot, after)
        items.append(item)
    return items


def price(script: Script, host_s: float = 0.0) -> SegmentTime:
    """Run a script alone on a rank; `host_s` is what the CPU needs to issue it, running ahead."""
    plan = Plan()
    slot = plan.add(Lane(0, "compute"), script.name, ScriptRun(script), "bubble")
    tail = add_tail(plan, slot, script, 0, tuple(range(len(WIRES))))
    walker = Walker(plan, HeapClock(), 1, len(WIRES), record=True)
    ran = walker.run(close=False)
    times = {number: (start, end) for item, number, start, end in ran.pieces if item == slot}
    background = tuple(
        BackgroundOp(
            plan.labels[i], max((times[a][1] for a in piece.after), default=0.0), ran.end_s[i] - ran.start_s[i]
        )
        for i, piece in zip(tail, script.tail, strict=True)
    )
    return SegmentTime(
        ran.end_s[slot],
        host_s,
        ran.books.spent[0],
        ran.books.sources[0],
        background,
        tuple(times[i] for i in range(len(script.pieces))),
    )


def merge(forward: Segment, backward: Segment, first: int = 0) -> Segment:
    """Run two segments beside each other on one rank: their exchanges alternate with each other's compute.

    Each keeps its own order; blocks between exchanges take turns on the compute stream, so that while one
    micro-batch waits for its tokens the other computes (DualPipe, two-batch and 1F1B all-to-all overlap). Stretches
    in which the CPU synchronises keep their own ops as ends; the other segment's ops in between only help them.
    Blocks of the backward are numbered from `first` on.
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
            block = op.block + first if thread and op.block >= 0 else op.block
            ops.append(replace(op, after=tuple(where[thread][j] for j in op.after), block=block))
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


def beside_slowdown(tuning: Tuning, stack: Stack) -> float:
    """How many times as long exchanges take beside another micro-batch's compute: they reach a share of their speed."""
    return tuning.get("overlap_comm_slowdown", stack.constants_of)


def held_share(constant: str, of: str, tuning: Tuning, cluster: Cluster) -> float:
    """The share of the multiprocessors that transfers hold; `constant` says how many, `of` a dispatcher or stack."""
    held = tuning.get(constant, of)
    return held / cluster.gpu.sm_count if cluster.gpu.sm_count else 0.0


def sms_share(op: Op, tuning: Tuning, stack: Stack, cluster: Cluster) -> float:
    """The share of the multiprocessors that a transfer holds while it runs beside compute."""
    if op.category == "ep_comm":
        return held_share("exchange_sms", stack.dispatcher, tuning, cluster)
    if op.stream in ("dp", "gather"):
        return held_share("collective_sms", stack.constants_of, tuning, cluster)
    return 0.0
