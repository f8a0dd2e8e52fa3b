"""The run of a step: its program through the clock, what follows it, every second booked; and what no step beats."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import log2

from moesim.hwmodels.exchange_kernels import exchange_lower_bound_s
from moesim.hwmodels.wires import LEAF_WIRES, WIRES, link_of
from moesim.hwmodels.work import ExpertExchange, Gemm, GroupedGemm, Stream
from moesim.sim.clock.events import Clock, HeapClock, SimpyClock
from moesim.sim.clock.network import Loads, Network
from moesim.sim.clock.shared_links import SharedLinks
from moesim.sim.clock.timeline import Timeline
from moesim.sim.clock.walked import Walked
from moesim.sim.clock.walker import Walker
from moesim.sim.layers.graph import Segment
from moesim.sim.layout.pipeline import Slot
from moesim.sim.train.members import StageMembers, stage_members
from moesim.sim.train.offload import host_seconds_floor
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.program import StepProgram, step_program
from moesim.sim.train.segments import Variant
from moesim.sim.train.updates import optimizer_s, serial_gradients


@dataclass(frozen=True, slots=True)
class StepResult:
    """A simulated step: seconds, where they went (sums to step_time_s), and the timeline of all pipeline ranks."""

    step_time_s: float
    breakdown_s: dict[str, float]
    by_source: dict[str, float]
    timeline: Timeline
    slots: dict[int, Slot]
    variants: dict[int, Variant]
    pieces: list[tuple[int, int, float, float]] = field(default_factory=list)  # item, piece, start, end, if recorded
    common: dict[int, Loads] = field(default_factory=dict)  # links of several ranks, see `common_links`


def simulate_step(
    prices: StepPrices, events: bool = True, exact: bool = False, number: int = 0, record: bool = False
) -> StepResult:
    """Run step `number` of a run on its clock; steps differ where routing, placement or jitter are drawn.

    events: SimPy's clock; off, a bare heap that gives the same bits faster, for planners and fits.
    exact: every operation is a piece of its own, instead of joining those that nothing can come between.
    record: keep when every piece of every slot began and ended.
    """
    with no_collection():
        return _simulated(prices, events, exact, number, record)


@contextmanager
def no_collection() -> Iterator[None]:
    """Hundreds of thousands of small records and no cycles among them: looking for garbage is a quarter of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _simulated(prices: StepPrices, events: bool, exact: bool, number: int, record: bool) -> StepResult:
    step = step_program(prices, exact, stage_members(prices, number))
    clock = SimpyClock() if events else HeapClock()
    walker = step_walker(prices, step, clock, record)
    if common := common_links(prices):
        walker.join(SharedLinks(Network(clock), common))
    return booked(prices, step, walker.run())


def step_walker(prices: StepPrices, step: StepProgram, clock: Clock, record: bool = False) -> Walker:
    """One run of the program of a step."""
    members = step.members
    width, slow = (members.shape[1], members.slow) if members is not None else (1, {})
    late = {rank: factors > 1.0 for rank, factors in slow.items()}
    return Walker(step.plan, clock, prices.job.layout.pp, len(WIRES), width, late, record=record)


def common_links(prices: StepPrices) -> dict[int, Loads]:
    """Uplinks by the number that a pipeline rank knows them by: those of its leaves, and its part of each."""
    if prices.uplinks is None:
        return {}
    parts = {"uplink": prices.uplinks.over, "ring": prices.uplinks.rings}
    return {link_of(rank, wire): of_rank for wire in LEAF_WIRES for rank, of_rank in enumerate(parts[wire])}


def corrected(step: StepResult, factor: float) -> StepResult:
    """The step times a factor from own runs; the difference is booked as a category, below zero where it got faster."""
    extra = (factor - 1.0) * step.step_time_s
    sources = step.by_source | {"own runs of this deployment": abs(extra)}
    breakdown = step.breakdown_s | {"correction": extra}
    return replace(step, step_time_s=step.step_time_s + extra, breakdown_s=breakdown, by_source=sources)


