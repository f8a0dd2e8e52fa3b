"""Fit `AttentionFit` to the measured attention tables: prefill (context) and decode (generation), one GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.calibrate.fit.formula import FitResult, Free, Sample, fit_coefficients, free_for, judge, split
from moesim.calibrate.fit.kernel_tables import TABLE_DTYPE, has_column, read_table, table_path
from moesim.calibrate.fit.surface import Plane, fit_surface
from moesim.hwmodels.gpu import GpuSpec
from moesim.hwmodels.kernel_fits import ATTENTION_AXES, AttentionFit
from moesim.hwmodels.kernels import MAX_HEAD_DIM, attention_position, attention_time_s
from moesim.hwmodels.work import Attention, AttentionPhase

CONTEXT_FILE = "context_attention_perf.parquet"
GENERATION_FILE = "generation_attention_perf.parquet"
# vLLM: FlashAttention 2 on A100, 3 on Hopper, FlashInfer/cuDNN-class kernels on Blackwell
_SOURCES = {"a100-sxm-80gb": "vllm/0.14.0"}
_DEFAULT_SOURCE = "vllm/0.24.0"
MIN_PREFILL_LEN = 64  # shorter prompts are launch and cache-write time
BACKWARD_EFFICIENCY_RATIO = 0.8  # assumed: no table holds backward kernels

FORWARD_FREE = {
    "launch_s": Free(8e-6, 1e-6, 6e-5),
    "flops_efficiency": Free(0.65, 0.05, 1.0),
    "bandwidth_efficiency": Free(0.7, 0.1, 1.0),
    "overlap_power": Free(2.0, 1.0, 8.0),
    "diagonal_keys": Free(128.0, 0.0, 1000.0),
    "pad_dim": Free(30.0, 0.0, 400.0),
    "serial_s_per_key": Free(2e-9, 0.0, 5e-8),
    "cache_write_passes": Free(1.0, 0.0, 10.0),
    "partial_wave_exponent": Free(0.5, 0.0, 0.95),
    "wave_exponent": Free(0.3, 0.0, 1.0),
}
DECODE_FREE = {
    "decode_launch_s": Free(1e-5, 1e-6, 6e-5),
    "decode_bandwidth_efficiency": Free(0.9, 0.1, 1.0),
    "decode_ramp_bytes": Free(1e7, 0.0, 1e9),
    "decode_pad_keys": Free(64.0, 0.0, 1000.0),
    "decode_sequence_s": Free(1e-9, 0.0, 1e-6),
    "decode_partial_wave_exponent": Free(0.2, 0.0, 0.5),
    "decode_flops_efficiency": Free(0.3, 0.02, 1.0),
    "decode_group_rows": Free(16.0, 1.0, 128.0),
    "decode_overlap_power": Free(2.0, 1.0, 8.0),
}
# placeholders while the other half is fitted
_NO_FORWARD: dict[str, float] = {name: f.start for name, f in FORWARD_FREE.items()}
_NO_DECODE: dict[str, float] = {name: f.start for name, f in DECODE_FREE.items()}


def source_of(gpu: GpuSpec) -> str:
    """Engine and version whose tables are read."""
    return _SOURCES.get(gpu.name, _DEFAULT_SOURCE)


def load_samples(gpu: GpuSpec, dtype: str, decode: bool) -> list[Sample[Attention]]:
    """All rows of one phase. A family is one layout: heads, KV heads, head dimension and window."""
    path = table_path(gpu.name, "attention", source_of(gpu), GENERATION_FILE if decode else CONTEXT_FILE)
    columns = ["batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim", "latency"]
    if has_column(path, "window_size"):
        columns.append("window_size")
    name = TABLE_DTYPE[dtype]
    rows = read_table(path, columns, {"attn_dtype": name, "kv_cache_dtype": name})
    return [_sample(row, dtype, decode) for row in rows if _wanted(row, decode)]


def _wanted(row: tuple[Any, ...], decode: bool) -> bool:
    """Rows inside the range that the fit claims: wider heads run other kernels, up to 80 times slower."""
    return row[5] <= MAX_HEAD_DIM and (decode or row[1] >= MIN_PREFILL_LEN)


def _sample(row: tuple[Any, ...], dtype: str, decode: bool) -> Sample[Attention]:
    """One table row as work; `step` of a decode row is the KV length before the new token."""
    batch, isl, step, heads, kv_heads, dim = (int(x) for x in row[:6])
    window = int(row[7]) if len(row) > 7 else 0
    q_len, kv_len = (1, step + 1) if decode else (isl, isl)
    phase: AttentionPhase = "decode" if decode else "forward"
    seen = window or None
    work = Attention(batch, q_len, kv_len, heads, kv_heads, dim, dim, True, seen, dtype, phase, cache_write=not decode)
    return Sample(work, float(row[6]) * 1e-3, (heads, kv_heads, dim, window))


_HEADS = ((0.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0), (0.0, 1.0, 2.0, 3.0, 4.0, 6.0), (6.0, 7.0, 8.0), (0.0, 2.0, 5.0))
_PREFILL_KEYS = (6.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0)
_DECODE_KEYS = (1.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 17.0)
LEFT_OUT = 6000


def plane_of(decode: bool, dtype: str) -> Plane[Attention]:
    """What the surface of one phase is laid over."""

    def work_at(node: tuple[float, ...]) -> Attention:
        keys, sequences, group, dim, per_window = (round(2.0**x) for x in node)
        window = max(1, round(keys / per_window)) if per_window > 1 else None
        phase: AttentionPhase = "decode" if decode else "forward"
        return Attention(
            sequences, 1 if decode else keys, keys, group, 1, dim, dim, True, window, dtype, phase,
            cache_write=not decode,
        )  # fmt: skip

    nodes = (_DECODE_KEYS if decode else _PREFILL_KEYS, *_HEADS)
    return Plane(ATTENTION_AXES, nodes, attention_position, work_at, growing=2)


def make_fit(forward: Mapping[str, Any], decode: Mapping[str, Any]) -> AttentionFit:
    """The record from its two halves and the assumed backward ratio."""
    return AttentionFit(backward_efficiency_ratio=BACKWARD_EFFICIENCY_RATIO, **forward, **decode)


def fit_phase(
    gpu: GpuSpec, dtype: str, decode: bool, fit_count: int = 2500
) -> tuple[dict[str, Any], FitResult, list[Sample[Attention]]]:
    """Coefficients and surface of one phase by name, and its errors on left-out head layouts."""
    samples = load_samples(gpu, dtype, decode)
    seen, unseen = split(samples, fit_count, LEFT_OUT)
    peak, bandwidth, sms = gpu.peak(dtype), gpu.hbm_bytes_per_s, gpu.sm_count

    def predict(v: Mapping[str, Any], work: Attention) -> float:
        fit = make_fit(_NO_FORWARD, v) if decode else make_fit(v, _NO_DECODE)
        return attention_time_s(work, peak, bandwidth, sms, fit)

    free = free_for(DECODE_FREE if decode else FORWARD_FREE, sms)
    bare = fit_coefficients(predict, free, seen, unseen)
    all_seen = split(samples, len(samples), LEFT_OUT)[0]
    name = "decode_surface" if decode else "surface"
    values = {
        **bare.values,
        name: fit_surface(plane_of(decode, dtype), all_seen, lambda work: predict(bare.values, work)),
    }
    return values, judge(predict, values, all_seen, unseen, bare.loss), samples
