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
from moesim.sim.model.mixer_weights import OVERLAPPING

SCORE_PASSES = 2.0  # fp32 scores are written once, and read once to choose from them


def chooses(a: AttentionArch, keys: float) -> bool:
    """Whether an indexer has anything to choose from among so many keys."""
    return a.index_top_k is not None and keys > a.index_top_k * (a.compress or 1)


def sparse_core(a: AttentionArch, dense: Attention) -> Attention:
    """The core on chosen keys, of MLA in latent space; the dense one where that has fewer FLOPs (short sequences)."""
    assert a.index_top_k
    if not a.is_mla:
        some = a.index_top_k if dense.causal else None
        return replace(dense, window=some, kv_len=dense.kv_len if some else min(dense.kv_len, a.index_top_k))
    assert a.kv_lora_rank and a.qk_rope_head_dim is not None
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
    if a.compress:  # one key per so many tokens; half of them before a query, as the mask would leave
        dense = replace(dense, kv_len=max(1, dense.q_len // a.compress // 2), causal=False)
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


def compressor_width(a: AttentionArch) -> int:
    """Columns of values and gates of the entries that stand for `compress` tokens each."""
    assert a.compress
    return 2 * a.head_dim * (2 if a.compress <= OVERLAPPING else 1)


def index_projections(ctx: LayerContext, a: AttentionArch) -> list[Linear]:
    """Queries of the index heads from the latent, one key and a weight per head from the hidden state; 16 bits.

    Compressed keys come with gates, and twice where spans overlap.
    """
    if not a.index_heads or not a.index_head_dim or a.index_shared:
        return []
    rows, trains = max(1, round(ctx.local_tokens)), ctx.lora_rank == 0
    wide = a.index_heads * a.index_head_dim
    weights = a.index_heads if a.is_mla or a.compress else 0  # grouped queries: heads count alike (MiniMax-M3)
    key = compressor_width(replace(a, head_dim=a.index_head_dim)) if a.compress else a.index_head_dim
    sizes = (
        ("attention.index_q", wide, a.q_lora_rank or ctx.arch.hidden),
        ("attention.index_k", key + weights, ctx.arch.hidden),
    )
    return [Linear(name=name, m=rows, n=n, k=k, dtype=ctx.half, trainable=trains) for name, n, k in sizes]
