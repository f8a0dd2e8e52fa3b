"""What one layer keeps for its backward pass: bytes per token of its parts, and what each word of recompute frees.

Bytes per token follow what Transformer Engine layers keep: 16 bits, but inputs of linear layers in the format that
these multiply in. A part that runs again keeps nothing, and lives again during the backward of its layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moesim.hwmodels.gpu import bytes_per_element
from moesim.sim.layers.masks import EINSUM, group_of
from moesim.sim.layers.recompute import OPERATORS, run_again
from moesim.sim.layers.sparse import chooses
from moesim.sim.layout.placement import ExpertLoad
from moesim.sim.model.arch import AttentionArch, LayerKind
from moesim.sim.software.stack import Tuning
from moesim.sim.train.job import TrainJob

_STATISTICS = 4.0  # fp32 sum of every row of the softmax, that fused attention keeps per head


def sharding(job: TrainJob) -> float:
    """What sequence parallelism divides: 1/tp in the sharded regions, else only inside tensor-parallel blocks."""
    return float(job.layout.tp) if job.layout.sequence_parallel else 1.0


def _input_bytes(job: TrainJob) -> float:
    """Bytes per element of what a linear layer keeps of its input."""
    return bytes_per_element(job.precision) if _quantised(job) else 2.0


def _quantised(job: TrainJob) -> bool:
    """Whether a linear layer's input is quantised, and kept like that."""
    return job.stack.quantised_inputs and bytes_per_element(job.precision) < 2.0


def _hidden_bytes(job: TrainJob, gathered: bool = False, read_by: float = 2.0) -> float:
    """Bytes kept per token by a norm: its input, and its output unless that runs again.

    `gathered`: a tensor group works on the output; stacks that do not gather it once more keep all of it. `read_by`:
    bytes per element in which whoever reads the output keeps it.
    """
    whole = gathered and job.layout.tp > 1 and not job.stack.regather
    output = read_by * job.arch.hidden / (1.0 if whole else sharding(job))
    return 2.0 * job.arch.hidden / sharding(job) + (0.0 if "layernorm" in job.recompute and not whole else output)


def attention_bytes(job: TrainJob) -> float:
    """Bytes kept per token by one attention block."""
    a, tp = job.arch.attention, job.layout.tp
    assert a is not None
    if OPERATORS in job.recompute:
        return _attention_of_operators(job, a)
    inputs = _input_bytes(job)
    hidden = _hidden_bytes(job, gathered=True, read_by=inputs)
    copied = inputs if _quantised(job) else 0.0  # of the core's answer, beside the 16 bits that the core itself keeps
    core = _core_bytes(job, a.heads / tp)
    if a.is_mla:
        kept = 0.5 if job.stack.fp8_activations else 1.0
        latent = 4.0 * kept * ((a.q_lora_rank or 0) + (a.kv_lora_rank or 0) + (a.qk_rope_head_dim or 0)) / sharding(job)
        queries, projected = 2.0 * a.heads * a.head_dim / tp, (2.0 * a.heads * (a.head_dim + a.v_head_dim)) / tp
        if "mla_up_proj" in job.recompute:  # queries without a latent of their own are no up-projection
            queries, projected = queries if not a.q_lora_rank else 0.0, 0.0
        answer = 1.5 if job.stack.fp8_activations else 2.0 + copied  # E5M6 takes 12 bits
        output = answer * a.heads * a.v_head_dim / tp
        return hidden + latent + output + queries + projected + core + _index_bytes(job, a)
    q, kv = a.heads * a.head_dim, a.kv_heads * a.head_dim
    kept = 2.0 * (q + 2 * kv) / tp + (2.0 + copied) * q / tp
    if job.layout.cp > 1:
        kept += 2.0 * (q + 2 * kv) / tp  # both sides of the sequence-to-heads exchange
    return hidden + kept + core


def _index_bytes(job: TrainJob, a: AttentionArch) -> float:
    """Bytes kept per token by the indexer of sparse attention: its queries and key, and the keys it chose (int32)."""
    if not chooses(a, job.seq_len) or a.index_shared:
        return 0.0
    assert a.index_heads and a.index_head_dim and a.index_top_k
    kept = 2.0 * (a.index_heads * a.index_head_dim + a.index_head_dim) / sharding(job)
    return kept + (0.0 if "core_attention" in job.recompute else 4.0 * a.index_top_k)


