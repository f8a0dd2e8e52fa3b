"""The attention core of inference: decode against a cache, chunks of a prompt, and the state of state-space layers."""

from __future__ import annotations

from moesim.hwmodels.work import Attention, Stream, Work
from moesim.sim.model.arch import AttentionArch, LayerKind
from moesim.sim.model.params import SOFTMAX
from moesim.sim.serve.job import ServeJob

_INDEX_DTYPE = "fp8"  # assumed: sparse attention keeps its index keys in 8 bits (DeepSeek-V3.2, GLM-5)


def _window(a: AttentionArch, kind: LayerKind) -> int | None:
    return a.window if kind.mixer == "window_attention" else None


def decode_work(job: ServeJob, kind: LayerKind, batch: int, kv_len: int) -> list[Work]:
    """Kernels of one layer for one new token of `batch` sequences that hold `kv_len` tokens each."""
    if kind.mixer not in SOFTMAX:
        return _state_work(job, kind, batch)
    a = job.arch.attention
    assert a is not None
    heads, dtype = a.heads // job.layout.tp, job.formats.kv
    drafted = 1 + (job.speculation.tokens if job.speculation else 0)
    window = _window(a, kind)
    extra: list[Work] = []
    if a.index_top_k and a.index_head_dim and kv_len > a.index_top_k:
        keys = float(batch) * kv_len * a.index_head_dim
        extra = [Stream(keys * (1.0 if _INDEX_DTYPE == "fp8" else 2.0), "index", 3)]
        kv_len = a.index_top_k
    if a.is_mla:  # queries are taken into the latent space: all heads share one cached vector
        assert a.kv_lora_rank and a.qk_rope_head_dim is not None
        width = a.kv_lora_rank + a.qk_rope_head_dim
        return [
            Attention(
                batch,
                drafted,
                kv_len,
                heads,
                1,
                width,
                a.kv_lora_rank,
                False,
                None,
                dtype,
                "decode",
                shared_values=True,
            ),
            *extra,
        ]
    kv_heads = max(1, a.kv_heads // job.layout.tp)
    work = Attention(batch, drafted, kv_len, heads, kv_heads, a.head_dim, a.v_head_dim, False, window, dtype, "decode")
    return [work, *extra]


def _state_work(job: ServeJob, kind: LayerKind, batch: int) -> list[Work]:
    """A recurrent layer reads and writes its state, fp32, once per sequence and step."""
    s = job.arch.ssm
    if kind.mixer == "none" or s is None:
        return []
    return [Stream(2.0 * batch * state_bytes(job, kind), "ssm", 2)]


def state_bytes(job: ServeJob, kind: LayerKind) -> float:
    """Bytes of one sequence's state in one recurrent layer on one rank, convolution window included."""
    s = job.arch.ssm
    assert s is not None
    tp = job.layout.tp
    per_channel = s.key_dim if kind.mixer == "gated_deltanet" else s.d_state
    return 4.0 * s.d_inner * per_channel / tp + 2.0 * s.d_inner * s.d_conv / tp


def prefill_work(job: ServeJob, kind: LayerKind, chunk: int, cached: int) -> list[Work]:
    """Kernels of one layer for `chunk` prompt tokens behind `cached` ones; recurrent layers are priced by layers.py."""
    a = job.arch.attention
    if kind.mixer not in SOFTMAX or a is None:
        return []
    heads, kv_heads = a.heads // job.layout.tp, max(1, a.kv_heads // job.layout.tp)
    if a.is_mla:
        kv_heads = heads
    window = a.index_top_k if a.index_top_k else _window(a, kind)
    length = cached + chunk
    if window is not None and window >= length:
        window = None
    causal = not kind.encoder
    half = "bf16" if job.cluster.gpu.supports("bf16") else "fp16"
    return [
        Attention(
            1, chunk, length, heads, kv_heads, a.head_dim, a.v_head_dim, causal, window if causal else None, half,
            cache_write=True,
        )
    ]  # fmt: skip
