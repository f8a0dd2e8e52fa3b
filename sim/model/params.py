"""Parameters of a model and of the parts of a layer in closed form, whole and active.

Conventions, chosen so that the counts of released checkpoints come out: biases and norms are counted; tied
embeddings are counted once; MTP modules are never part of the total (see `mtp_params`); the routed experts
that a token does not visit are the only weights that are not active. All counts are exact integers. Matrices and
vectors are counted apart: a matrix weight costs one multiply-add per token (two FLOPs), a vector weight (norm, bias,
decay rate) next to nothing.
"""

from __future__ import annotations

from collections import Counter
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


class ActiveParams(NamedTuple):
    """Parameters that one token touches; published figures follow one convention or the other."""

    with_input_embedding: int
    without_input_embedding: int  # leaves out an untied input table (a look-up, not a matrix product)


class LayerParams(NamedTuple):
    """Parameters of one layer, in numbers of weights; `experts` holds all routed experts together."""

    mixer: int
    dense_ffn: int
    experts: int
    shared: int
    router: int
    norms: int

    @property
    def total(self) -> int:
        """All parameters of the layer."""
        return sum(self)


def mixer_params(arch: ModelArch, kind: LayerKind) -> int:
    """Parameters of one layer's token mixer (attention, cross-attention included, or state space)."""
    return mixer(arch, kind).total


def dense_ffn_params(arch: ModelArch, kind: LayerKind) -> int:
    """Parameters of the dense block of one layer: a plain layer's FFN, or the residual MLP beside experts."""
    return dense_ffn(arch, kind).total


def expert_params(arch: ModelArch) -> int:
    """Parameters of ONE routed expert; 0 for a dense model."""
    return expert(arch).total


def shared_params(arch: ModelArch) -> int:
    """Parameters of all shared experts of one MoE layer, with their gate; 0 where there are none."""
    return shared(arch).total


def router_params(arch: ModelArch, kind: LayerKind) -> int:
    """Parameters of one layer's router, with the projections into and out of a latent expert space."""
    return router(arch, kind).total


def norm_params(arch: ModelArch, kind: LayerKind) -> int:
    """Parameters of the norms on one layer's residual stream; a decoder's cross-attention brings one more."""
    norms = arch.norms_per_layer + (1 if kind.mixer == "cross_attention" else 0)
    return norms * _norm_width(arch)


def final_norm_params(arch: ModelArch) -> int:
    """Parameters of the last norm of each stack (two stacks when there is an encoder)."""
    stacks = len({kind.encoder for kind in arch.layers})
    return stacks * _norm_width(arch)


def embedding_params(arch: ModelArch) -> int:
    """Parameters of the input table [vocab, hidden] and of learned positions [learned_positions, hidden]."""
    return (arch.vocab + arch.learned_positions) * arch.hidden


def head_params(arch: ModelArch) -> int:
    """Parameters of the output projection [hidden, vocab]; 0 when it is tied to the input table."""
    return 0 if arch.tied_embeddings else arch.vocab * arch.hidden


def layer_params(arch: ModelArch, kind: LayerKind) -> LayerParams:
    """Parameters of one layer, part by part."""
    return LayerParams(
        mixer=mixer_params(arch, kind),
        dense_ffn=dense_ffn_params(arch, kind),
        experts=experts_in(arch, kind) * expert_params(arch),
        shared=shared_params(arch) if kind.ffn in EXPERT_FFN else 0,
        router=router_params(arch, kind),
        norms=norm_params(arch, kind),
    )


def parameters(arch: ModelArch) -> int:
    """All parameters of the text model, MTP modules not counted."""
    layers = sum(n * layer_params(arch, kind).total for kind, n in Counter(arch.layers).items())
    return layers + embedding_params(arch) + head_params(arch) + final_norm_params(arch)


def active_parameters(arch: ModelArch) -> ActiveParams:
    """Parameters that one token touches: everything but the routed experts it does not visit."""
    idle = sum(
        n * max(0, experts_in(arch, kind) - moe_of(arch).top_k) * expert_params(arch)
        for kind, n in Counter(arch.layers).items()
        if kind.ffn in EXPERT_FFN
    )
    active = parameters(arch) - idle
    table = 0 if arch.tied_embeddings else arch.vocab * arch.hidden
    return ActiveParams(active, active - table)


def mtp_params(arch: ModelArch) -> int:
    """Parameters of all multi-token-prediction modules.

    Each holds one attention layer with the model's own feed-forward kind, a projection [2 hidden, hidden],
    two norms on its inputs and one on its output; embedding table and output head are the main model's.
    """
    if arch.mtp_layers == 0:
        return 0
    layer = layer_params(arch, mtp_kind(arch)).total
    # in a stack of single blocks (one norm each) a module holds two of them
    missing_norms = max(0, 2 - arch.norms_per_layer) * _norm_width(arch)
    return arch.mtp_layers * (layer + missing_norms + 2 * arch.hidden**2 + 3 * _norm_width(arch))


def mtp_kind(arch: ModelArch) -> LayerKind:
    """The layer inside an MTP module: full attention, with experts when the model has any."""
    return LayerKind(mixer="attention", ffn="moe" if arch.is_moe else "dense")


def _norm_width(arch: ModelArch) -> int:
    return arch.hidden * (2 if arch.layernorm else 1)
