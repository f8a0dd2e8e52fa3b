"""Weights of the parts of one layer in closed form: attention, MLA, Mamba, gated DeltaNet, FFN, experts.

Matrices and vectors are counted apart: a matrix weight costs one multiply-add per token (two FLOPs), a vector
weight (norm, bias, decay rate) next to nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from moesim.sim.model.arch import AttentionArch, FfnArch, LayerKind, ModelArch, MoeArch, SsmArch

EXPERT_FFN = ("moe", "moe_residual")
SOFTMAX = ("attention", "window_attention", "cross_attention")


class Weights(NamedTuple):
    """Parameters of one part of a model, split by what they cost per token."""

    matrix: int  # one multiply-add each per token
    vector: int  # norms, biases, scalars

    @property
    def total(self) -> int:
        """All parameters of the part."""
        return self.matrix + self.vector

    def times(self, n: int) -> Weights:
        """`n` copies of this part."""
        return Weights(self.matrix * n, self.vector * n)

    def plus(self, other: Weights) -> Weights:
        """Both parts together."""
        return Weights(self.matrix + other.matrix, self.vector + other.vector)


_NOTHING = Weights(0, 0)


def experts_in(arch: ModelArch, kind: LayerKind) -> int:
    """Number of routed experts in one layer; 0 in a layer without experts."""
    if kind.ffn not in EXPERT_FFN:
        return 0
    return kind.experts if kind.experts is not None else moe_of(arch).experts


def mixer(arch: ModelArch, kind: LayerKind) -> Weights:
    if kind.mixer == "none":
        return _NOTHING
    if kind.mixer in SOFTMAX:
        one = _attention(attention_of(arch), arch.hidden)
        return one.times(2) if kind.mixer == "cross_attention" else one
    ssm = ssm_of(arch)
    if kind.mixer == "mamba1":
        return _mamba1(ssm, arch.hidden)
    return _mamba2(ssm, arch.hidden) if kind.mixer == "mamba2" else _gated_deltanet(ssm, arch.hidden)


def _attention(a: AttentionArch, hidden: int) -> Weights:
    if a.is_mla:
        return _mla(a, hidden)
    q = a.heads * a.head_dim * (2 if a.output_gate else 1)
    k = a.kv_heads * a.head_dim
    v = a.kv_heads * a.v_head_dim
    matrix = hidden * (q + k + v) + a.heads * a.v_head_dim * hidden
    vector = (q + k + v if a.qkv_bias else 0) + (hidden if a.o_bias else 0) + (a.heads if a.sinks else 0)
    if a.qk_norm == "head":
        vector += 2 * a.head_dim
    elif a.qk_norm == "full":
        vector += a.heads * a.head_dim + k
    return Weights(matrix, vector)


def _mla(a: AttentionArch, hidden: int) -> Weights:
    kv, rope, nope = optional(a.kv_lora_rank), optional(a.qk_rope_head_dim), optional(a.qk_nope_head_dim)
    q = a.heads * (nope + rope)
    q_rank = optional(a.q_lora_rank)
    matrix = q_rank * (hidden + q) if q_rank else hidden * q
    matrix += hidden * (kv + rope) + kv * a.heads * (nope + a.v_head_dim) + a.heads * a.v_head_dim * hidden
    vector = q_rank + kv  # norms of the two latents
    if a.index_heads:
        width = optional(a.index_head_dim)
        matrix += (q_rank or hidden) * a.index_heads * width + hidden * width + hidden * a.index_heads
        vector += 2 * width  # LayerNorm of the index keys
    return Weights(matrix, vector)


def _mamba1(s: SsmArch, hidden: int) -> Weights:
    matrix = hidden * 2 * s.d_inner + s.d_inner * s.d_conv + s.d_inner * (s.dt_rank + 2 * s.d_state)
    matrix += s.dt_rank * s.d_inner + s.d_inner * hidden
    # conv bias, dt bias, decay A, skip D; norms of dt, B and C as in Jamba
    return Weights(matrix, s.d_inner * (3 + s.d_state) + s.dt_rank + 2 * s.d_state)


def _mamba2(s: SsmArch, hidden: int) -> Weights:
    conv = s.d_inner + 2 * s.key_heads * s.d_state
    matrix = hidden * (s.d_inner + conv + s.heads) + conv * s.d_conv + s.d_inner * hidden
    return Weights(matrix, conv + 3 * s.heads + s.d_inner)  # conv bias; decay, skip, dt bias; gated norm


def _gated_deltanet(s: SsmArch, hidden: int) -> Weights:
    conv = 2 * s.key_heads * s.key_dim + s.d_inner
    matrix = hidden * (conv + s.d_inner + 2 * s.heads) + conv * s.d_conv + s.d_inner * hidden
    return Weights(matrix, 2 * s.heads + s.d_inner // s.heads)  # decay and dt bias; gated norm per head


def _mlp(width: int, intermediate: int, gated: bool, bias: bool) -> Weights:
    up = 2 if gated else 1
    vector = up * intermediate + width if bias and intermediate else 0
    return Weights((up + 1) * width * intermediate, vector)


def dense_ffn(arch: ModelArch, kind: LayerKind) -> Weights:
    if kind.ffn == "dense":
        ffn = ffn_of(arch)
        return _mlp(arch.hidden, ffn.intermediate, ffn.gated, arch.bias)
    if kind.ffn == "moe_residual":
        moe = moe_of(arch)
        return _mlp(arch.hidden, moe.residual_intermediate, moe.gated, arch.bias)
    return _NOTHING


def expert(arch: ModelArch) -> Weights:
    moe = arch.moe
    if moe is None:
        return _NOTHING
    return _mlp(moe.latent or arch.hidden, moe.expert_intermediate, moe.gated, moe.expert_bias)


def shared(arch: ModelArch) -> Weights:
    moe = arch.moe
    if moe is None:
        return _NOTHING
    gate = Weights(arch.hidden if moe.shared_gate else 0, 0)
    return _mlp(arch.hidden, moe.shared_intermediate, moe.gated, arch.bias).plus(gate)


def router(arch: ModelArch, kind: LayerKind) -> Weights:
    if kind.ffn not in EXPERT_FFN:
        return _NOTHING
    moe = moe_of(arch)
    experts = experts_in(arch, kind)
    latent = 2 * arch.hidden * moe.latent if moe.latent else 0
    return Weights(arch.hidden * experts + latent, experts if moe.router_bias else 0)


def optional(value: int | None) -> int:
    return value or 0


def attention_of(arch: ModelArch) -> AttentionArch:
    if arch.attention is None:
        raise ValueError(f"{arch.name} has attention layers but no attention sizes")
    return arch.attention


def ffn_of(arch: ModelArch) -> FfnArch:
    if arch.ffn is None:
        raise ValueError(f"{arch.name} has dense layers but no ffn sizes")
    return arch.ffn


def moe_of(arch: ModelArch) -> MoeArch:
    if arch.moe is None:
        raise ValueError(f"{arch.name} has MoE layers but no moe sizes")
    return arch.moe


def ssm_of(arch: ModelArch) -> SsmArch:
    if arch.ssm is None:
        raise ValueError(f"{arch.name} has state-space layers but no ssm sizes")
    return arch.ssm
