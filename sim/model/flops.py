"""FLOPs and KV-cache bytes per token in closed form, from the weights that a token meets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from moesim.hwmodels.gpu import bytes_per_element
from moesim.sim.model.arch import AttentionArch, LayerKind, ModelArch
from moesim.sim.model.mixer_weights import optional
from moesim.sim.model.params import (
    EXPERT_FFN,
    SOFTMAX,
    attention_of,
    dense_ffn,
    expert,
    experts_in,
    mixer,
    moe_of,
    router,
    shared,
    ssm_of,
)


def matmul_params(arch: ModelArch) -> int:
    """Weights that multiply every token once: active matrices and the output head, not the input look-up."""
    layers = sum(n * _active_layer_matrix(arch, kind) for kind, n in Counter(arch.layers).items())
    return layers + arch.vocab * arch.hidden


def flops_per_token(arch: ModelArch, seq_len: int, causal: bool = True) -> float:
    """Forward model FLOPs per token of a sequence of `seq_len` tokens: 2 x matmul weights + token mixing.

    Attention is counted on unmasked pairs only. Encoder-decoder models: one encoder token plus one decoder
    token, both sequences `seq_len` long.
    """
    return 2.0 * matmul_params(arch) + mixing_flops_per_token(arch, seq_len, causal)


def mixing_flops_per_token(arch: ModelArch, seq_len: int, causal: bool = True) -> float:
    """Forward FLOPs per token that no weight explains: scores and values on unmasked pairs, recurrent states."""
    return sum(n * _mixing_flops(arch, kind, seq_len, causal) for kind, n in Counter(arch.layers).items())


def kept_matmul_params(arch: ModelArch, kept: Sequence[float]) -> float:
    """Weights that multiply a token where a layer computes only a share of the token-expert pairs.

    `kept` [layers]: that share, 1 in a layer without experts or without a capacity limit.
    """
    lost = sum((1.0 - share) * _routed_matrix(arch, kind) for kind, share in zip(arch.layers, kept, strict=True))
    return matmul_params(arch) - lost


def kv_bytes_per_token(arch: ModelArch, dtype: str) -> float:
    """Bytes of KV cache that one token leaves behind in all layers, elements in `dtype`.

    MLA caches the latent and the rotary key, sparse attention also its index keys; window layers count
    fully although they forget; state-space layers and encoders keep nothing per token. Cross-attention
    keeps a second set, per encoder token.
    """
    sets = {"attention": 1, "window_attention": 1, "cross_attention": 2}
    elements = sum(
        n * sets[kind.mixer] * cached_elements(attention_of(arch.at(kind)))
        for kind, n in Counter(arch.layers).items()
        if kind.mixer in sets and not kind.encoder
    )
    return elements * bytes_per_element(dtype)


def cached_elements(a: AttentionArch) -> float:
    """Elements that one more token leaves in a layer's cache; compressed keys are one entry per so many tokens."""
    return (a.cached_width + a.own_index_dim) / (a.compress or 1)


def _active_layer_matrix(arch: ModelArch, kind: LayerKind) -> int:
    matrix = mixer(arch, kind).matrix + dense_ffn(arch, kind).matrix
    if kind.ffn in EXPERT_FFN:
        matrix += router(arch, kind).matrix + shared(arch).matrix + _routed_matrix(arch, kind)
    return matrix


def _routed_matrix(arch: ModelArch, kind: LayerKind) -> int:
    """Weights of the routed experts that a token visits in a layer."""
    if kind.ffn not in EXPERT_FFN:
        return 0
    return min(moe_of(arch).top_k, experts_in(arch, kind)) * expert(arch).matrix


def _mixing_flops(arch: ModelArch, kind: LayerKind, seq_len: int, causal: bool) -> float:
    """FLOPs per token that no weight explains: attention scores and values, or the recurrent state."""
    if kind.mixer == "none":
        return 0.0
    if kind.mixer not in SOFTMAX:
        ssm = ssm_of(arch)
        if kind.mixer in ("gated_deltanet", "kda"):
            return 6.0 * ssm.d_inner * ssm.key_dim  # recall by key, write the correction, read by query
        if kind.mixer == "lightning":
            return 4.0 * ssm.d_inner * ssm.key_dim  # write and read
        if kind.mixer == "short_conv":
            return 4.0 * ssm.d_inner  # two gates; the taps are counted with the weights
        return 4.0 * ssm.d_inner * ssm.d_state  # write and read
    a = attention_of(arch.at(kind))
    seen = _mean_context(seq_len, None, causal and not kind.encoder)
    per_pair = 2.0 * a.heads * (a.head_dim + a.v_head_dim)
    if kind.mixer == "cross_attention":
        return per_pair * (seen + seq_len)
    indexer = 2.0 * optional(a.index_heads) * a.own_index_dim * seen / (a.compress or 1)
    if a.compress:
        return per_pair * mean_seen(a, seq_len) + indexer
    limit = a.window if kind.mixer == "window_attention" else a.index_top_k
    return per_pair * _mean_context(seq_len, limit, causal and not kind.encoder) + indexer


def mean_seen(a: AttentionArch, seq_len: int) -> float:
    """Mean number of cache entries that a query sees in a layer with compressed keys: recent tokens and older spans."""
    ratio = a.compress or 1
    chosen = a.index_top_k * ratio if a.index_top_k else None
    return _mean_context(seq_len, a.window, True) + _mean_context(seq_len, chosen, True) / ratio


def _mean_context(seq_len: int, limit: int | None, causal: bool) -> float:
    """Mean number of keys that a query sees: all, or the last `limit`; the query itself included."""
    cap = min(seq_len, limit or seq_len)
    if not causal:
        return float(cap)
    return cap - cap * (cap - 1) / 2.0 / seq_len  # the first `cap` queries see 1, 2, ... cap keys
