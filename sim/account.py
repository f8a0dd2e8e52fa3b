"""Book every second of a simulated step: categories average over pipeline ranks and sum to the step time."""

from __future__ import annotations

from math import log2
from typing import TYPE_CHECKING

from sim.pipeline import Slot
from sim.program import Lane
from sim.segment_time import SegmentTime
from sim.step_result import StepResult
from sim.timeline import Timeline

if TYPE_CHECKING:
    from sim.train import StepSimulator


def account(
    sim: StepSimulator, timeline: Timeline, slots: dict[int, Slot], times: dict[int, SegmentTime]
) -> StepResult:
    """Book every second of every rank, average over ranks, add the end of the step."""
    job = sim.job
    ranks = range(job.layout.pp)
    body = timeline.makespan_s
    spent: dict[str, float] = {}
    sources: dict[str, float] = {}
    variance = 0.0
    share = 1.0 / job.layout.pp
    for rank in ranks:
        _account_rank(timeline, rank, times, spent, share)
        for item in timeline.program.lanes[Lane(rank, "compute")]:
            for source, seconds in times[item].by_source.items():
                sources[source] = sources.get(source, 0.0) + seconds * share
            variance += times[item].variance_s2 * share
    tail = {
        "dp_comm": max(sim.serial_gradients_s(r) for r in ranks),
        "optimizer": 0.0 if job.offload_optimizer else max(sim.optimizer_s(r) for r in ranks),
        "offload": max(sim.offload_s(r) for r in ranks) + activation_offload_excess_s(sim, body),
        "step_constant": sim.tuning.get("step_constant_s", job.stack.name),
    }
    total = body + sum(tail.values())
    doublings = max(0.0, log2(job.cluster.gpus / 8.0))
    tail["straggler"] = total * sim.tuning.get("straggler_per_doubling", job.stack.name) * doublings
    for key, seconds in tail.items():
        spent[key] = spent.get(key, 0.0) + seconds
        sources["assumed: step overheads"] = sources.get("assumed: step overheads", 0.0) + seconds
    step = body + sum(tail.values())
    named = {f"{k[0]}{i}": v for i, (k, v) in enumerate(sim.segment_times.items())}
    return StepResult(step, spent, sources, variance, timeline, slots, named)


def activation_offload_excess_s(sim: StepSimulator, body_s: float) -> float:
    """Seconds by which moving activations out and back outlasts the step's own compute on the host link."""
    job = sim.job
    if job.offload_activations <= 0.0:
        return 0.0
    moved = max(sim.kept_activation_bytes(r) for r in range(job.layout.pp)) * job.offload_activations
    link = job.cluster.gpu.pcie_bytes_per_s * sim.tuning.get("host_link_share")
    return max(0.0, 2.0 * moved * job.micro_batches / link - body_s)


def _account_rank(
    timeline: Timeline, rank: int, times: dict[int, SegmentTime], spent: dict[str, float], share: float
) -> None:
    clock = 0.0
    program = timeline.program
    for item in program.lanes[Lane(rank, "compute")]:
        gap = timeline.start_s[item] - clock
        if gap > 0.0:
            waits = [
                (timeline.start_s if d.from_start else timeline.end_s)[d.item] + d.lag_s
                for d in program.deps[item]
                if program.lane_of[d.item].stream != "host"
            ]
            bubble = max(0.0, min(gap, max(waits, default=clock) - clock))
            spent["bubble"] = spent.get("bubble", 0.0) + bubble * share
            if gap > bubble:
                spent["host"] = spent.get("host", 0.0) + (gap - bubble) * share
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
