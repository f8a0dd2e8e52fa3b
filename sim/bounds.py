"""Lower bounds that no schedule beats: FLOPs at peak, weights through HBM, bytes through the NIC."""

from __future__ import annotations

from hwmodels.collectives import exchange_lower_bound_s
from hwmodels.work import ExpertExchange, Stream
from sim.graph import Segment
from sim.train import StepSimulator


def _floors(sim: StepSimulator, segment: Segment) -> tuple[float, float]:
    gpu = sim.job.cluster.gpu
    flops = nic = 0.0
    for op in segment.ops:
        if isinstance(op.work, ExpertExchange):
            nic += exchange_lower_bound_s(op.work, sim.job.cluster) * op.scale
        elif op.work.flops > 0 and not isinstance(op.work, Stream):
            flops += op.work.flops / gpu.peak(op.work.dtype)  # type: ignore[union-attr]  # only compute has flops
    return flops, nic


def lower_bounds_s(sim: StepSimulator) -> dict[str, float]:
    """Seconds per step below which nothing goes, on the busiest rank: FLOPs at peak, expert bytes on the NIC."""
    best = {"flops": 0.0, "nic": 0.0}
    lay = sim.job.layout
    per_stage = {}
    for chunk in sim.chunks:
        forward = _floors(sim, sim.factory.forward(chunk))
        backward = _floors(sim, sim.factory.backward(chunk))
        per_stage[chunk.index] = (forward[0] + backward[0], forward[1] + backward[1])
    for rank in range(lay.pp):
        stages = [s for s in per_stage if s % lay.pp == rank]
        runs = float(sim.job.micro_batches)
        if lay.schedule == "dualpipe":
            stages, runs = [rank, lay.pp - 1 - rank], runs / 2
        flops = sum(per_stage[s][0] for s in stages) * runs
        nic = sum(per_stage[s][1] for s in stages) * runs
        best = {"flops": max(best["flops"], flops), "nic": max(best["nic"], nic)}
    return best
