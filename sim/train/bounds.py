"""Lower bounds that no schedule beats: FLOPs at peak, operands of GEMMs through HBM, expert bytes through the NIC."""

from __future__ import annotations

from moesim.hwmodels.exchange_kernels import exchange_lower_bound_s
from moesim.hwmodels.work import ExpertExchange, Gemm, GroupedGemm, Stream
from moesim.sim.layers.graph import Segment
from moesim.sim.layout.pipeline import Slot
from moesim.sim.train.prices import StepPrices

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
    """Seconds per step below which nothing goes, on the busiest rank, by kind: flops, hbm, nic."""
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
    return best
