"""Lower bounds that no schedule beats: FLOPs at peak, operands of GEMMs through HBM, expert bytes through the NIC."""

from __future__ import annotations

from moesim.hwmodels.exchange_kernels import exchange_lower_bound_s
from moesim.hwmodels.work import ExpertExchange, Gemm, GroupedGemm, Stream
from moesim.sim.layers.graph import Segment
from moesim.sim.train.simulator import StepSimulator

KINDS = ("flops", "hbm", "nic")


def _floors(sim: StepSimulator, segment: Segment) -> tuple[float, float, float]:
    """Seconds of one segment by kind of bound."""
    gpu = sim.job.cluster.gpu
    flops = hbm = nic = 0.0
    for op in segment.ops:
        if isinstance(op.work, (Gemm, GroupedGemm)):
            hbm += op.work.bytes / gpu.hbm_bytes_per_s * op.scale  # fused neighbours keep rows on the chip
        if isinstance(op.work, ExpertExchange):
            nic += exchange_lower_bound_s(op.work, sim.job.cluster) * op.scale
        elif op.work.flops > 0 and not isinstance(op.work, Stream):
            flops += op.work.flops / gpu.peak(op.work.dtype)  # type: ignore[union-attr]  # only compute has flops
    return flops, hbm, nic


def lower_bounds_s(sim: StepSimulator) -> dict[str, float]:
    """Seconds per step below which nothing goes, on the busiest rank, by kind: flops, hbm, nic."""
    best = dict.fromkeys(KINDS, 0.0)
    lay = sim.job.layout
    per_stage = {}
    for chunk in sim.chunks:
        forward = _floors(sim, sim.factory.forward(chunk))
        backward = _floors(sim, sim.factory.backward(chunk))
        per_stage[chunk.index] = [f + b for f, b in zip(forward, backward, strict=True)]
    runs = sim.job.micro_batches / (2 if lay.schedule == "dualpipe" else 1)
    for rank in range(lay.pp):
        for i, kind in enumerate(KINDS):
            best[kind] = max(best[kind], runs * sum(per_stage[c][i] for c in lay.chunks_of(rank)))
    return best
