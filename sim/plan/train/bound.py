"""What a candidate cannot beat: seconds of the slowest pipeline rank, and bytes of the fullest.

Cells are what all candidates with equal widths, micro-batch and recompute share, per layer: bytes, then seconds. Every
kind of layer is sized and priced once; what a virtual stage holds or takes is then a difference of two running sums,
which is why thousands of pipelines are judged in a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import log2

import numpy as np
import numpy.typing as npt

from moesim.hwmodels.cost import CostModel
from moesim.hwmodels.gpu import bytes_per_element
from moesim.hwmodels.profile import Profile
from moesim.sim.layers.graph import Segment
from moesim.sim.layout.layout import Chunk, Layout, layers_per_chunk
from moesim.sim.layout.pipeline import SPLIT, in_flight, orders
from moesim.sim.layout.placement import ExpertLoad
from moesim.sim.model.arch import LayerKind, ModelArch
from moesim.sim.software.stack import Stack, Tuning
from moesim.sim.train.activations import fullest_expert_rank, layer_bytes
from moesim.sim.train.job import TrainJob
from moesim.sim.train.offload import host_update_seconds_per_param
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.updates import optimizer_seconds_per_param

_TURNS = 4  # of the pipeline, after which no rank holds more than before

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pipe:
    """One pipeline: layers before each virtual stage, and matrices [rank, virtual stage]."""

    starts: npt.NDArray[np.intp]
    runs: Floats  # 1 where the rank runs (and holds) the stage
    kept: Floats  # micro-batches whose activations the rank holds at its peak
    forwards: Floats  # of those that run beside another micro-batch's backward (DualPipe)
    backwards: Floats  # of those that run beside another micro-batch's forward


class Pipes:
    """Pipelines of one model, each built once."""

    def __init__(self, arch: ModelArch, mtp: bool) -> None:
        self._arch, self._mtp = arch, mtp
        self._seen: dict[tuple[str, int, int, int], Pipe] = {}

    def of(self, layout: Layout, micro_batches: int) -> Pipe:
        """The pipeline of a layout that runs `micro_batches` of them."""
        paired = layout.schedule == "dualpipe"  # whose pairs are counted; elsewhere a few turns show all there is
        count = micro_batches if paired else min(micro_batches, _TURNS * layout.pp * layout.vpp)
        key = (layout.schedule, layout.pp, layout.vpp, count)
        pipe = self._seen.get(key)
        if pipe is None:
            pipe = self._seen[key] = self._build(layout, count)
        return pipe

    def _build(self, layout: Layout, micro_batches: int) -> Pipe:
        starts = np.cumsum([0, *layers_per_chunk(self._arch, layout, self._mtp)])
        runs, kept, forwards, backwards = (np.zeros((layout.pp, layout.chunks)) for _ in range(4))
        for rank, order in enumerate(orders(layout.schedule, layout.pp, layout.vpp, micro_batches)):
            runs[rank, list(layout.chunks_of(rank))] = 1.0
            for stage, count in in_flight(order).items():
                kept[rank, stage] = count
            for slot in order:
                if slot.phase == "FB":
                    forwards[rank, slot.stage] += 1.0
                    backwards[rank, slot.stage_b] += 1.0
        return Pipe(starts, runs, kept, forwards, backwards)


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
    optimizer_s_per_param: float  # on the GPU, after the pipeline
    host_update_s_per_param: float  # by the CPU, after a stage's own last backward


class Cell:
    """One simulator without a pipeline, from which sizes and prices of a cell are read; prices on demand."""

    def __init__(self, job: TrainJob, profile: Profile, tuning: Tuning, model: CostModel) -> None:
        job = replace(job, layout=replace(job.layout, pp=1, vpp=1))
        # estimates and their bounds stand on the same rows, those that the busiest rank is expected to have
        self._step_prices = StepPrices(job, profile, tuning, model=model, drawn=False)
        self.hides = job.hides_exchanges  # exchanges run beside another micro-batch's compute
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
        fullest = fullest_expert_rank(prices.balanced, layers)
        by_kind = {kind: prices.factory.dense_and_expert_params("L0", kind) for kind in dict.fromkeys(job.arch.layers)}
        params = [by_kind[kind] for kind in job.arch.layers]
        kept: dict[tuple[LayerKind, ExpertLoad | None], float] = {}  # by kind and rows: layers of one kind keep as much
        for i in layers:
            key = (job.arch.layers[i], prices.balanced[i])
            if key not in kept:
                kept[key] = layer_bytes(job, prices.balanced, i, fullest)
        modules = job.arch.mtp_layers if job.mtp else 0
        mtp = prices.factory.dense_and_expert_params("mtp0", job.arch.layers[-1]) if modules else (0.0, 0.0)
        return Sizes(
            activation_bytes=_running(kept[(job.arch.layers[i], prices.balanced[i])] for i in layers),
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
            host_update_s_per_param=(
                host_update_seconds_per_param(self._step_prices) if job.offload_optimizer else 0.0
            ),
        )

    def _spent(self, chunk: Chunk) -> Spent:
        """Seconds of one part of the model, given as a chunk that holds nothing else."""
        key = self._step_prices.factory.signature(chunk)
        spent = self._seen.get(key)
        if spent is None:
            forward = self._step_prices.factory.segment("F", chunk, own_comm=self.hides)
            backward = self._step_prices.factory.segment("B", chunk, own_comm=self.hides)
            compute = self._busy_s(forward, "compute"), self._busy_s(backward, "compute")
            sent = (self._busy_s(forward, "comm"), self._busy_s(backward, "comm")) if self.hides else (0.0, 0.0)
            spent = (*compute, *sent)
            self._seen[key] = spent
        return spent

    def _busy_s(self, segment: Segment, stream: str) -> float:
        """Seconds that a stream cannot do without: nothing to wait for, no CPU in the way."""
        cost, gap_s = self._step_prices.model.cost, self._gap_s if stream == "compute" else 0.0
        return sum(cost(op.work).time_s * op.scale + gap_s * op.kernels for op in segment.ops if op.stream == stream)


def _running(values: Iterable[float]) -> Floats:
    return np.concatenate(([0.0], np.cumsum(list(values))))


@dataclass(frozen=True, slots=True)
class Bounds:
    """Everything about the job that bounds depend on and candidates share."""

    job: TrainJob
    step_constant_s: float
    straggler_share: float  # per doubling of the GPUs
    beside_factor: float  # how many times as long exchanges take beside another micro-batch's compute
    held_share: float  # of the multiprocessors, which exchanges take from compute while they run

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

    def step_s(
        self, layout: Layout, hides: bool, micro_batches: int, sizes: Sizes, prices: Prices, pipe: Pipe
    ) -> float:
        """Pipeline, optimizer, constant part, and the stragglers that stretch all of them."""
        if hides or layout.schedule == "dualpipe":  # which feeds both ends also where there is nothing to hide
            seconds = _paired_s(layout, micro_batches, prices, pipe, self.beside_factor, self.held_share)
            if layout.schedule != "dualpipe":  # the compute of the fill is still to be waited for
                seconds = max(seconds, _body_s(layout, micro_batches, prices, pipe))
        else:
            seconds = _body_s(layout, micro_batches, prices, pipe)
        if prices.host_update_s_per_param:
            seconds = max(seconds, self._updated_s(layout, micro_batches, sizes, prices, pipe))
        seconds += self.step_constant_s
        seconds += self._optimizer_s(layout, sizes, prices, pipe)
        return seconds * (1.0 + self.straggler_share * max(0.0, log2(self.job.cluster.gpus / 8.0)))

    def _updated_s(self, layout: Layout, micro_batches: int, sizes: Sizes, prices: Prices, pipe: Pipe) -> float:
        """The busiest rank's compute, and the CPU's update of the stage that it runs last, at least its smallest."""
        dense, expert = self._stage_params(layout, sizes, pipe)
        ways = _ways(layout) if layout.zero >= 1 else (1, 1)
        owned = (dense / ways[0] + expert / ways[1]) * prices.host_update_s_per_param
        least = np.where(pipe.runs > 0.0, owned, np.inf).min(axis=1)
        runs = micro_batches / (2.0 if layout.schedule == "dualpipe" else 1.0)
        busy = pipe.runs @ (_per_stage(prices, 0, pipe) + _per_stage(prices, 1, pipe)) * runs
        return float((busy + least).max())

    def _optimizer_s(self, layout: Layout, sizes: Sizes, prices: Prices, pipe: Pipe) -> float:
        """The update of the rank that owns most parameters."""
        params, ways = self._params(layout, sizes, pipe), _ways(layout) if layout.zero >= 1 else (1, 1)
        return float((params[0] / ways[0] + params[1] / ways[1]).max()) * prices.optimizer_s_per_param

    def _params(self, layout: Layout, sizes: Sizes, pipe: Pipe) -> tuple[Floats, Floats]:
        """(dense, expert) parameters that one GPU of every pipeline rank trains."""
        dense, expert = self._stage_params(layout, sizes, pipe)
        return pipe.runs @ dense, pipe.runs @ expert

    def _stage_params(self, layout: Layout, sizes: Sizes, pipe: Pipe) -> tuple[Floats, Floats]:
        """(dense, expert) parameters of every virtual stage that one GPU trains."""
        dense, expert = (np.diff(p[pipe.starts]) for p in (sizes.dense_params, sizes.expert_params))
        tied = self.job.arch.tied_embeddings and layout.one_table
        dense[0] += sizes.table_params
        dense[-1] += (0.0 if tied else sizes.table_params) + sizes.mtp_dense_params
        expert[-1] += sizes.mtp_expert_params
        return dense, expert


def _ways(layout: Layout) -> tuple[int, int]:
    return layout.dense_shards, layout.expert_shards


def _per_stage(prices: Prices, part: int, pipe: Pipe) -> Floats:
    """Seconds of every virtual stage: compute forward (0) and backward (1), transfers forward (2) and backward (3)."""
    running = (prices.forward_s, prices.backward_s, prices.sent_forward_s, prices.sent_backward_s)[part]
    stages = np.diff(running[pipe.starts])
    stages[0] += prices.embedding_s[part]
    stages[-1] += prices.head_s[part]
    return np.asarray(stages)


def _paired_s(layout: Layout, micro_batches: int, prices: Prices, pipe: Pipe, beside: float, held: float) -> float:
    """The busiest rank's exchanges, or its compute with what exchanges cost it, and what must precede them.

    A second of an exchange stalls the compute of its slot, or slows it by the multiprocessors that it holds: a slot
    takes its compute and that share of its exchanges at least. DualPipe feeds both ends, the nearer one counts; other
    pairs hide the fill's exchanges.
    """
    runs = micro_batches / (2.0 if layout.schedule == "dualpipe" else 1.0)
    forward, backward, sent_forward, sent_backward = (_per_stage(prices, part, pipe) for part in range(4))
    compute = pipe.runs @ (forward + backward) * runs
    sent = pipe.runs @ (sent_forward + sent_backward) * runs
    sent += (beside - 1.0) * (pipe.forwards @ sent_forward + pipe.backwards @ sent_backward)
    busy = np.maximum(compute + held * sent, sent)
    if layout.schedule == "dualpipe":
        before = np.cumsum(forward) - forward
        busy = busy + np.minimum(before, before[::-1])
    return float(busy.max())


def _body_s(layout: Layout, micro_batches: int, prices: Prices, pipe: Pipe) -> float:
    """No schedule is faster: the busiest stream of the busiest rank, and what must precede and follow it.

    Before rank r can start, a micro-batch has passed the ranks before it; after its last backward, the same ranks still
    have theirs to do; where the backward is split, weight gradients may wait.
    """
    forward, backward = (_per_stage(prices, part, pipe) for part in (0, 1))
    busy = pipe.runs @ (forward + backward)
    entry = forward[: layout.pp] + (0.0 if layout.schedule in SPLIT else backward[: layout.pp])
    return float((np.cumsum(entry) - entry + micro_batches * busy).max())
