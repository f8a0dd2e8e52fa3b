"""What a candidate cannot beat: seconds of the slowest pipeline rank, and bytes of the fullest."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

import numpy as np

from moesim.hwmodels.gpu import bytes_per_element
from moesim.sim.layout.layout import Layout
from moesim.sim.plan.train.cell import Prices, Sizes
from moesim.sim.plan.train.pipe import Floats, Pipe
from moesim.sim.software.stack import Stack
from moesim.sim.train.job import TrainJob


@dataclass(frozen=True, slots=True)
class Beside:
    """How many times as long compute and transfers take while both run (DualPipe)."""

    compute_factor: float
    transfers_factor: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """Everything about the job that bounds depend on and candidates share."""

    job: TrainJob
    step_constant_s: float
    straggler_share: float  # per doubling of the GPUs
    beside: Beside

    def memory_bytes(self, layout: Layout, stack: Stack, sizes: Sizes, pipe: Pipe) -> float:
        """Weights, gradients, optimizer and kept activations of the fullest rank; buffers and logits come on top."""
        kept = pipe.kept @ np.diff(sizes.activation_bytes[pipe.starts]) * (1.0 - self.job.offload_activations)
        if self.job.lora_rank:
            return float(kept.max())  # adapters and their base are counted when the candidate is simulated
        gradient = bytes_per_element(stack.grad_dtype)
        state = 0.0 if self.job.offload_optimizer else stack.master_dtype_bytes
        total = kept
        for params, ways in zip(self._params(layout, sizes, pipe), _ways(layout), strict=True):
            weights = 2.0 / (ways if layout.zero >= 3 else 1) + gradient / (ways if layout.zero >= 2 else 1)
            total = total + params * (weights + state / (ways if layout.zero >= 1 else 1))
        return float(total.max())

    def step_s(self, layout: Layout, micro_batches: int, sizes: Sizes, prices: Prices, pipe: Pipe) -> float:
        """Pipeline, optimizer, constant part, and the stragglers that stretch all of them."""
        if layout.schedule == "dualpipe":
            seconds = _paired_s(micro_batches, prices, pipe, self.beside)
        else:
            seconds = _body_s(layout, micro_batches, prices, pipe)
        seconds += self.step_constant_s
        seconds += self._optimizer_s(layout, sizes, prices, pipe)
        return seconds * (1.0 + self.straggler_share * max(0.0, log2(self.job.cluster.gpus / 8.0)))

    def _optimizer_s(self, layout: Layout, sizes: Sizes, prices: Prices, pipe: Pipe) -> float:
        """The update of the rank that owns most parameters."""
        params, ways = self._params(layout, sizes, pipe), _ways(layout) if layout.zero >= 1 else (1, 1)
        return float((params[0] / ways[0] + params[1] / ways[1]).max()) * prices.optimizer_s_per_param

    def _params(self, layout: Layout, sizes: Sizes, pipe: Pipe) -> tuple[Floats, Floats]:
        """(dense, expert) parameters that one GPU of every pipeline rank trains."""
        dense, expert = (np.diff(p[pipe.starts]) for p in (sizes.dense_params, sizes.expert_params))
        tied = self.job.arch.tied_embeddings and layout.pp == 1
        dense[0] += sizes.table_params
        dense[-1] += (0.0 if tied else sizes.table_params) + sizes.mtp_dense_params
        expert[-1] += sizes.mtp_expert_params
        return pipe.runs @ dense, pipe.runs @ expert


def _ways(layout: Layout) -> tuple[int, int]:
    return layout.dense_shards, layout.expert_shards


def _per_stage(prices: Prices, part: int, pipe: Pipe) -> Floats:
    """Seconds of every virtual stage: compute forward (0) and backward (1), transfers forward (2) and backward (3)."""
    running = (prices.forward_s, prices.backward_s, prices.sent_forward_s, prices.sent_backward_s)[part]
    stages = np.diff(running[pipe.starts])
    stages[0] += prices.embedding_s[part]
    stages[-1] += prices.head_s[part]
    return np.asarray(stages)


def _paired_s(micro_batches: int, prices: Prices, pipe: Pipe, beside: Beside) -> float:
    """DualPipe feeds both ends: no fill is counted, but what runs beside each other slows down."""
    streams = []
    for first, slowdown in ((0, beside.compute_factor), (2, beside.transfers_factor)):
        forward, backward = (_per_stage(prices, part, pipe) for part in (first, first + 1))
        alone = pipe.runs @ (forward + backward) * (micro_batches / 2.0)
        streams.append(alone + (slowdown - 1.0) * (pipe.forwards @ forward + pipe.backwards @ backward))
    return float(np.maximum(*streams).max())


def _body_s(layout: Layout, micro_batches: int, prices: Prices, pipe: Pipe) -> float:
    """No schedule is faster: the busiest stream of the busiest rank, and what must precede and follow it.

    Before rank r can start, a micro-batch has passed the ranks before it; after its last backward, the same ranks still
    have theirs to do; under ZB-H1 weight gradients may wait.
    """
    forward, backward = (_per_stage(prices, part, pipe) for part in (0, 1))
    busy = pipe.runs @ (forward + backward)
    entry = forward[: layout.pp] + (0.0 if layout.schedule == "zb-h1" else backward[: layout.pp])
    return float((np.cumsum(entry) - entry + micro_batches * busy).max())
