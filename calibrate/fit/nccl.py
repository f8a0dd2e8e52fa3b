"""Fit `CollectiveFit` to the nccl-tests tables: 2, 4 and 8 GPUs of one node, half precision."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moesim.calibrate.fit.formula import FitResult, Free, Sample, fit_coefficients, split
from moesim.calibrate.fit.kernel_tables import read_table, table_path
from moesim.hwmodels.domain_collectives import CollectiveFit, domain_collective_s
from moesim.hwmodels.gpu import GpuSpec
from moesim.hwmodels.units import MIB
from moesim.hwmodels.work import CommKind

FILE = "nccl_perf.parquet"
_SOURCES = {"a100-sxm-80gb": "nccl/2.27.3"}
_DEFAULT_SOURCE = "nccl/2.29.2"
_KIND: dict[str, CommKind] = {
    "all_gather": "all_gather",
    "all_reduce": "all_reduce",
    "alltoall": "all_to_all",
    "reduce_scatter": "reduce_scatter",
}
# spellings of the GPU in comm tables of published measurements
_PUBLISHED_NAME = {
    "A100 SXM 80GB": "a100-sxm-80gb",
    "H100 SXM": "h100-sxm",
    "H200 SXM": "h200-sxm",
    "B200": "b200-hgx",
    "GB200": "gb200",
}
_NVLS_MIN_RANKS = {"Hopper": 5, "Blackwell": 6}
_HALF_BYTES = 2  # message_size counts elements

FREE = {
    "base_s": Free(6e-6, 1e-6, 3e-5),
    "hop_s": Free(1e-6, 1e-7, 5e-6),
    "a2a_base_s": Free(8e-6, 1e-6, 4e-5),
    "link_efficiency": Free(0.8, 0.3, 1.0),
    "a2a_efficiency": Free(0.75, 0.3, 1.0),
    "pair_efficiency": Free(0.7, 0.3, 1.0),
    "ramp_sqrt_s": Free(2e-3, 0.0, 2e-2),
    "own_share": Free(0.3, 0.0, 1.5),
    "a2a_own_share": Free(0.3, 0.0, 1.5),
    "a2a_chunk_s": Free(5e-6, 0.0, 2e-5),
    "a2a_chunk_bytes": Free(2.5e4, 2e3, 2e5),
    "a2a_ramp_sqrt_s": Free(2e-3, 0.0, 2e-2),
}
NVLS_FREE = {
    "nvls_base_s": Free(1.5e-5, 5e-6, 6e-5),
    "nvls_efficiency": Free(0.65, 0.3, 1.0),
    "nvls_fill_s": Free(4e-5, 1e-6, 3e-4),
}
NVLS_FIELDS = (*NVLS_FREE, "nvls_min_ranks")
# the second protocol, and the largest buffer per rank before rings switch to it: tables hold powers of two only
PROTOCOL_FREE = {"small_efficiency": Free(0.4, 0.1, 1.0), "fill_hop_s": Free(8e-6, 1e-7, 4e-5)}
SWITCHES = (0.25 * MIB, 0.5 * MIB, 1.0 * MIB)
WORTH = 0.9  # a second protocol must explain at least a tenth of what one leaves over


@dataclass(frozen=True, slots=True)
class NodeCollective:
    """One measured collective in one node."""

    kind: CommKind
    ranks: int
    bytes: int


Key = tuple[str, str, int, int]  # GPU, kind, ranks, bytes


def read_exclusions(path: Path | None) -> frozenset[Key]:
    """Rows of a published-measurements CSV that repeat these tables and are marked `test`: never fitted."""
    if path is None:
        return frozenset()
    with path.open(encoding="utf-8", newline="") as handle:
        rows = [r for r in csv.DictReader(handle) if r["id"].startswith("aic-nccl-") and r["split"] == "test"]
    return frozenset((_PUBLISHED_NAME[r["gpu"]], r["op"], int(r["gpus"]), int(float(r["bytes"]))) for r in rows)


def source_of(gpu: GpuSpec) -> str:
    """Library and version whose table is read."""
    return _SOURCES.get(gpu.name, _DEFAULT_SOURCE)


def load_samples(gpu: GpuSpec, excluded: frozenset[Key]) -> tuple[list[Sample[NodeCollective]], int]:
    """Rows that may be fitted, and how many were excluded. A family is one message size."""
    path = table_path(gpu.name, "comm", source_of(gpu), FILE)
    rows = read_table(path, ["op_name", "num_gpus", "message_size", "latency"], {"nccl_dtype": "half"})
    samples, dropped = [], 0
    for name, ranks, elements, ms in rows:
        work = NodeCollective(_KIND[str(name)], int(ranks), int(elements) * _HALF_BYTES)
        if (gpu.name, work.kind, work.ranks, work.bytes) in excluded:
            dropped += 1
        else:
            samples.append(Sample(work, float(ms) * 1e-3, (work.bytes,)))
    return samples, dropped


def nvls_min_ranks(gpu: GpuSpec) -> int:
    """Ranks from which NCCL uses in-switch reduction; 0 before Hopper."""
    return _NVLS_MIN_RANKS.get(gpu.arch.split()[0], 0)


def fit_collectives(
    gpu: GpuSpec, excluded: frozenset[Key]
) -> tuple[CollectiveFit, FitResult, list[Sample[NodeCollective]], int]:
    """Coefficients, errors on left-out sizes, the samples and how many rows were excluded.

    Without an all-reduce row at NVLS size the NVLS rate stays 0: the caller borrows it from a sibling part.
    """
    samples, dropped = load_samples(gpu, excluded)
    ranks = nvls_min_ranks(gpu)
    has_nvls = ranks > 0 and any(s.work.kind == "all_reduce" and s.work.ranks >= ranks for s in samples)
    free = {**FREE, **NVLS_FREE} if has_nvls else FREE
    none = dict.fromkeys((*NVLS_FREE, *PROTOCOL_FREE), 0.0)
    seen, unseen = split(samples, len(samples), len(samples))
    link = gpu.scale_up_bytes_per_s

    def fitted(v: Mapping[str, float], switch: float) -> CollectiveFit:
        return CollectiveFit(nvls_min_ranks=ranks, switch_bytes=switch, **{**none, **v})

    def fit_at(switch: float) -> FitResult:
        def predict(v: Mapping[str, float], work: NodeCollective) -> float:
            return domain_collective_s(work.kind, work.ranks, float(work.bytes), link, fitted(v, switch))

        return fit_coefficients(predict, free | (PROTOCOL_FREE if switch else {}), seen, unseen, long_weight=1.0)

    plain = fit_at(0.0)
    fits = [(fit_at(switch), switch) for switch in SWITCHES]
    result, switch = min(fits, key=lambda each: each[0].loss)  # of the rows seen; those left out only judge
    if result.loss > WORTH * plain.loss:
        result, switch = plain, 0.0
    return fitted(result.values, switch), result, samples, dropped