def booked(prices: StepPrices, step: StepProgram, ran: Walked) -> StepResult:
    """The books averaged over ranks, and the end of the step."""
    spent: dict[str, float] = {}
    sources: dict[str, float] = {}
    share = 1.0 / prices.job.layout.pp
    for total, books in ((spent, ran.books.spent), (sources, ran.books.sources)):
        for of_rank in books:
            for key, seconds in of_rank.items():
                total[key] = total.get(key, 0.0) + seconds * share
    tail = end_of_step_s(prices, ran.makespan_s, step.members)
    for key, seconds in tail.items():
        spent[key] = spent.get(key, 0.0) + seconds
        sources["assumed: step overheads"] = sources.get("assumed: step overheads", 0.0) + seconds
    timeline = Timeline(step.plan, ran.start_s, ran.end_s)
    seconds, common = ran.makespan_s + sum(tail.values()), common_links(prices)
    return StepResult(seconds, spent, sources, timeline, step.slots, step.variants, ran.pieces, common)


def end_of_step_s(prices: StepPrices, body_s: float, members: StageMembers | None) -> dict[str, float]:
    """Seconds by category that follow the pipeline, on the slowest rank each; `body_s` is the pipeline's own time.

    `members`: what sets the GPUs of a stage apart; sums wait for the worst link, and the update for the slowest GPU.

    Where the CPU updates parameters, that and sums before it are the program's (sim/train/offload.py).
    """
    job, ranks = prices.job, range(prices.job.layout.pp)
    tail = {
        "dp_comm": 0.0 if job.offload_optimizer else max(_serial_s(prices, r, body_s, members) for r in ranks),
        "optimizer": max(optimizer_s(prices, r) * (members.slowest(r) if members is not None else 1.0) for r in ranks),
        "step_constant": prices.tuning.get("step_constant_s", job.stack.constants_of),
    }
    doublings = max(0.0, log2(job.cluster.gpus / 8.0))
    per_doubling = prices.tuning.get("straggler_per_doubling", job.stack.constants_of)
    tail["straggler"] = (body_s + sum(tail.values())) * per_doubling * doublings
    return tail


def _serial_s(prices: StepPrices, rank: int, begin_s: float, members: StageMembers | None) -> float:
    """Seconds of gradient reduction and parameter gather when nothing overlaps them, from `begin_s` of the step on."""
    total = 0.0
    for comm in serial_gradients(prices, rank):
        seconds = prices.model.cost(comm).time_s
        if members is not None and seconds > 0.0:
            used = [(WIRES.index(wire), min(1.0, s / seconds)) for wire, s in prices.wires(comm).items()]
            seconds = members.joint_s(seconds, rank, used, begin_s + total)
        total += seconds
    return total


KINDS = ("flops", "hbm", "nic")


def _floors(prices: StepPrices, segment: Segment) -> tuple[float, float, float]:
    """Seconds of one segment by kind of bound."""
    gpu = prices.job.cluster.gpu
    flops = hbm = nic = 0.0
    for op in segment.ops:
        if isinstance(op.work, (Gemm, GroupedGemm)):
            hbm += op.work.bytes / gpu.hbm_bytes_per_s * op.scale  # fused neighbours keep rows on the chip
        if isinstance(op.work, ExpertExchange):
            nic += exchange_lower_bound_s(op.work, prices.job.cluster) * op.scale
        elif op.work.flops > 0 and not isinstance(op.work, Stream):
            flops += op.work.flops / gpu.peak(op.work.dtype)  # type: ignore[union-attr]  # only compute has flops
    return flops, hbm, nic


def lower_bounds_s(prices: StepPrices) -> dict[str, float]:
    """Seconds per step below which nothing goes, on the busiest rank, by kind: flops, hbm, nic; where something is kept
    in host memory also host_link, the busier direction."""
    best = dict.fromkeys(KINDS, 0.0)
    lay = prices.job.layout
    per_stage = {}
    for chunk in prices.chunks:
        forward = _floors(prices, prices.segment(Slot("F", 0, chunk.index)))
        backward = _floors(prices, prices.segment(Slot("B", 0, chunk.index)))
        per_stage[chunk.index] = [f + b for f, b in zip(forward, backward, strict=True)]
    runs = prices.job.micro_batches / (2 if lay.schedule == "dualpipe" else 1)
    for rank in range(lay.pp):
        for i, kind in enumerate(KINDS):
            best[kind] = max(best[kind], runs * sum(per_stage[c][i] for c in lay.chunks_of(rank)))
    if prices.job.offloads:
        best["host_link"] = max(host_seconds_floor(prices, rank) for rank in range(lay.pp))
    return best
