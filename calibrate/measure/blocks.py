"""What a transformer does between its matrices, in plain torch: timed alone and run inside whole programs."""

from __future__ import annotations

from typing import Any

EPSILON = 1e-6


def rms_norm(x: Any, weight: Any) -> Any:
    """Root-mean-square norm over the last axis."""
    import torch.nn.functional as F  # noqa: N812  # the name everybody uses

    return F.rms_norm(x, (x.shape[-1],), weight, EPSILON)


def gated_activation(x: Any) -> Any:
    """SwiGLU on gate and up side by side: [rows, 2 inner] -> [rows, inner]."""
    import torch.nn.functional as F  # noqa: N812  # the name everybody uses

    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def rotary_tables(seq_len: int, dim: int, dtype: str, device: str) -> tuple[Any, Any]:
    """Cosines and sines of every position, shape [1, seq_len, 1, dim / 2]."""
    import torch

    from moesim.calibrate.measure.tensors import dtype_of

    frequency = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    angle = torch.outer(torch.arange(seq_len, dtype=torch.float32), frequency)[None, :, None, :]
    return angle.cos().to(device, dtype_of(dtype)), angle.sin().to(device, dtype_of(dtype))


def split_and_rotate(qkv: Any, batch: int, heads: int, kv_heads: int, cosines: Any, sines: Any) -> tuple[Any, ...]:
    """Queries, keys, values of [tokens, width], the first two turned by position: each [batch, heads, seq, dim]."""
    import torch

    dim = qkv.shape[-1] // (heads + 2 * kv_heads)
    both, values = qkv.split(((heads + kv_heads) * dim, kv_heads * dim), dim=-1)
    both = both.view(batch, -1, heads + kv_heads, dim)
    left, right = both.chunk(2, dim=-1)
    turned = torch.cat((left * cosines - right * sines, right * cosines + left * sines), dim=-1)
    queries, keys = turned.split((heads, kv_heads), dim=2)
    return (
        queries.transpose(1, 2),
        keys.transpose(1, 2),
        values.view(batch, -1, kv_heads, dim).transpose(1, 2),
    )


def choose_experts(scores: Any, top_k: int) -> tuple[Any, Any]:
    """Softmax router in fp32: weights and experts of every token, both [tokens, top_k], weights summing to one."""
    import torch

    weights, experts = torch.topk(torch.softmax(scores.float(), dim=-1), top_k, dim=-1)
    return weights / weights.sum(dim=-1, keepdim=True), experts


def into_expert_order(x: Any, experts: Any) -> tuple[Any, Any]:
    """Every token's vector once per expert it goes to, sorted by expert; and the order, for the way back."""
    flat = experts.reshape(-1)
    order = flat.argsort(stable=True)
    return x.index_select(0, order // experts.shape[1]), order


def back_to_tokens(rows: Any, order: Any, weights: Any, tokens: int) -> Any:
    """Weighted sum of the experts' rows per token: [tokens x top_k, width] -> [tokens, width]."""
    top_k = weights.shape[1]
    weighted = rows * weights.reshape(-1).index_select(0, order).to(rows.dtype)[:, None]
    return rows.new_zeros(tokens, rows.shape[1]).index_add(0, order // top_k, weighted)


def attend(parts: tuple[Any, ...], causal: bool) -> Any:
    """Softmax attention of (queries, keys, values), each [batch, heads, seq, dim], by torch's pick.

    Heads are grouped where there are fewer keys than queries.
    """
    import torch.nn.functional as F  # noqa: N812  # the name everybody uses

    queries, keys, values = parts
    grouped = queries.shape[1] != keys.shape[1]
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=causal, enable_gqa=grouped)


def grouped_linear(x: Any, weights: Any, rows: tuple[int, ...]) -> Any:
    """Rows of each expert times its own matrix: x [sum(rows), k] -> [sum(rows), n].

    `weights` as one tensor [experts, n, k] run as one grouped kernel (CUDA), as a list of matrices one by one.
    """
    import torch
    import torch.nn.functional as F  # noqa: N812  # the name everybody uses

    if isinstance(weights, torch.Tensor):
        ends = torch.tensor(rows, device=x.device).cumsum(0).to(torch.int32)
        return F.grouped_mm(x, weights.transpose(1, 2), offs=ends)
    parts = x.split(rows)
    return torch.cat([F.linear(part, weight) for part, weight in zip(parts, weights, strict=True) if len(part)])
