"""Make the shipped kernel profiles from the measured tables of the package aiconfigurator-core.

    python -m moesim.calibrate.fit.kernels [--gpu h100-sxm ...] [--exclude comm.csv] [--date YYYY-MM-DD] [--out DIR]

Needs the extra `fit`. Deterministic: one seed, no clock but the date. `--exclude` names a CSV of published
collective measurements; its rows marked `test` that repeat rows of the tables stay out of the collective fit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from moesim.calibrate.fit import attention as fit_attention
from moesim.calibrate.fit import gemm as fit_gemm
from moesim.calibrate.fit import grouped as fit_grouped
from moesim.calibrate.fit import nccl as fit_nccl
from moesim.calibrate.fit.formula import FitResult
from moesim.calibrate.fit.kernel_tables import LICENCE, PACKAGE, SYSTEM_OF, package_version, table_path
from moesim.hwmodels.domain_collectives import CollectiveFit
from moesim.hwmodels.gpu import GpuSpec, load_gpu
from moesim.hwmodels.machine import SCHEMA, profile_text

PROFILES = Path(__file__).parents[2] / "hwmodels" / "profiles"
# parts whose tables hold no fittable all-reduce at NVLS size borrow it from the same generation
NVLS_SIBLING = {"h200-sxm": "h100-sxm", "gb200": "b200-hgx", "gb300": "b300-hgx"}


def rounded(value: Any) -> Any:
    """Floats to six significant digits, containers included."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return value


def provenance(
    result: FitResult,
    tables: Sequence[str],
    shape_range: Mapping[str, tuple[float, float]],
    rule: str,
    fit_date: str,
    assumed: Sequence[str] = (),
    notes: str = "",
) -> dict[str, Any]:
    """The record `hwmodels.profile.Provenance` as a dict."""
    errors = asdict(result)
    for name in ("values", "loss"):
        del errors[name]
    return {
        "package": PACKAGE,
        "package_version": package_version(),
        "licence": LICENCE,
        "tables": list(tables),
        "fit_date": fit_date,
        "left_out_rule": rule,
        "shape_range": {k: list(v) for k, v in shape_range.items()},
        "assumed": list(assumed),
        "notes": notes,
        **errors,
    }


