"""The roofline of a run: what each kind of work reaches, beside what the GPU and its links could."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from moesim.hwmodels.work import Comm, ExpertExchange, Stream
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.program import step_program
from moesim.sim.train.segments import Variant


@dataclass(frozen=True, slots=True)
class PartOfRun:
    """One category on the average pipeline rank: seconds, work, and the share of the nearest limit that it reaches."""

    category: str
    busy_s: float
    flops: float
    hbm_bytes: float
    floor_share: float  # of its seconds: what FLOPs at peak and bytes at full HBM bandwidth would take
    bound: str  # compute, memory or network: what most of its seconds are nearest to

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def parts_of_run(prices: StepPrices) -> list[PartOfRun]:
    """Work of the whole step by category, longest first; transfers that run on their own stream are not counted."""
    slots = step_program(prices).slots
    counts: dict[int, int] = {}
    seen: dict[tuple[object, ...], int] = {}
    for item, slot in slots.items():
        key = (slot.phase, slot.stage, slot.stage_b)
        first = seen.setdefault(key, item)
        counts[first] = counts.get(first, 0) + 1
    totals: dict[str, list[float]] = {}
    bounds: dict[str, dict[str, float]] = {}
    for item, count in counts.items():
        for op in prices.segment(slots[item], Variant()).ops:
            if op.stream != "compute" or op.kernels == 0:
                continue
            cost, gpu = prices.model.cost(op.work), prices.job.cluster.gpu
            seconds = cost.time_s * op.scale * count / prices.job.layout.pp
            total = totals.setdefault(op.category, [0.0, 0.0, 0.0, 0.0])
            total[0] += seconds
            if not isinstance(op.work, Comm | ExpertExchange):
                flops, size = op.work.flops * count / prices.job.layout.pp, op.work.bytes * count / prices.job.layout.pp
                arithmetic = 0.0 if isinstance(op.work, Stream) else flops / gpu.peak(op.work.dtype)
                total[1], total[2] = total[1] + flops, total[2] + size
                total[3] += max(arithmetic, size / gpu.hbm_bytes_per_s)
            near = bounds.setdefault(op.category, {})
            near[cost.bound] = near.get(cost.bound, 0.0) + seconds
    parts = []
    for name, (seconds, flops, size, floor_s) in totals.items():
        nearest = max(sorted(bounds[name]), key=bounds[name].__getitem__)
        share = min(1.0, floor_s / seconds) if seconds else 0.0
        parts.append(PartOfRun(name, seconds, flops, size, share, nearest))
    return sorted(parts, key=lambda p: (-p.busy_s, p.category))