def _attention_of_operators(job: TrainJob, a: AttentionArch) -> float:
    """Bytes kept per token where every second matrix product runs again: the input, half the projections, the core."""
    half = 2.0 * a.heads * a.head_dim + 2.0 * a.kv_heads * a.v_head_dim
    if a.is_mla:
        half = 2.0 * ((a.q_lora_rank or 0) + (a.kv_lora_rank or 0) + (a.qk_rope_head_dim or 0)) * job.layout.tp
    core = (2.0 * a.v_head_dim + _STATISTICS) * a.heads
    return 2.0 * job.arch.hidden / sharding(job) + (half + core) / job.layout.tp


def _core_bytes(job: TrainJob, heads: float) -> float:
    """Bytes kept per token by the core of attention, beside its inputs and its output, which neighbours keep."""
    if "core_attention" in job.recompute:
        return 0.0
    if job.stack.attention_kernel == "unfused":
        return 5.0 * heads * job.seq_len  # softmax output, dropout mask and output
    return _STATISTICS * heads


def ssm_bytes(job: TrainJob) -> float:
    """Bytes kept per token by one state-space block: both halves of its projection, convolution, scan, gate."""
    s = job.arch.ssm
    assert s is not None
    return _hidden_bytes(job) + 2.0 * (2.0 if job.recompute & {"ssm", OPERATORS} else 5.0) * s.d_inner / job.layout.tp


def ffn_bytes(job: TrainJob, kind: LayerKind, rows: float, tokens: float) -> float:
    """Bytes kept per token by the feed-forward block; `rows` reach this rank's experts."""
    arch, again, tp = job.arch, run_again(job.recompute), job.layout.tp
    if OPERATORS in job.recompute:
        return _ffn_of_operators(job, kind, rows / tokens)
    inputs = _input_bytes(job)
    if kind.ffn == "dense":
        assert arch.ffn is not None
        hidden = _hidden_bytes(job, gathered=True, read_by=inputs)
        kept = _mlp_bytes(arch.ffn.gated, 1.0, "mlp" in again, "mlp_act" in again, inputs)
        return hidden + kept * arch.ffn.intermediate / tp
    moe = arch.moe
    assert moe is not None
    hidden = _hidden_bytes(job)  # the router reads it in 16 bits
    kept = 0.5 if job.stack.fp8_activations else 1.0  # inputs of expert layers are cached in 8 bits
    shared = _mlp_bytes(moe.gated, kept, "shared_experts" in again, "shared_act" in again, inputs)
    beside = _mlp_bytes(moe.gated, kept, "mlp" in again, "mlp_act" in again, inputs)
    shared, beside = shared * moe.shared_intermediate, beside * moe.residual_intermediate
    total = hidden + (shared + beside) / tp
    if "moe" in again:
        brought = brought_rows(job, rows) if "keep_collectives" in job.recompute else 0.0
        return total + 2.0 * (moe.latent or arch.hidden) * brought / tokens
    per_row = min(inputs, 2.0 * kept) * (moe.latent or arch.hidden)
    per_row += _mlp_bytes(moe.gated, kept, False, "moe_act" in again, inputs) * moe.expert_intermediate / job.layout.etp
    return total + rows / tokens * (per_row + _kept_masks(job, tokens))


def _kept_masks(job: TrainJob, tokens: float) -> float:
    """Bytes kept per row of the experts where masks bring it: two columns of its group, to gather and to add."""
    if job.stack.dispatcher != EINSUM:
        return 0.0
    own = max(1, round(tokens / job.layout.dispatch_split))
    return 2.0 * 2.0 * group_of(own, job.stack, Tuning())


def _ffn_of_operators(job: TrainJob, kind: LayerKind, rows_per_token: float) -> float:
    """Bytes kept per token where every second matrix product runs again: the gate's, and what the block returns."""
    arch = job.arch
    if kind.ffn == "dense":
        assert arch.ffn is not None
        return 2.0 * (arch.hidden + arch.ffn.intermediate / job.layout.tp)
    assert arch.moe is not None
    beside = arch.moe.shared_intermediate + arch.moe.residual_intermediate
    brought = 4.0 * rows_per_token * (arch.moe.latent or arch.hidden)  # rows that came, and their answers
    return brought + 2.0 * (arch.hidden + beside / job.layout.tp)


