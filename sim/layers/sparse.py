"""Sparse attention (DeepSeek-V3.2, GLM-5): an indexer scores every key, the core works on the best `index_top_k`.

The core runs on the latent: a query's keys are its own choice, and all heads share them (multi-query mode, FlashMLA).
The indexer scores in 8 bits where the GPU can; it chooses from the whole context and learns from the chosen keys
(DeepSeek-V3.2 report, section 2). Its projections are not split over a tensor group.
"""

from __future__ import annotations

from dataclasses import replace

from moesim.hwmodels.work import Attention
from moesim.sim.layers.context import LayerContext
from moesim.sim.layers.steps import Core, Linear, Pointwise, Step
from moesim.sim.model.arch import AttentionArch

SCORE_PASSES = 2.0  # fp32 scores are written once, and read once to choose from them


def chooses(a: AttentionArch, keys: float) -> bool:
    """Whether an indexer has anything to choose from among so many keys."""
    return a.index_top_k is not None and keys > a.index_top_k


def sparse_core(a: AttentionArch, dense: Attention) -> Attention:
    """The core on chosen keys in latent space; the dense one where that has fewer FLOPs (short sequences)."""
    assert a.index_top_k and a.kv_lora_rank and a.qk_rope_head_dim is not None
    chosen = replace(
        dense,
        kv_heads=1,
        qk_dim=a.kv_lora_rank + a.qk_rope_head_dim,
        v_dim=a.kv_lora_rank,
        shared_values=True,
        window=a.index_top_k if dense.causal else None,
        kv_len=dense.kv_len if dense.causal else min(dense.kv_len, a.index_top_k),
    )
    return chosen if chosen.flops < dense.flops else dense


def index_work(a: AttentionArch, dense: Attention, dtype: str) -> Attention:
    """Scores of every key for every query, one key head for all index heads, in `dtype`."""
    assert a.index_heads and a.index_head_dim
    return replace(
        dense, heads=a.index_heads, kv_heads=1, qk_dim=a.index_head_dim, v_dim=0, window=None, dtype=dtype
    )  # fmt: skip


def score_bytes(scores: Attention) -> float:
    """Bytes of the scores, all heads summed, that the choice moves."""
    return SCORE_PASSES * 4.0 * scores.score_elements


def index_core(ctx: LayerContext, a: AttentionArch, dense: Attention) -> list[Step]:
    """The indexer behind its projections: scores, and the choice of keys."""
    assert a.index_top_k
    scores = index_work(a, dense, "fp8" if ctx.cluster.gpu.supports("fp8") else ctx.half)
    on_chosen = replace(
        scores,
        dtype=ctx.half,
        window=a.index_top_k if scores.causal else None,
        kv_len=scores.kv_len if scores.causal else min(scores.kv_len, a.index_top_k),
    )
    choice = Pointwise(
        name="attention.choose",
        forward_bytes=score_bytes(scores),
        backward_bytes=0.0,
        category="attention",
        module="core_attention",
        kernels=3,
        part="core",
    )
    return [Core(name="attention.index", work=scores, backward_work=on_chosen), choice]


def index_projections(ctx: LayerContext, a: AttentionArch) -> list[Linear]:
    """Queries of the index heads from the latent, one key and a weight per head from the hidden state; 16 bits."""
    if not a.index_heads or not a.index_head_dim:
        return []
    rows, trains = max(1, round(ctx.local_tokens)), ctx.lora_rank == 0
    wide = a.index_heads * a.index_head_dim
    sizes = (
        ("attention.index_q", wide, a.q_lora_rank or ctx.arch.hidden),
        ("attention.index_k", a.index_head_dim + a.index_heads, ctx.arch.hidden),
    )
    return [Linear(name=name, m=rows, n=n, k=k, dtype=ctx.half, trainable=trains) for name, n, k in sizes]
