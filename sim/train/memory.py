"""Memory of every pipeline rank: weights, gradients, optimizer, activations in flight, logits, buffers, reserve.

Activation bytes per token follow what Transformer Engine layers keep for the backward pass; checked against the
measured peaks of SimuMax's B200 runs (docs/accuracy.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from moesim.hwmodels.dtypes import bytes_per_element
from moesim.hwmodels.units import GIB
from moesim.sim.layout.pipeline import in_flight, orders
from moesim.sim.model.arch import AttentionArch, LayerKind, ModelArch
from moesim.sim.train.activations import fullest_expert_rank, layer_bytes, sharding
from moesim.sim.train.job import TrainJob
from moesim.sim.train.simulator import StepSimulator

_CONTEXT_BYTES = 0.25 * GIB  # allocator slack and small buffers inside the framework's own count
_RESERVE_BYTES = 2.0 * GIB  # CUDA context, NCCL channels, fragmentation: seen by the driver, not by the framework


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes by kind on one pipeline rank at its peak."""

    rank: int
    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    buffers: float
    reserve: float

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


def _working_bytes(sim: StepSimulator) -> float:
    """With full recompute one layer's activations live again during its backward."""
    if "full" not in sim.job.recompute:
        return 0.0
    keeping = replace(sim.job, recompute=frozenset())
    return max(layer_bytes(keeping, sim.loads, i) for i in range(len(keeping.arch.layers)))


def _weight_shapes(arch: ModelArch, job: TrainJob, layers: set[LayerKind]) -> float:
    """Elements of one 16-bit dummy gradient per distinct weight shape that Transformer Engine keeps."""
    tp, h = job.layout.tp, arch.hidden
    shapes: set[float] = set()
    a, f, m = arch.attention, arch.ffn, arch.moe
    for kind in layers:
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


def _static(sim: StepSimulator, rank: int) -> tuple[float, float, float]:
    """(weights, gradients, optimizer) bytes of one rank under ZeRO; frozen weights have neither of the latter."""
    job, lay = sim.job, sim.job.layout
    total = [0.0, 0.0, 0.0]
    gradient_bytes = bytes_per_element(job.stack.grad_dtype)
    held, trained = sim.rank_params(rank, trainable=False), sim.rank_params(rank)
    shards = (lay.dense_shards, lay.expert_shards)
    for own, params, ways in zip(held, trained, shards, strict=True):
        frozen = own if job.lora_rank else 0.0
        weights = (job.width * params + job.base_bytes * frozen) / (ways if lay.zero >= 3 else 1)
        gradients = gradient_bytes * params / (ways if lay.zero >= 2 else 1)
        optimizer = job.stack.master_dtype_bytes * params / (ways if lay.zero >= 1 else 1)
        for i, value in enumerate((weights, gradients, 0.0 if job.offload_optimizer else optimizer)):
            total[i] += value
    return total[0], total[1], total[2]


@lru_cache(maxsize=64)
def _held(schedule: str, pp: int, vpp: int, micro_batches: int) -> tuple[Mapping[int, int], ...]:
    """Micro-batches whose activations each rank keeps at its peak, by virtual stage; asked once per rank."""
    return tuple(in_flight(order) for order in orders(schedule, pp, vpp, micro_batches))


def rank_memory(sim: StepSimulator, rank: int) -> RankMemory:
    """Peak bytes of pipeline rank `rank`."""
    job, lay = sim.job, sim.job.layout
    held = _held(lay.schedule, lay.pp, lay.vpp, min(job.micro_batches, 4 * lay.pp * lay.vpp))[rank]
    tokens = job.micro_batch * job.seq_len / lay.cp
    full = fullest_expert_rank(sim.loads, [i for stage in held for i in sim.chunks[stage].layers])
    activations, logits, kinds = 0.0, 0.0, set()
    buffers = _CONTEXT_BYTES
    for stage, count in held.items():
        chunk = sim.chunks[stage]
        activations += count * sum(layer_bytes(job, sim.loads, i, full) for i in chunk.layers)
        if chunk.head:
            per_logit = 2.0 if job.stack.fused_loss else 6.0
            logits = per_logit * tokens * job.arch.vocab / lay.tp * (1 + chunk.mtp)
            activations += job.width * job.arch.hidden * tokens / sharding(job)
    for chunk in (sim.chunks[c] for c in lay.chunks_of(rank)):
        kinds |= {job.arch.layers[i] for i in chunk.layers}
        if chunk.head:
            buffers += job.width * job.arch.vocab * job.arch.hidden / lay.tp
    activations *= 1.0 - job.offload_activations
    weights, gradients, optimizer = _static(sim, rank)
    if job.stack.dummy_gradients:
        buffers += 2.0 * _weight_shapes(job.arch, job, kinds)
    return RankMemory(
        rank, weights, gradients, optimizer, activations + _working_bytes(sim), logits, buffers, _RESERVE_BYTES
    )


def step_memory(sim: StepSimulator) -> list[RankMemory]:
    """Peak memory of every pipeline rank."""
    return [rank_memory(sim, rank) for rank in range(sim.job.layout.pp)]
