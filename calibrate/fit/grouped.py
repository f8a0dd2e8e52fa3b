"""Fit `GroupedGemmFit` to the measured mixture-of-experts tables (one GPU holds all experts: tp = ep = 1).

One row times the whole MoE op: two grouped GEMMs (gate and up together, then down), and around them routing,
sort, permute, activation and combine. The streams around the GEMMs are counted in bytes at an assumed share
of HBM bandwidth; what is constant goes to `op_overhead_s`; the launch floor is that of the plain GEMM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from moesim.calibrate.fit.formula import FitResult, Free, Sample, fit_coefficients, free_for, split
from moesim.calibrate.fit.kernel_tables import TABLE_DTYPE, read_table, table_path
from moesim.hwmodels.gpu import GpuSpec, bytes_per_element
from moesim.hwmodels.kernel_fits import GroupedGemmFit
from moesim.hwmodels.kernels import grouped_gemm_time_s
from moesim.hwmodels.work import GroupedGemm

FILE = "moe_perf.parquet"
_SOURCES = {"a100-sxm-80gb": "trtllm/1.0.0"}
_DEFAULT_SOURCE = "trtllm/1.3.0rc20"
DTYPES = {"Ampere": ("bf16",), "Hopper": ("bf16", "fp8", "fp8_block")}
_BLACKWELL_DTYPES = ("bf16", "fp8", "fp8_block", "nvfp4")
# gated ops only; where a table holds two nvfp4 kernels, the faster one, which is what is served
KERNELS = ("moe_torch_flow_cutlass", "moe_torch_flow", "deepgemm")
_FASTER_KERNEL = {
    ("b200-hgx", "nvfp4"): ("moe_torch_flow_min_latency",),
    ("gb200", "nvfp4"): ("moe_torch_flow_min_latency",),
}
STREAM_BANDWIDTH_EFFICIENCY = 0.7  # assumed: permute, activation and combine move bytes at this share of HBM
TILES = (64, 128)
TILE_N = 128

FREE = {
    "group_s": Free(2e-7, 0.0, 3e-6),
    "flops_efficiency": Free(0.7, 0.05, 1.0),
    "bandwidth_efficiency": Free(0.8, 0.05, 1.0),
    "overlap_power": Free(2.0, 1.0, 8.0),
    "pad_weight": Free(0.7, 0.0, 1.0),
    "pad_n_columns": Free(50.0, 0.0, 2000.0),
    "pad_k": Free(100.0, 0.0, 2000.0),
    "partial_wave_exponent": Free(0.3, 0.0, 0.95),
    "wave_exponent": Free(0.3, 0.0, 1.0),
    "op_overhead_s": Free(2e-5, 1e-6, 1e-4),
}


@dataclass(frozen=True, slots=True)
class MoeOp:
    """One measured op: its two grouped GEMMs and the bytes moved around them."""

    gate_up: GroupedGemm
    down: GroupedGemm
    stream_bytes: float


def dtypes_of(gpu: GpuSpec) -> tuple[str, ...]:
    """Dtypes with a table on this GPU."""
    return DTYPES.get(gpu.arch.split()[0], _BLACKWELL_DTYPES)


def source_of(gpu: GpuSpec) -> str:
    """Engine and version whose table is read."""
    return _SOURCES.get(gpu.name, _DEFAULT_SOURCE)


@lru_cache(maxsize=4096)
def rows_per_expert(tokens: int, top_k: int, experts: int, distribution: str) -> tuple[int, ...]:
    """Rows of every expert, largest first. Power laws: quantiles of the law that they were drawn from."""
    total = tokens * top_k
    if distribution == "balanced":
        base, extra = divmod(total, experts)
        return (base + 1,) * extra + (base,) * (experts - extra)
    exponent = 1.0 - float(distribution.removeprefix("power_law_"))
    low, high = (1.0, max(1.0, tokens * 0.8)) if total > experts else (0.01, 2.0)
    quantiles = [(i + 0.5) / experts for i in range(experts)]
    a, b = low**exponent, high**exponent
    loads = sorted(((a + (b - a) * u) ** (1.0 / exponent) for u in quantiles), reverse=True)
    scale = total / sum(loads)
    rows = [round(x * scale) for x in loads]
    missing, i = total - sum(rows), 0
    while missing:
        step = 1 if missing > 0 else -1
        if rows[i % experts] + step >= 0:
            rows[i % experts] += step
            missing -= step
        i += 1
    return tuple(sorted(rows, reverse=True))


def make_op(tokens: int, hidden: int, inter: int, rows: tuple[int, ...], dtype: str, out_dtype: str = "bf16") -> MoeOp:
    """Gated MoE: rows x hidden to 2 x inter, activation, rows x inter to hidden, weighted sum per token."""
    routed = sum(rows)
    b, wide = bytes_per_element(dtype), bytes_per_element(out_dtype)
    permute = tokens * hidden * wide + routed * hidden * b
    activation = routed * inter * (2 * wide + b)
    combine = routed * hidden * wide + tokens * hidden * wide
    return MoeOp(
        GroupedGemm(rows, 2 * inter, hidden, dtype, out_dtype),
        GroupedGemm(rows, hidden, inter, dtype, out_dtype),
        permute + activation + combine,
    )


def load_samples(gpu: GpuSpec, dtype: str) -> list[Sample[MoeOp]]:
    """Rows with all experts on one GPU, gated. A family is one model shape: hidden, inter, top-k, experts."""
    path = table_path(gpu.name, "moe", source_of(gpu), FILE)
    columns = ["num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "distribution", "latency"]
    equal = {"moe_dtype": TABLE_DTYPE[dtype], "moe_tp_size": 1, "moe_ep_size": 1}
    kernels = _FASTER_KERNEL.get((gpu.name, dtype), KERNELS)
    samples = []
    for *shape, distribution, ms, kernel in read_table(path, [*columns, "kernel_source"], equal):
        if str(kernel) not in kernels:
            continue
        tokens, hidden, inter, top_k, experts = (int(x) for x in shape)
        rows = rows_per_expert(tokens, top_k, experts, str(distribution))
        op = make_op(tokens, hidden, inter, rows, dtype)
        samples.append(Sample(op, float(ms) * 1e-3, (hidden, inter, top_k, experts)))
    return samples


def op_time_s(op: MoeOp, gpu: GpuSpec, peak_flops_per_s: float, fit: GroupedGemmFit) -> float:
    """Seconds of the whole measured op."""
    bandwidth, sms = gpu.hbm_bytes_per_s, gpu.sm_count
    gemms = sum(grouped_gemm_time_s(g, peak_flops_per_s, bandwidth, sms, fit) for g in (op.gate_up, op.down))
    return gemms + fit.op_overhead_s + op.stream_bytes / (bandwidth * fit.stream_bandwidth_efficiency)


def fit_grouped(
    gpu: GpuSpec, dtype: str, launch_s: float, fit_count: int = 1000
) -> tuple[GroupedGemmFit, FitResult, list[Sample[MoeOp]]]:
    """Best row tile (by loss), its coefficients, and the errors on left-out model shapes."""
    samples = load_samples(gpu, dtype)
    seen, unseen = split(samples, fit_count, 2500)
    peak = gpu.peak(dtype)
    best: tuple[GroupedGemmFit, FitResult] | None = None
    for tile in TILES:

        def record(v: Mapping[str, float], rows: int = tile) -> GroupedGemmFit:
            return GroupedGemmFit(
                launch_s=launch_s,
                tile_rows=rows,
                tile_n=TILE_N,
                stream_bandwidth_efficiency=STREAM_BANDWIDTH_EFFICIENCY,
                **v,
            )

        def predict(v: Mapping[str, float], op: MoeOp, make: object = record) -> float:
            assert callable(make)
            return op_time_s(op, gpu, peak, make(v))

        result = fit_coefficients(predict, free_for(FREE, gpu.sm_count), seen, unseen)
        if best is None or result.loss < best[1].loss:
            best = record(result.values), result
    assert best is not None
    return best[0], best[1], samples
