"""Fit `GemmFit` to the measured GEMM tables: dense GEMMs of one GPU and one dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any

from moesim.calibrate.fit.formula import FitResult, Free, Sample, fit_coefficients, free_for, judge, split
from moesim.calibrate.fit.kernel_tables import TABLE_DTYPE, read_table, table_path
from moesim.calibrate.fit.surface import Plane, fit_surface
from moesim.hwmodels.gpu import GpuSpec
from moesim.hwmodels.kernel_fits import GEMM_AXES, GemmFit
from moesim.hwmodels.kernels import gemm_position, gemm_time_s
from moesim.hwmodels.work import Gemm

FILE = "gemm_perf.parquet"
_CUBLAS = ("vllm/0.24.0", "sglang/0.5.14", "trtllm/1.3.0rc20")
# bf16 pools the serving engines: all call the vendor's library, on different machines, so that the fit is of
# the typical machine. GB200 leaves out vLLM: its rows from m = 16384 run at 0.44-0.56 of peak where the two
# others see 0.67. fp8, fp8_block and nvfp4 use SGLang: its rows time the bare kernel (scaled_mm, DeepGEMM,
# CuTe DSL), without the quantisation of the input that the others' rows include.
_LOW_PRECISION = ("sglang/0.5.14",)
_BF16_SOURCES = {
    "a100-sxm-80gb": ("sglang/0.5.10", "vllm/0.14.0", "trtllm/1.0.0"),
    "gb200": ("sglang/0.5.14", "trtllm/1.3.0rc20"),
}
DTYPES = {"Ampere": ("bf16",), "Hopper": ("bf16", "fp8", "fp8_block")}
_BLACKWELL_DTYPES = ("bf16", "fp8", "fp8_block", "nvfp4")
TILES = ((128, 128), (128, 256), (256, 128))
LEFT_OUT = 6000
_NODES = (
    (0.0, 2.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 15.0),
    (5.0, 7.0, 9.0, 11.0, 12.0, 13.0, 14.0, 16.0),
    (5.0, 8.0, 11.0, 13.0, 16.0),
    (0.5, 0.75, 1.0),
)

FREE = {
    "launch_s": Free(3e-6, 1e-7, 5e-5),
    "flops_efficiency": Free(0.8, 0.05, 1.0),
    "bandwidth_efficiency": Free(0.8, 0.05, 1.0),
    "overlap_power": Free(2.0, 1.0, 8.0),
    "tile_m_exponent": Free(0.3, 0.0, 1.0),
    "pad_n_columns": Free(8.0, 0.0, 2000.0),
    "pad_k": Free(64.0, 0.0, 2000.0),
    "partial_wave_exponent": Free(0.3, 0.0, 0.95),
    "wave_exponent": Free(0.3, 0.0, 1.0),
    "decline": Free(0.05, 0.0, 0.6),
    "decline_scale_s": Free(1e-3, 1e-4, 1e-2),
    "serial_s_per_k": Free(1e-10, 0.0, 5e-9),
}


def dtypes_of(gpu: GpuSpec) -> tuple[str, ...]:
    """Dtypes with a table on this GPU."""
    return DTYPES.get(gpu.arch.split()[0], _BLACKWELL_DTYPES)


def sources_of(gpu: GpuSpec, dtype: str) -> tuple[str, ...]:
    """Engines whose tables are read."""
    return _BF16_SOURCES.get(gpu.name, _CUBLAS) if dtype == "bf16" else _LOW_PRECISION


def plane_of(dtype: str) -> Plane[Gemm]:
    """What the surface is laid over."""

    def work_at(node: tuple[float, ...]) -> Gemm:
        m, n, k = (round(2.0**x) for x in node[:3])
        return Gemm(m, n, k, dtype)

    return Plane(GEMM_AXES, _NODES, gemm_position, work_at, growing=3)


def load_samples(gpu: GpuSpec, dtype: str) -> list[Sample[Gemm]]:
    """One sample per shape, the median of the sources. A family is one (n, k): a third of the pairs is never seen."""
    seconds: dict[tuple[int, int, int], list[float]] = {}
    for source in sources_of(gpu, dtype):
        path = table_path(gpu.name, "gemm", source, FILE)
        for m, n, k, ms in read_table(path, ["m", "n", "k", "latency"], {"gemm_dtype": TABLE_DTYPE[dtype]}):
            seconds.setdefault((int(m), int(n), int(k)), []).append(float(ms) * 1e-3)
    return [Sample(Gemm(*shape, dtype), median(each), shape[1:]) for shape, each in seconds.items()]


def fit_gemm(gpu: GpuSpec, dtype: str, fit_count: int = 2500) -> tuple[GemmFit, FitResult, list[Sample[Gemm]]]:
    """Best tile (by loss on the fitted families), its coefficients and surface, the errors on left-out (n, k) pairs."""
    samples = load_samples(gpu, dtype)
    seen, unseen = split(samples, fit_count, LEFT_OUT)
    peak, bandwidth, sms = gpu.peak(dtype), gpu.hbm_bytes_per_s, gpu.sm_count
    best: tuple[GemmFit, FitResult] | None = None
    for tile_m, tile_n in TILES:

        def predict(v: Mapping[str, Any], work: Gemm, tm: int = tile_m, tn: int = tile_n) -> float:
            return gemm_time_s(work, peak, bandwidth, sms, GemmFit(tile_m=tm, tile_n=tn, **v))

        result = fit_coefficients(predict, free_for(FREE, sms), seen, unseen)
        if best is None or result.loss < best[1].loss:
            values: Mapping[str, Any] = result.values
            best = GemmFit(tile_m=tile_m, tile_n=tile_n, **values), result
    assert best is not None
    bare, all_seen = best[0], split(samples, len(samples), LEFT_OUT)[0]

    def seconds_of(fit: GemmFit, work: Gemm) -> float:
        return gemm_time_s(work, peak, bandwidth, sms, fit)

    fit = replace(bare, surface=fit_surface(plane_of(dtype), all_seen, lambda work: seconds_of(bare, work)))
    return fit, judge(lambda _, work: seconds_of(fit, work), {}, all_seen, unseen, best[1].loss), samples
