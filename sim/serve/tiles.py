"""Matrix kernels of few rows on a GPU with less arithmetic than the one its kernels were measured on."""

from __future__ import annotations

from dataclasses import replace

from moesim.hwmodels.cost import KernelCostModel, Sustained
from moesim.hwmodels.gpu import load_gpu
from moesim.hwmodels.kernels import FILL_TILE, Legs
from moesim.hwmodels.work import Gemm, GroupedGemm
from moesim.sim.serve.job import ServeJob


class NarrowTiles:
    """Cuts down what tiles that are mostly empty cost, where fits are derived from a GPU of more arithmetic.

    Few rows leave most of a tile empty. Where arithmetic is plenty that costs nothing; where it is not, kernels for few
    rows take narrow tiles, and what was measured there is the latency of a wave, which stays as it was.
    """

    def __init__(self, job: ServeJob) -> None:
        name = job.kernels.derived_from
        self._gpu = job.cluster.gpu
        self._base = load_gpu(name) if name else None
        self._model = None
        if self._base is not None:
            self._model = KernelCostModel(replace(job.cluster, gpu=self._base), job.kernels, Sustained())

    def legs(self, work: Gemm | GroupedGemm, legs: Legs) -> Legs:
        """The kernel taken apart: filled rows at this GPU's peak, empty ones as where they were measured."""
        if self._base is None or self._model is None or not self._base.supports(work.dtype):
            return legs
        if self._base.peak(work.dtype) <= self._gpu.peak(work.dtype):
            return legs
        filled = filled_share(work)
        empty_s = min(legs.flops_s, self._model.legs(work).flops_s)
        return replace(legs, flops_s=filled * legs.flops_s + (1.0 - filled) * empty_s)


def filled_share(work: Gemm | GroupedGemm) -> float:
    """Share of the rows of all tiles that hold something."""
    groups = (work.m,) if isinstance(work, Gemm) else tuple(r for r in work.rows if r)
    tiles = sum(-(-rows // FILL_TILE) for rows in groups)
    return float(sum(groups) / (tiles * FILL_TILE)) if tiles else 1.0
