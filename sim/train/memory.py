"""Memory of every pipeline rank: weights, gradients, optimizer, activations in flight, logits, buffers, reserve.

What layers keep for the backward pass is in activations.py; checked against the measured peaks of SimuMax's B200 runs
(docs/accuracy.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from moesim.hwmodels.gpu import bytes_per_element
from moesim.hwmodels.units import GIB
from moesim.sim.layout.layout import held_params
from moesim.sim.layout.pipeline import in_flight, orders
from moesim.sim.model.arch import AttentionArch, LayerKind, ModelArch
from moesim.sim.train.activations import fullest_expert_rank, layer_bytes, sharding, working_bytes
from moesim.sim.train.job import TrainJob
from moesim.sim.train.prices import StepPrices

_CONTEXT_BYTES = 0.25 * GIB  # allocator slack and small buffers inside the framework's own count
_MASTER_BYTES = 4.0  # of one weight in fp32
_GATHERED_LAYERS = 2  # under ZeRO-3: the one that runs, and the next one on its way
_FUSED_LOGIT_BYTES = 2.0  # the gradient takes the place of the logits
_RESERVE_BYTES = 2.0 * GIB  # CUDA context, NCCL channels, fragmentation: seen by the driver, not by the framework


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes by kind on one GPU of a pipeline rank at its peak; the fullest GPU where experts are loaded unevenly.

    Shards are counted as this GPU holds them, after tp, ep, pp and ZeRO. Activations follow what Transformer Engine
    keeps for the backward pass, of all micro-batches in flight.
    """

    rank: int  # of the pipeline, from 0
    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    buffers: float  # the output head's gradient, shared gradient buffers, the allocator's slack
    reserve: float  # CUDA context, NCCL channels, fragmentation: seen by the driver, not by the framework
    offloaded: float = 0.0  # activations that wait in the host's memory: not part of the total

    @property
    def allocated(self) -> float:
        """What the framework's allocator counts: everything but the reserve."""
        return self.total - self.reserve

    @property
    def total(self) -> float:
        """All bytes."""
        parts = self.weights + self.gradients + self.optimizer + self.activations + self.logits + self.buffers
        return parts + self.reserve

    def by_kind(self) -> dict[str, float]:
        """Bytes by kind; they sum to total."""
        names = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "reserve")
        return {name: getattr(self, name) for name in names}


def rank_params(prices: StepPrices, rank: int, trainable: bool = True) -> tuple[float, float]:
    """(dense, expert) parameters that one GPU of pipeline rank `rank` trains, or holds."""
    return stage_params(prices, prices.job.layout.chunks_of(rank), trainable)


def stage_params(prices: StepPrices, stages: Sequence[int], trainable: bool = True) -> tuple[float, float]:
    """(dense, expert) parameters of these virtual stages that one GPU trains, or holds."""
    job = prices.job
    dense = expert = 0.0
    for number in stages:
        for name, kind in prices.chunks[number].blocks(job.arch):
            if name == "head" and job.arch.tied_embeddings and job.layout.one_table:
                continue
            if trainable and job.lora_rank:
                d, e = prices.factory.dense_and_expert_params(name, kind)
            else:
                d, e = held_params(job.arch, job.layout, name, kind)
            dense, expert = dense + d, expert + e
    return dense, expert


def _weight_shapes(arch: ModelArch, job: TrainJob, layers: set[LayerKind]) -> float:
    """Elements of one 16-bit dummy gradient per distinct weight shape that Transformer Engine keeps."""
    tp, h = job.layout.tp, arch.hidden
    shapes: set[float] = set()
    m = arch.moe
    for kind in layers:
        a, f = arch.at(kind).attention, arch.at(kind).ffn
        if kind.mixer.endswith("attention") and a is not None:
            shapes.add(a.heads * a.v_head_dim * h / tp)
            shapes |= _mla_shapes(a, h, tp) if a.is_mla else {h * (a.heads + 2 * a.kv_heads) * a.head_dim / tp}
        if kind.ffn == "dense" and f is not None:
            shapes |= {(2.0 if f.gated else 1.0) * f.intermediate * h / tp, 1.0 * f.intermediate * h / tp}
        if kind.ffn in ("moe", "moe_residual") and m is not None:
            inner = m.expert_intermediate / job.layout.etp
            shared = m.shared_intermediate / tp
            shapes |= {(2.0 if m.gated else 1.0) * width * h for width in (inner, shared)} | {inner * h, shared * h}
    return sum(shapes)


def _mla_shapes(a: AttentionArch, hidden: int, tp: int) -> set[float]:
    q, kv, rope = a.q_lora_rank or 0, a.kv_lora_rank or 0, a.qk_rope_head_dim or 0
    nope = a.qk_nope_head_dim or 0
    down = {float(hidden * q), float(hidden * (kv + rope))}
    return down | {(q or hidden) * a.heads * a.head_dim / tp, kv * a.heads * (nope + a.v_head_dim) / tp}


