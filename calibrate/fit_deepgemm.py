"""Fit `GroupedGemmFit` to the wide expert-parallel tables: DeepGEMM grouped fp8-block kernels behind DeepEP.

These rows are the expert stage of one rank in SGLang's DeepEP prefill path, for one model shape (hidden 7168,
intermediate 2048, 256 experts, top-8). `num_tokens` counts the tokens of all ranks, and the benchmark scatters and
gathers over all of them: that traffic (one fp8 read, one 16-bit write per token) is taken off as a stream.
"""

from __future__ import annotations

from collections.abc import Mapping

from calibrate.fit_grouped import FREE, STREAM_BANDWIDTH_EFFICIENCY, TILE_N, MoeOp, op_time_s
from calibrate.kernel_fit import FitResult, Sample, fit_coefficients, split
from calibrate.kernel_tables import read_table, table_path
from hwmodels.dtypes import bytes_per_element
from hwmodels.gpu import GpuSpec
from hwmodels.kernels import GroupedGemmFit
from hwmodels.work import GroupedGemm

FILE = "wideep_context_moe_perf.parquet"
SOURCE = "sglang/0.5.10"
KERNEL = "deepgemm"
DTYPE = "fp8_block"
GPUS = ("h100-sxm", "h200-sxm")
TILE_ROWS = 128


def load_samples(gpu: GpuSpec) -> list[Sample[MoeOp]]:
    """Uniformly routed rows. A family is one expert-parallel width."""
    path = table_path(gpu.name, "moe", SOURCE, FILE)
    columns = ["num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_ep_size", "latency"]
    samples = []
    for *shape, ms in read_table(path, columns, {"distribution": "uniform", "moe_dtype": DTYPE}):
        tokens, hidden, inter, top_k, experts, ep = (int(x) for x in shape)
        local = experts // ep
        base, extra = divmod(tokens * top_k // ep, local)
        rows = (base + 1,) * extra + (base,) * (local - extra)
        if sum(rows):
            op = _op(tokens, hidden, inter, rows)
            samples.append(Sample(op, float(ms) * 1e-3, (ep,)))
    return samples


def _op(tokens: int, hidden: int, inter: int, rows: tuple[int, ...]) -> MoeOp:
    """The two GEMMs of one rank, and the bytes around them."""
    b, wide, routed = bytes_per_element(DTYPE), 2.0, sum(rows)
    scatter = tokens * hidden * b + routed * hidden * b
    activation = routed * inter * (2 * wide + b)
    gather = routed * hidden * wide + tokens * hidden * wide
    gate_up = GroupedGemm(rows, 2 * inter, hidden, DTYPE)
    return MoeOp(gate_up, GroupedGemm(rows, hidden, inter, DTYPE), scatter + activation + gather)


def fit_deepgemm(
    gpu: GpuSpec, launch_s: float
) -> tuple[GroupedGemmFit, FitResult, list[Sample[MoeOp]]]:
    """Coefficients, and the errors on left-out expert-parallel widths."""
    samples = load_samples(gpu)
    seen, unseen = split(samples, len(samples), len(samples))
    peak = gpu.peak(DTYPE)
    free = {n: f for n, f in FREE.items() if n not in ("pad_n_columns", "pad_k")}  # one (n, k): not identifiable

    def record(v: Mapping[str, float]) -> GroupedGemmFit:
        return GroupedGemmFit(
            launch_s=launch_s,
            tile_rows=TILE_ROWS,
            tile_n=TILE_N,
            pad_n_columns=0.0,
            pad_k=0.0,
            stream_bandwidth_efficiency=STREAM_BANDWIDTH_EFFICIENCY,
            **v,
        )

    def predict(v: Mapping[str, float], op: MoeOp) -> float:
        return op_time_s(op, gpu, peak, record(v))

    result = fit_coefficients(predict, free, seen, unseen)
    return record(result.values), result, samples
