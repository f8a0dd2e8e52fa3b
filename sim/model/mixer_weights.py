"""Weights of a token mixer in closed form: attention of every kind, state spaces, linear attention, convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from moesim.sim.model.arch import AttentionArch, SsmArch

OVERLAPPING = 4  # tokens per compressed entry up to which neighbouring spans overlap


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


NOTHING = Weights(0, 0)


def optional(value: int | None) -> int:
    """0 for a size that is not there."""
    return value or 0


def attention_weights(a: AttentionArch, hidden: int) -> Weights:
    """Weights of one attention block of any kind, its indexer included, norms on the residual stream not."""
    if a.is_mla:
        return _mla(a, hidden).plus(_indexer(a, hidden))
    if a.compress or a.shared_values:
        return _compressed(a, hidden).plus(_indexer(a, hidden))
    gate = a.heads * (a.head_dim if a.output_gate else 1 if a.head_gate else 0)
    q = a.heads * a.head_dim + gate
    k = a.kv_heads * a.head_dim
    v = 0 if a.no_v_proj else a.kv_heads * a.v_head_dim
    matrix = hidden * (k + v + gate) + _output(a, hidden)
    matrix += a.q_lora_rank * (hidden + a.heads * a.head_dim) if a.q_lora_rank else hidden * a.heads * a.head_dim
    vector = (q + k + v if a.qkv_bias else 0) + (hidden if a.o_bias else 0) + (a.heads if a.sinks else 0)
    if a.qk_norm == "head":
        vector += 2 * a.head_dim
    elif a.qk_norm == "full":
        vector += a.heads * a.head_dim + k
    vector += optional(a.q_lora_rank)  # norm of the latent
    return Weights(matrix, vector).plus(_indexer(a, hidden))


def _output(a: AttentionArch, hidden: int) -> int:
    """Weights of the output projection: one matrix, or a low-rank one per group of heads and one that joins them."""
    wide = a.heads * a.v_head_dim
    if not a.o_lora_rank:
        return wide * hidden
    return wide * a.o_lora_rank + (a.o_groups or 1) * a.o_lora_rank * hidden


def _indexer(a: AttentionArch, hidden: int) -> Weights:
    """Queries, key and head weights of an indexer of the layer's own; its LayerNorm of the keys.

    Over compressed keys the key has a compressor of its own instead of a projection.
    """
    if not a.index_heads or a.index_shared:
        return NOTHING
    width = optional(a.index_head_dim)
    matrix = (a.q_lora_rank or hidden) * a.index_heads * width + hidden * a.index_heads
    if a.compress:
        return Weights(matrix, 0).plus(_compressor(hidden, width, a.compress))
    if not a.is_mla:  # grouped-query attention scores with as many index heads as key heads, unweighted (MiniMax-M3)
        return Weights(hidden * (a.index_heads + 1) * width, 2 * width)
    return Weights(matrix + hidden * width, 2 * width)


def _compressor(hidden: int, width: int, ratio: int) -> Weights:
    """What makes one entry of `ratio` tokens: values, gates, positions, a norm; short spans overlap (DeepSeek-V4)."""
    wide = width * (2 if ratio <= OVERLAPPING else 1)
    return Weights(2 * hidden * wide, ratio * wide + width)


def _compressed(a: AttentionArch, hidden: int) -> Weights:
    """Multi-query attention whose one vector is key and value, with the compressor of older tokens (DeepSeek-V4)."""
    rank, q = optional(a.q_lora_rank), a.heads * a.head_dim
    matrix = (rank * (hidden + q) if rank else hidden * q) + hidden * a.kv_heads * a.head_dim + _output(a, hidden)
    vector = rank + a.head_dim + (a.heads if a.sinks else 0)
    own = Weights(matrix, vector)
    return own.plus(_compressor(hidden, a.head_dim, a.compress)) if a.compress else own


def _mla(a: AttentionArch, hidden: int) -> Weights:
    kv, rope, nope = optional(a.kv_lora_rank), optional(a.qk_rope_head_dim), optional(a.qk_nope_head_dim)
    q = a.heads * (nope + rope)
    q_rank = optional(a.q_lora_rank)
    matrix = q_rank * (hidden + q) if q_rank else hidden * q
    matrix += hidden * (kv + rope) + kv * a.heads * (nope + a.v_head_dim) + a.heads * a.v_head_dim * hidden
    matrix += hidden * a.heads * a.v_head_dim if a.output_gate else 0
    return Weights(matrix, q_rank + kv)  # norms of the two latents


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


def _kda(s: SsmArch, hidden: int) -> Weights:
    """Kimi Delta Attention: q, k, v with short convolutions, decay per channel through a latent, an output gate."""
    keys, head = s.key_heads * s.key_dim, s.d_inner // s.heads
    gate = s.gate_rank * (hidden + s.d_inner) if s.gate_rank else hidden * s.d_inner
    matrix = hidden * (2 * keys + s.d_inner) + (2 * keys + s.d_inner) * s.d_conv + s.d_inner * hidden
    matrix += s.key_dim * (hidden + keys) + hidden * s.heads + gate  # decay, write strength, gate
    return Weights(matrix, s.heads + keys + head)  # decay per head, dt bias, gated norm


def _lightning(s: SsmArch, hidden: int) -> Weights:
    """Lightning attention: q, k, v and an output gate, no convolution; its decay is no weight."""
    matrix = hidden * (2 * s.key_heads * s.key_dim + 2 * s.d_inner) + s.d_inner * hidden
    return Weights(matrix, s.d_inner)  # norm before the output projection


def _short_conv(s: SsmArch, hidden: int) -> Weights:
    """A short convolution between two gates (LFM2)."""
    return Weights(3 * hidden * s.d_inner + s.d_inner * s.d_conv + s.d_inner * hidden, 0)


RECURRENT: dict[str, Callable[[SsmArch, int], Weights]] = {
    "mamba1": _mamba1,
    "mamba2": _mamba2,
    "gated_deltanet": _gated_deltanet,
    "kda": _kda,
    "lightning": _lightning,
    "short_conv": _short_conv,
}