def _static(prices: StepPrices, rank: int) -> tuple[float, float, float]:
    """(weights, gradients, optimizer) bytes of one rank under ZeRO; frozen weights have neither of the latter."""
    job, lay = prices.job, prices.job.layout
    total = [0.0, 0.0, 0.0]
    gradient_bytes = bytes_per_element(job.stack.grad_dtype)
    held, trained = rank_params(prices, rank, trainable=False), rank_params(prices, rank)
    shards = (lay.dense_shards, lay.expert_shards)
    for own, params, ways in zip(held, trained, shards, strict=True):
        frozen = own if job.lora_rank else 0.0
        masters = _MASTER_BYTES if lay.zero >= 3 and job.stack.sharded_masters else 0.0
        width, state = masters or job.width_bytes, max(0.0, job.stack.master_dtype_bytes - masters)
        weights = (width * params + job.base_bytes * frozen) / (ways if lay.zero >= 3 else 1)
        gradients = gradient_bytes * params / (ways if lay.zero >= 2 else 1)
        optimizer = state * params / (ways if lay.zero >= 1 else 1)
        for i, value in enumerate((weights, gradients, 0.0 if job.offload_optimizer else optimizer)):
            total[i] += value
    return total[0], total[1], total[2]


@lru_cache(maxsize=64)
def _held(schedule: str, pp: int, vpp: int, micro_batches: int, hidden: bool) -> tuple[Mapping[int, int], ...]:
    """Micro-batches whose activations each rank keeps at its peak, by virtual stage; asked once per rank."""
    plan = orders(schedule, pp, vpp, micro_batches, hidden)
    return tuple(in_flight(order, layer_by_layer=schedule != "dualpipe") for order in plan)


def rank_memory(prices: StepPrices, rank: int) -> RankMemory:
    """Peak bytes of pipeline rank `rank`."""
    job, lay = prices.job, prices.job.layout
    held = _held(lay.schedule, lay.pp, lay.vpp, min(job.micro_batches, 4 * lay.pp * lay.vpp), job.hides_exchanges)[rank]
    tokens = job.micro_batch * job.seq_len / lay.cp
    full = fullest_expert_rank(prices.loads, [i for stage in held for i in prices.chunks[stage].layers])
    activations, offloaded, working, logits, kinds = 0.0, 0.0, 0.0, 0.0, set()
    buffers = _CONTEXT_BYTES
    for stage, count in held.items():
        chunk = prices.chunks[stage]
        kept = count * sum(layer_bytes(job, prices.loads, i, full) for i in chunk.layers)
        activations += kept * (1.0 - job.offload_activations)
        offloaded += kept * job.offload_activations
        working = max(working, working_bytes(job, prices.loads, chunk.layers))
        if chunk.head:
            logits = _per_logit(job) * tokens * job.arch.vocab / lay.tp * (1 + chunk.mtp)
            activations += _head_input_bytes(job) * tokens
    for chunk in (prices.chunks[c] for c in lay.chunks_of(rank)):
        kinds |= {job.arch.layers[i] for i in chunk.layers}
        if chunk.head:
            buffers += job.width_bytes * job.arch.vocab * job.arch.hidden / lay.tp
    weights, gradients, optimizer = _static(prices, rank)
    if job.stack.dummy_gradients:
        buffers += 2.0 * _weight_shapes(job.arch, job, kinds)
    gathered, head = _gathered_bytes(prices, rank)
    activations += max(0.0, working - logits)  # the loss is over when layers run again, and when their weights are back
    buffers += max(0.0, gathered - max(0.0, logits - working), head - max(0.0, working - logits))
    return RankMemory(rank, weights, gradients, optimizer, activations, logits, buffers, _RESERVE_BYTES, offloaded)


def _per_logit(job: TrainJob) -> float:
    """Bytes alive at once per logit of one GPU."""
    if job.stack.fused_loss:
        return _FUSED_LOGIT_BYTES
    return job.stack.split_logit_bytes if job.layout.tp > 1 else job.stack.logit_bytes


def _head_input_bytes(job: TrainJob) -> float:
    """Bytes per token of what the output head reads; where it was gathered and is kept, also its gradient."""
    if job.layout.tp > 1 and not job.stack.regather:
        return 2.0 * job.width_bytes * job.arch.hidden
    return job.width_bytes * job.arch.hidden / sharding(job)


def _gathered_bytes(prices: StepPrices, rank: int) -> tuple[float, float]:
    """ZeRO-3: whole weights of the layers at hand with the whole gradient of one until it is reduced; of the head.

    The latter while the loss is computed, the former behind it.
    """
    job = prices.job
    if job.layout.zero < 3:
        return 0.0, 0.0
    chunks = [prices.chunks[c] for c in job.layout.chunks_of(rank)]
    kinds = {kind for chunk in chunks for _, kind in chunk.blocks(job.arch) if kind}
    layer = max((sum(held_params(job.arch, job.layout, "L", kind)) for kind in kinds), default=0.0)
    gradient = 0.0 if job.lora_rank else job.width_bytes + bytes_per_element(job.stack.grad_dtype)
    frozen = job.base_bytes if job.lora_rank else job.width_bytes
    head = frozen * job.arch.vocab * job.arch.hidden / job.layout.tp if any(c.head for c in chunks) else 0.0
    return layer * (_GATHERED_LAYERS * frozen + gradient), head


def step_memory(prices: StepPrices) -> list[RankMemory]:
    """Peak memory of every pipeline rank."""
    return [rank_memory(prices, rank) for rank in range(prices.job.layout.pp)]
