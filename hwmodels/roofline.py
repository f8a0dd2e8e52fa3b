"""The floor under every kernel: FLOPs at peak, bytes at full HBM bandwidth; nothing runs faster."""

from __future__ import annotations

from moesim.hwmodels.gpu import GpuSpec
from moesim.hwmodels.work import Attention, Gemm, GroupedGemm, Stream

Computation = Gemm | GroupedGemm | Attention | Stream


def compute_floor_s(work: Computation, gpu: GpuSpec) -> float:
    """FLOPs over the peak of the work's dtype; 0 for memory-bound streams."""
    if isinstance(work, Stream):
        return 0.0
    return work.flops / gpu.peak(work.dtype)


def memory_floor_s(work: Computation, gpu: GpuSpec) -> float:
    """Bytes over HBM bandwidth; operands that fit the L2 cache together are taken as resident."""
    if not isinstance(work, Stream) and work.bytes < gpu.l2_bytes:
        return 0.0
    return work.bytes / gpu.hbm_bytes_per_s


def floor_s(work: Computation, gpu: GpuSpec) -> float:
    """The larger of both floors, in seconds."""
    return max(compute_floor_s(work, gpu), memory_floor_s(work, gpu))


def bound_of(work: Computation, gpu: GpuSpec) -> str:
    """ "compute" or "memory", whichever floor is higher."""
    return "compute" if compute_floor_s(work, gpu) >= memory_floor_s(work, gpu) else "memory"