def ranges(works: Iterable[Any], names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each attribute."""
    held = list(works)
    values = {n: [float(getattr(w, n)) for w in held] for n in names}
    return {n: (min(v), max(v)) for n, v in values.items()}


def _gemms(gpu: GpuSpec, raw: dict[str, Any], fit_date: str) -> None:
    for dtype in fit_gemm.dtypes_of(gpu):
        fit, result, samples = fit_gemm.fit_gemm(gpu, dtype)
        tables = [table_path(gpu.name, "gemm", s, fit_gemm.FILE) for s in fit_gemm.sources_of(gpu, dtype)]
        raw["gemm"][dtype] = asdict(fit)
        raw["provenance"][f"gemm/{dtype}"] = provenance(
            result,
            tables,
            ranges((s.work for s in samples), ("m", "n", "k")),
            "one third of all (n, k) pairs",
            fit_date,
            notes="bf16: median of the engines (the typical machine); others: the bare kernel, without the input cast",
        )
        _say(gpu.name, f"gemm/{dtype}", result)


def _grouped(gpu: GpuSpec, raw: dict[str, Any], fit_date: str) -> None:
    for dtype in fit_grouped.dtypes_of(gpu):
        launch_s = raw["gemm"][dtype]["launch_s"]
        fit, result, samples = fit_grouped.fit_grouped(gpu, dtype, launch_s)
        path = table_path(gpu.name, "moe", fit_grouped.source_of(gpu), fit_grouped.FILE)
        works = [s.work.gate_up for s in samples]
        shape = {**ranges(works, ("total_rows", "active_groups")), "hidden": ranges(works, ("k",))["k"]}
        low, high = ranges(works, ("n",))["n"]
        shape["inter"] = (low / 2.0, high / 2.0)
        raw["grouped_gemm"][dtype] = asdict(fit)
        raw["provenance"][f"grouped_gemm/{dtype}"] = provenance(
            result,
            [path],
            shape,
            "one third of all model shapes (hidden, inter, top-k, experts)",
            fit_date,
            assumed=(
                "launch_s is that of the plain GEMM",
                "stream_bandwidth_efficiency of permute, activation and combine",
                "rows per expert of power-law rows are quantiles of the law they were drawn from",
                "weight gradients use the forward coefficients",
            ),
            notes="errors are of the whole MoE op (two grouped GEMMs, streams, op_overhead_s), tp = ep = 1",
        )
        _say(gpu.name, f"grouped_gemm/{dtype}", result)


def _attention(gpu: GpuSpec, raw: dict[str, Any], fit_date: str) -> None:
    dtype = "bf16"
    halves = []
    for decode, label, file in (
        (False, "attention_forward", fit_attention.CONTEXT_FILE),
        (True, "attention_decode", fit_attention.GENERATION_FILE),
    ):
        values, result, samples = fit_attention.fit_phase(gpu, dtype, decode)
        halves.append(values)
        names = ("batch", "q_len", "kv_len", "heads", "kv_heads", "qk_dim")
        raw["provenance"][f"{label}/{dtype}"] = provenance(
            result,
            [table_path(gpu.name, "attention", fit_attention.source_of(gpu), file)],
            ranges((s.work for s in samples), names),
            "one third of all head layouts (heads, KV heads, dimension, window)",
            fit_date,
            assumed=() if decode else ("backward_efficiency_ratio: no table holds backward kernels",),
            notes="" if decode else "rows include writing K and V into a paged cache (cache_write_passes)",
        )
        _say(gpu.name, label, result)
    raw["attention"][dtype] = asdict(fit_attention.make_fit(*halves))


def _collectives(
    gpu: GpuSpec, excluded: frozenset[fit_nccl.Key], fit_date: str
) -> tuple[CollectiveFit, dict[str, Any]]:
    fit, result, samples, dropped = fit_nccl.fit_collectives(gpu, excluded)
    assumed = []
    if fit.nvls_min_ranks:
        assumed.append("nvls_min_ranks: smallest group in which NCCL was seen to use NVLS, by generation")
        if not fit.nvls_efficiency:
            sibling = load_gpu(NVLS_SIBLING[gpu.name])
            donor, *_ = fit_nccl.fit_collectives(sibling, excluded)
            borrowed = {name: getattr(donor, name) for name in fit_nccl.NVLS_FIELDS}
            fit = CollectiveFit(**{**asdict(fit), **borrowed})
            assumed.append(f"NVLS rate and floor are those of {sibling.name}: no row of that size to fit")
    _say(gpu.name, "collectives", result)
    return fit, provenance(
        result,
        [table_path(gpu.name, "comm", fit_nccl.source_of(gpu), fit_nccl.FILE)],
        ranges((s.work for s in samples), ("ranks", "bytes")),
        "one third of all message sizes",
        fit_date,
        assumed,
        f"half precision, one node; {dropped} rows that repeat published test measurements were not fitted",
    )


def _say(gpu: str, op: str, r: FitResult) -> None:
    every = f"{r.median_error:.1%} / {r.p90_error:.1%}"
    long = f"{r.long_median_error:.1%} / {r.long_p90_error:.1%}, bias {r.long_bias:+.1%}"
    print(f"{gpu:14s} {op:22s} fitted on {r.samples_fit}: all {every}; >20 us {long}", flush=True)


def make_profile(name: str, excluded: frozenset[fit_nccl.Key], fit_date: str) -> dict[str, Any]:
    """Everything that is fitted for one GPU, as the JSON that ships."""
    gpu = load_gpu(name)
    parts: dict[str, Any] = {"gemm": {}, "grouped_gemm": {}, "attention": {}, "provenance": {}}
    raw: dict[str, Any] = {"schema": SCHEMA, "gpu": name, **parts}
    _gemms(gpu, raw, fit_date)
    fit, raw["provenance"]["collectives"] = _collectives(gpu, excluded, fit_date)
    raw["collectives"] = asdict(fit)
    _attention(gpu, raw, fit_date)
    _grouped(gpu, raw, fit_date)
    made: dict[str, Any] = rounded(raw)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Fit the shipped kernel profiles.")
    parser.add_argument("--gpu", action="append", choices=sorted(SYSTEM_OF), help="default: all")
    parser.add_argument("--exclude", type=Path, default=None)
    parser.add_argument("--date", default=date.today().isoformat())
    parser.add_argument("--out", type=Path, default=PROFILES)
    args = parser.parse_args(argv)
    excluded = fit_nccl.read_exclusions(args.exclude)
    for name in args.gpu or list(SYSTEM_OF):
        text = profile_text(make_profile(name, excluded, args.date))
        (args.out / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
