"""Bytes that each layer keeps for its backward pass, per block, following what Transformer Engine layers save."""

from __future__ import annotations

from collections.abc import Sequence

from moesim.sim.layers.context import ExpertLoad
from moesim.sim.model.arch import LayerKind
from moesim.sim.train.job import TrainJob


def sharding(job: TrainJob) -> float:
    """What sequence parallelism divides: 1/tp in the sharded regions, else only inside tensor-parallel blocks."""
    return float(job.layout.tp) if job.layout.sequence_parallel else 1.0


def attention_bytes(job: TrainJob, kind: LayerKind) -> float:
    """Bytes kept per token by one attention block."""
    a, arch, tp = job.arch.attention, job.arch, job.layout.tp
    assert a is not None
    hidden = 4.0 * arch.hidden / sharding(job)
    if "layernorm" in job.recompute:
        hidden /= 2.0
    if a.is_mla:
        kept = 0.5 if job.stack.fp8_activations else 1.0
        latent = 4.0 * kept * ((a.q_lora_rank or 0) + (a.kv_lora_rank or 0) + (a.qk_rope_head_dim or 0)) / sharding(job)
        projected = (4.0 * a.heads * a.head_dim + 2.0 * a.heads * a.v_head_dim) / tp  # queries, keys, values
        output = (1.5 if job.stack.fp8_activations else 2.0) * a.heads * a.v_head_dim / tp  # E5M6 takes 12 bits
        return hidden + latent + output + (0.0 if "mla_up_proj" in job.recompute else projected)
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
    return (4.0 * job.arch.hidden) / sharding(job) + 2.0 * 5.0 * s.d_inner / job.layout.tp


def ffn_bytes(job: TrainJob, kind: LayerKind, rows: float, tokens: float) -> float:
    """Bytes kept per token by the feed-forward block; `rows` reach this rank's experts."""
    arch = job.arch
    hidden = 4.0 * arch.hidden / sharding(job)
    if "layernorm" in job.recompute:
        hidden /= 2.0
    if kind.ffn == "dense":
        assert arch.ffn is not None
        width = (6.0 if arch.ffn.gated else 4.0) * arch.ffn.intermediate / job.layout.tp
        return hidden + (0.0 if "mlp" in job.recompute else width)
    moe = arch.moe
    assert moe is not None
    kept = 0.5 if job.stack.fp8_activations else 1.0  # inputs of expert layers are cached in 8 bits
    per_row = 2.0 * kept * (moe.latent or arch.hidden)
    inner = 6.0 * kept if moe.gated else 4.0 * kept
    if "moe_act" in job.recompute:
        inner -= 2.0 * kept
    per_row += inner * moe.expert_intermediate / job.layout.etp
    rows_per_token = rows / tokens
    shared = inner * (moe.shared_intermediate + moe.residual_intermediate) / job.layout.tp
    experts = 0.0 if "moe" in job.recompute else rows_per_token * per_row
    return hidden + experts + shared


def brought_bytes(job: TrainJob, kind: LayerKind, rows: float) -> float:
    """Bytes of what a layer's transfers brought in its forward, kept so that none is sent again."""
    lay, arch = job.layout, job.arch
    tokens = job.micro_batch * job.seq_len / lay.cp
    hidden = 2.0 * arch.hidden * tokens / sharding(job) if lay.tp > 1 else 0.0
    if kind.ffn not in ("moe", "moe_residual"):
        return 2.0 * hidden
    assert arch.moe is not None
    width = 2.0 * (arch.moe.latent or arch.hidden)
    sent = tokens / lay.dispatch_split * arch.moe.top_k if lay.ep > 1 else 0.0
    gathered = rows if lay.etp > 1 else 0.0
    return hidden + width * ((rows if lay.ep > 1 else 0.0) + gathered + sent)


def layer_bytes(job: TrainJob, loads: Sequence[ExpertLoad | None], index: int, ep_rank: int = 0) -> float:
    """Bytes kept by layer `index` for one micro-batch on rank `ep_rank` of the expert group."""
    kind = job.arch.layers[index]
    tokens = job.micro_batch * job.seq_len / job.layout.cp
    if "full" in job.recompute:
        brought = brought_bytes(job, kind, _rows(loads[index], ep_rank)) if "keep_collectives" in job.recompute else 0.0
        return job.width * job.arch.hidden * tokens / sharding(job) + brought
    total = 0.0
    if kind.mixer in ("attention", "window_attention", "cross_attention"):
        total += attention_bytes(job, kind) * (2.0 if kind.mixer == "cross_attention" else 1.0)
    elif kind.mixer != "none":
        total += ssm_bytes(job)
    if kind.ffn != "none":
        total += ffn_bytes(job, kind, _rows(loads[index], ep_rank), tokens)
    return total * tokens * job.width / 2.0


def _rows(load: ExpertLoad | None, ep_rank: int) -> float:
    return 0.0 if load is None else float(load.rank_rows[ep_rank % len(load.rank_rows)])


def fullest_expert_rank(loads: Sequence[ExpertLoad | None], layers: Sequence[int]) -> int:
    """The rank of the expert group that receives most rows over these layers together: the one that runs out first."""
    used = [load for load in (loads[i] for i in layers) if load is not None and len(load.rank_rows) > 1]
    if not used:
        return 0
    ranks = range(len(used[0].rank_rows))
    return max(ranks, key=lambda r: (sum(_rows(load, r) for load in used), -r))
