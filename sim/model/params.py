"""Closed-form counts of a ModelArch: parameters, active parameters, FLOPs and KV-cache bytes per token.

Conventions, chosen so that the counts of released checkpoints come out: biases and norms are counted; tied
embeddings are counted once; MTP modules are never part of the total (see `mtp_params`); the routed experts
that a token does not visit are the only weights that are not active. All counts are exact integers.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from moesim.hwmodels.dtypes import bytes_per_element
from moesim.sim.model.arch import LayerKind, ModelArch
from moesim.sim.model.weights import (
    EXPERT_FFN,
    SOFTMAX,
    attention_of,
    dense_ffn,
    expert,
    experts_in,
    mixer,
    moe_of,
    optional,
    router,
    shared,
    ssm_of,
)

__all__ = [
    "ActiveParams",
    "LayerParams",
    "active_parameters",
    "dense_ffn_params",
    "embedding_params",
    "expert_params",
    "experts_in",
    "final_norm_params",
    "flops_per_token",
    "head_params",
    "kv_bytes_per_token",
    "layer_params",
    "matmul_params",
    "mixer_params",
    "mtp_kind",
    "mtp_params",
    "norm_params",
    "parameters",
    "router_params",
    "shared_params",
]


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


def matmul_params(arch: ModelArch) -> int:
    """Weights that multiply every token once: active matrices and the output head, not the input look-up."""
    layers = sum(n * _active_layer_matrix(arch, kind) for kind, n in Counter(arch.layers).items())
    return layers + arch.vocab * arch.hidden


def flops_per_token(arch: ModelArch, seq_len: int, causal: bool = True) -> float:
    """Forward model FLOPs per token of a sequence of `seq_len` tokens: 2 x matmul weights + token mixing.

    Attention is counted on unmasked pairs only. Encoder-decoder models: one encoder token plus one decoder
    token, both sequences `seq_len` long.
    """
    mixing = sum(n * _mixing_flops(arch, kind, seq_len, causal) for kind, n in Counter(arch.layers).items())
    return 2.0 * matmul_params(arch) + mixing


def kv_bytes_per_token(arch: ModelArch, dtype: str) -> float:
    """Bytes of KV cache that one token leaves behind in all layers, elements in `dtype`.

    MLA caches the latent and the rotary key, sparse attention also its index keys; window layers count
    fully although they forget; state-space layers and encoders keep nothing per token. Cross-attention
    keeps a second set, per encoder token.
    """
    attention = arch.attention
    if attention is None:
        return 0.0
    if attention.is_mla:
        width = optional(attention.kv_lora_rank) + optional(attention.qk_rope_head_dim)
    else:
        width = attention.kv_heads * (attention.head_dim + attention.v_head_dim)
    width += optional(attention.index_head_dim)
    sets = {"attention": 1, "window_attention": 1, "cross_attention": 2}
    caches = sum(sets.get(kind.mixer, 0) for kind in arch.layers if not kind.encoder)
    return caches * width * bytes_per_element(dtype)


def _active_layer_matrix(arch: ModelArch, kind: LayerKind) -> int:
    matrix = mixer(arch, kind).matrix + dense_ffn(arch, kind).matrix
    if kind.ffn in EXPERT_FFN:
        visited = min(moe_of(arch).top_k, experts_in(arch, kind))
        matrix += router(arch, kind).matrix + shared(arch).matrix + visited * expert(arch).matrix
    return matrix


def _mixing_flops(arch: ModelArch, kind: LayerKind, seq_len: int, causal: bool) -> float:
    """FLOPs per token that no weight explains: attention scores and values, or the recurrent state."""
    if kind.mixer == "none":
        return 0.0
    if kind.mixer not in SOFTMAX:
        ssm = ssm_of(arch)
        if kind.mixer == "gated_deltanet":
            return 6.0 * ssm.d_inner * ssm.key_dim  # recall by key, write the correction, read by query
        return 4.0 * ssm.d_inner * ssm.d_state  # write and read
    a = attention_of(arch)
    seen = _mean_context(seq_len, None, causal and not kind.encoder)
    per_pair = 2.0 * a.heads * (a.head_dim + a.v_head_dim)
    if kind.mixer == "cross_attention":
        return per_pair * (seen + seq_len)
    limit = a.window if kind.mixer == "window_attention" else a.index_top_k
    indexer = 2.0 * optional(a.index_heads) * optional(a.index_head_dim) * seen
    return per_pair * _mean_context(seq_len, limit, causal and not kind.encoder) + indexer


def _mean_context(seq_len: int, limit: int | None, causal: bool) -> float:
    """Mean number of keys that a query sees: all, or the last `limit`; the query itself included."""
    cap = min(seq_len, limit or seq_len)
    if not causal:
        return float(cap)
    return cap - cap * (cap - 1) / 2.0 / seq_len  # the first `cap` queries see 1, 2, ... cap keys


def _norm_width(arch: ModelArch) -> int:
    return arch.hidden * (2 if arch.layernorm else 1)