def _mlp_bytes(gated: bool, kept: float, block: bool, activation: bool, inputs: float) -> float:
    """Bytes kept per token and column between two matrices: before the activation and behind it.

    `block`, `activation`: what of them runs again; `inputs`: bytes per element that the second matrix keeps.
    """
    if block:
        return 0.0
    return kept * (4.0 if gated else 2.0) + (0.0 if activation else min(inputs, 2.0 * kept))


def brought_rows(job: TrainJob, rows: float) -> float:
    """Vectors that exchanges of an expert layer brought for one micro-batch: rows, gathered rows, and answers."""
    lay, moe = job.layout, job.arch.moe
    assert moe is not None
    tokens = job.micro_batch * job.seq_len / lay.cp
    sent = tokens / lay.dispatch_split * moe.top_k if lay.ep > 1 else 0.0
    return (rows if lay.ep > 1 else 0.0) + (rows if lay.etp > 1 else 0.0) + sent


def brought_bytes(job: TrainJob, kind: LayerKind, rows: float) -> float:
    """Bytes of what a layer's transfers brought in its forward, kept so that none is sent again."""
    lay, arch = job.layout, job.arch
    tokens = job.micro_batch * job.seq_len / lay.cp
    hidden = 2.0 * arch.hidden * tokens / sharding(job) if lay.tp > 1 else 0.0
    if kind.ffn not in ("moe", "moe_residual"):
        return 2.0 * hidden
    assert arch.moe is not None
    return hidden + 2.0 * (arch.moe.latent or arch.hidden) * brought_rows(job, rows)


def layer_bytes(job: TrainJob, loads: Sequence[ExpertLoad | None], index: int, ep_rank: int = 0) -> float:
    """Bytes kept by layer `index` for one micro-batch on rank `ep_rank` of the expert group."""
    kind = job.arch.layers[index]
    tokens = job.micro_batch * job.seq_len / job.layout.cp
    if kind.variant is not None:
        job = replace(job, arch=job.arch.at(kind))
    if "full" in job.recompute:
        brought = brought_bytes(job, kind, _rows(loads[index], ep_rank)) if "keep_collectives" in job.recompute else 0.0
        return job.width_bytes * job.arch.hidden * tokens / sharding(job) + brought
    total = 0.0
    if kind.mixer in ("attention", "window_attention", "cross_attention"):
        total += attention_bytes(job) * (2.0 if kind.mixer == "cross_attention" else 1.0)
    elif kind.mixer != "none":
        total += ssm_bytes(job)
    if kind.ffn != "none":
        total += ffn_bytes(job, kind, _rows(loads[index], ep_rank), tokens)
    return total * tokens * job.width_bytes / 2.0


def _rows(load: ExpertLoad | None, ep_rank: int) -> float:
    return 0.0 if load is None else float(load.rank_rows[ep_rank % len(load.rank_rows)])


def fullest_expert_rank(loads: Sequence[ExpertLoad | None], layers: Sequence[int]) -> int:
    """The rank of the expert group that receives most rows over these layers together: the one that runs out first."""
    used = [load for load in (loads[i] for i in layers) if load is not None and len(load.rank_rows) > 1]
    if not used:
        return 0
    ranks = range(len(used[0].rank_rows))
    return max(ranks, key=lambda r: (sum(_rows(load, r) for load in used), -r))


def working_bytes(job: TrainJob, loads: Sequence[ExpertLoad | None], layers: Sequence[int]) -> float:
    """What runs again lives again during the backward of its layer, of one micro-batch through these layers.

    The backward of a layer comes when those of the layers behind it are over, and what these kept is free.
    """
    if not job.recompute:
        return 0.0
    keeping = replace(job, recompute=frozenset())
    most = freed = 0.0
    for place in reversed(layers):
        kept = layer_bytes(job, loads, place)
        again = layer_bytes(keeping, loads, place) - (0.0 if "full" in job.recompute else kept)
        most, freed = max(most, again - freed), freed + kept
    return most
