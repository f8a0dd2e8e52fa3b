"""Memory of every pipeline rank: weights, gradients, optimizer, activations in flight, logits, buffers, reserve.

Activation bytes per token follow what Transformer Engine layers keep for the backward pass; checked against the
measured peaks of SimuMax's B200 runs (docs/accuracy.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sim.arch import AttentionArch, LayerKind, ModelArch
from sim.context import ExpertLoad
from sim.pipeline import in_flight, orders
from sim.train import StepSimulator, TrainJob

GIB = 2.0**30
_CONTEXT_BYTES = 0.25 * GIB  # allocator slack and small buffers inside the framework's own count
_RESERVE_BYTES = 2.0 * GIB  # CUDA context, NCCL channels, fragmentation: seen by the driver, not by the framework


class DoesNotFit(ValueError):  # noqa: N818 - reads as the sentence it starts
    """The job needs more memory than a GPU has; the message says how much and what would fit."""


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


def _split(job: TrainJob) -> float:
    """What sequence parallelism divides: 1/tp in the sharded regions, else only inside tensor-parallel blocks."""
    return float(job.layout.tp) if job.layout.sequence_parallel else 1.0


def attention_bytes(job: TrainJob, kind: LayerKind) -> float:
    """Bytes kept per token by one attention block."""
    a, arch, tp = job.arch.attention, job.arch, job.layout.tp
    assert a is not None
    hidden = 4.0 * arch.hidden / _split(job)
    if "layernorm" in job.recompute:
        hidden /= 2.0
    if a.is_mla:
        latent = 4.0 * ((a.q_lora_rank or 0) + (a.kv_lora_rank or 0) + (a.qk_rope_head_dim or 0)) / _split(job)
        up = (4.0 * a.heads * a.head_dim + 4.0 * a.heads * a.v_head_dim) / tp
        return hidden + latent + (0.5 * up if "mla_up_proj" in job.recompute else up)
    q, kv = a.heads * a.head_dim, a.kv_heads * a.head_dim
    kept = 2.0 * (q + 2 * kv) / tp + 2.0 * q / tp
    if job.layout.cp > 1:
        kept += 2.0 * (q + 2 * kv) / tp  # both sides of the sequence-to-heads exchange
    if job.stack.attention_kernel == "unfused" and "core_attention" not in job.recompute:
        kept += 5.0 * a.heads / tp * job.seq_len  # softmax output, dropout mask and output
    return hidden + kept


def ssm_bytes(job: TrainJob) -> float:
    """Bytes kept per token by one state-space block: projection output, convolution, gate, output."""
    s = job.arch.ssm
    assert s is not None
    return (4.0 * job.arch.hidden) / _split(job) + 2.0 * 5.0 * s.d_inner / job.layout.tp


def ffn_bytes(job: TrainJob, kind: LayerKind, load: ExpertLoad | None, tokens: float) -> float:
    """Bytes kept per token by the feed-forward block; experts follow the rows of the busiest rank."""
    arch = job.arch
    hidden = 4.0 * arch.hidden / _split(job)
    if "layernorm" in job.recompute:
        hidden /= 2.0
    if kind.ffn == "dense":
        assert arch.ffn is not None
        width = (6.0 if arch.ffn.gated else 4.0) * arch.ffn.intermediate / job.layout.tp
        return hidden + (0.0 if "mlp" in job.recompute else width)
    moe = arch.moe
    assert moe is not None and load is not None
    per_row = 2.0 * (moe.latent or arch.hidden)
    inner = 6.0 if moe.gated else 4.0
    if "moe_act" in job.recompute:
        inner -= 2.0
    per_row += inner * moe.expert_intermediate / job.layout.etp
    rows_per_token = sum(load.rows) / tokens
    shared = (6.0 if moe.gated else 4.0) * (moe.shared_intermediate + moe.residual_intermediate) / job.layout.tp
    experts = 0.0 if "moe" in job.recompute else rows_per_token * per_row
    return hidden + experts + shared


def layer_bytes(job: TrainJob, loads: list[ExpertLoad | None], index: int) -> float:
    """Bytes kept by layer `index` for one micro-batch on one GPU."""
    kind = job.arch.layers[index]
    tokens = job.micro_batch * job.seq_len / job.layout.cp
    if "full" in job.recompute:
        return 2.0 * job.arch.hidden * tokens / _split(job)
    total = 0.0
    if kind.mixer in ("attention", "window_attention", "cross_attention"):
        total += attention_bytes(job, kind) * (2.0 if kind.mixer == "cross_attention" else 1.0)
    elif kind.mixer != "none":
        total += ssm_bytes(job)
    if kind.ffn != "none":
        total += ffn_bytes(job, kind, loads[index], tokens)
    return total * tokens


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
    """(weights, gradients, optimizer) bytes of one rank under ZeRO."""
    job, lay = sim.job, sim.job.layout
    total = [0.0, 0.0, 0.0]
    gradient_bytes = 2.0 if job.stack.name in ("composer-fsdp", "hai-llm") else 4.0
    for params, shards in zip(sim.rank_params(rank), (lay.zero_group or lay.dp * lay.cp, lay.edp), strict=True):
        weights = 2.0 * params / (shards if lay.zero >= 3 else 1)
        gradients = gradient_bytes * params / (shards if lay.zero >= 2 else 1)
        optimizer = job.stack.master_dtype_bytes * params / (shards if lay.zero >= 1 else 1)
        for i, value in enumerate((weights, gradients, optimizer)):
            total[i] += value
    return total[0], total[1], total[2]


def rank_memory(sim: StepSimulator, rank: int) -> RankMemory:
    """Peak bytes of pipeline rank `rank`."""
    job, lay = sim.job, sim.job.layout
    held = in_flight(orders(lay.schedule, lay.pp, lay.vpp, min(job.micro_batches, 4 * lay.pp * lay.vpp))[rank])
    tokens = job.micro_batch * job.seq_len / lay.cp
    activations, logits, kinds = 0.0, 0.0, set()
    buffers = _CONTEXT_BYTES
    for stage, count in held.items():
        chunk = sim.chunks[stage]
        activations += count * sum(layer_bytes(job, sim.loads, i) for i in chunk.layers)
        if chunk.head:
            per_logit = 2.0 if job.stack.fused_loss else 6.0
            logits = per_logit * tokens * job.arch.vocab / lay.tp * (1 + chunk.mtp)
            activations += 2.0 * job.arch.hidden * tokens / _split(job)
    for chunk in sim.chunks:
        if chunk.index % lay.pp == rank:
            kinds |= {job.arch.layers[i] for i in chunk.layers}
            if chunk.head:
                buffers += 2.0 * job.arch.vocab * job.arch.hidden / lay.tp
    weights, gradients, optimizer = _static(sim, rank)
    if job.stack.name != "composer-fsdp":
        buffers += 2.0 * _weight_shapes(job.arch, job, kinds)
    return RankMemory(
        rank, weights, gradients, optimizer, activations + _working_bytes(sim), logits, buffers, _RESERVE_BYTES
    )


def step_memory(sim: StepSimulator) -> list[RankMemory]:
    """Peak memory of every pipeline rank."""
    return [rank_memory(sim, rank) for rank in range(sim.job.layout.pp)]
