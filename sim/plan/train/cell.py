"""Cells: what all candidates with equal widths, micro-batch and recompute share, per layer: bytes, then seconds.

Every kind of layer is sized and priced once. What a virtual stage holds or takes is then a difference of two running
sums, which is why thousands of pipelines are judged in a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from moesim.hwmodels.cost import CostModel
from moesim.hwmodels.profile import Profile
from moesim.sim.layers.graph import Segment
from moesim.sim.layout.layout import Chunk
from moesim.sim.plan.train.pipe import Floats
from moesim.sim.software.stack import Tuning
from moesim.sim.train.end_of_step import optimizer_seconds_per_param
from moesim.sim.train.job import TrainJob
from moesim.sim.train.memory import fullest_expert_rank, layer_bytes
from moesim.sim.train.prices import StepPrices

Spent = tuple[float, float, float, float]  # seconds: compute forward and backward, transfers forward and backward


@dataclass(frozen=True, slots=True)
class Sizes:
    """Running sums over the layers (entry i: layers before i), and what the ends of the model add. One GPU's share."""

    activation_bytes: Floats
    dense_params: Floats
    expert_params: Floats
    table_params: float  # of the embedding, and of the head again
    mtp_dense_params: float
    mtp_expert_params: float


@dataclass(frozen=True, slots=True)
class Prices:
    """Running sums of seconds per micro-batch: compute forward and backward; transfers on a stream of their own."""

    forward_s: Floats
    backward_s: Floats
    sent_forward_s: Floats
    sent_backward_s: Floats
    embedding_s: Spent
    head_s: Spent  # with MTP modules
    optimizer_s_per_param: float


class Cell:
    """One simulator without a pipeline, from which sizes and prices of a cell are read; prices on demand."""

    def __init__(self, job: TrainJob, profile: Profile, tuning: Tuning, model: CostModel) -> None:
        job = replace(job, layout=replace(job.layout, pp=1, vpp=1))
        self._step_prices = StepPrices(job, profile, tuning, model=model)
        self._own = job.layout.schedule == "dualpipe"  # transfers run beside another micro-batch's compute
        self._gap_s = tuning.get("kernel_gap_s", job.stack.constants_of)
        self._seen: dict[object, Spent] = {}
        self.sizes = self._sizes()
        self._prices: Prices | None = None

    @property
    def prices(self) -> Prices:
        """Seconds; priced when first asked for."""
        if self._prices is None:
            self._prices = self._price()
        return self._prices

    def _sizes(self) -> Sizes:
        prices, job = self._step_prices, self._step_prices.job
        layers = range(job.arch.num_layers)
        fullest = fullest_expert_rank(prices.loads, layers)
        params = [prices.factory.dense_and_expert_params(f"L{i}", kind) for i, kind in enumerate(job.arch.layers)]
        modules = job.arch.mtp_layers if job.mtp else 0
        mtp = prices.factory.dense_and_expert_params("mtp0", job.arch.layers[-1]) if modules else (0.0, 0.0)
        return Sizes(
            activation_bytes=_running(layer_bytes(job, prices.loads, i, fullest) for i in layers),
            dense_params=_running(p[0] for p in params),
            expert_params=_running(p[1] for p in params),
            table_params=prices.factory.dense_and_expert_params("head", None)[0],
            mtp_dense_params=mtp[0] * modules,
            mtp_expert_params=mtp[1] * modules,
        )

    def _price(self) -> Prices:
        job = self._step_prices.job
        layers = [self._spent(Chunk(0, (i,), False, False)) for i in range(job.arch.num_layers)]
        modules = job.arch.mtp_layers if job.mtp else 0
        return Prices(
            forward_s=_running(s[0] for s in layers),
            backward_s=_running(s[1] for s in layers),
            sent_forward_s=_running(s[2] for s in layers),
            sent_backward_s=_running(s[3] for s in layers),
            embedding_s=self._spent(Chunk(0, (), True, False)),
            head_s=self._spent(Chunk(0, (), False, True, modules)),
            optimizer_s_per_param=0.0 if job.offload_optimizer else optimizer_seconds_per_param(self._step_prices),
        )

    def _spent(self, chunk: Chunk) -> Spent:
        """Seconds of one part of the model, given as a chunk that holds nothing else."""
        key = self._step_prices.factory.signature(chunk)
        spent = self._seen.get(key)
        if spent is None:
            forward = self._step_prices.factory.segment("F", chunk, own_comm=self._own)
            backward = self._step_prices.factory.segment("B", chunk, own_comm=self._own)
            compute = self._busy_s(forward, "compute"), self._busy_s(backward, "compute")
            sent = (self._busy_s(forward, "comm"), self._busy_s(backward, "comm")) if self._own else (0.0, 0.0)
            spent = (*compute, *sent)
            self._seen[key] = spent
        return spent

    def _busy_s(self, segment: Segment, stream: str) -> float:
        """Seconds that a stream cannot do without: nothing to wait for, no CPU in the way."""
        cost, gap_s = self._step_prices.model.cost, self._gap_s if stream == "compute" else 0.0
        return sum(cost(op.work).time_s * op.scale + gap_s * op.kernels for op in segment.ops if op.stream == stream)


def _running(values: Iterable[float]) -> Floats:
    return np.concatenate(([0.0], np.cumsum(list(values))))
