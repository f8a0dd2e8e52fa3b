"""Kernels of a user's own traces as factors on the shipped fits: on what any size costs, and on the rest."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from statistics import median
from typing import Any

from moesim.calibrate.own.bad_source import BadSource
from moesim.calibrate.own.factors import Factors, fit_factors
from moesim.calibrate.own.operators import Kernel, shapes_of
from moesim.hwmodels.gpu import GpuSpec, load_gpu
from moesim.hwmodels.kernels import attention_time_s, gemm_legs, grouped_gemm_legs
from moesim.hwmodels.profile import OWN_TRACE, Profile, load_profile
from moesim.hwmodels.work import Attention, Gemm, GroupedGemm, compute_floor_s

FEWEST = 4  # shapes below which nothing is fitted
_IMPOSSIBLE = 0.9  # assumed: a kernel this much faster than the peak allows is not the work that its operator says
_LEAST = 0.3  # assumed: no part of a kernel is faster than a third of what was measured elsewhere
# seconds of a fit that grow with what a kernel costs at any size, and shares of peaks that fall with the rest
_FIXED = {"gemm": ("launch_s", "serial_s_per_k"), "grouped_gemm": ("launch_s", "group_s")}
_RATES = ("flops_efficiency", "bandwidth_efficiency")


def put_kernels(
    raw: dict[str, Any], timed: Sequence[tuple[Kernel, float]], files: Sequence[str], notes: list[str]
) -> int:
    """Move the fits that the samples speak of, one op and format at a time; how many were moved.

    Adds to `notes` what was moved, over which shapes, and what was too little.
    """
    gpu, profile = load_gpu(raw["gpu"]), load_profile(raw["gpu"])
    moved = 0
    for (op, dtype), samples in _by_fit(timed, gpu, notes).items():
        fits = raw[op]
        label = f"{op} {dtype}"
        if dtype not in fits:
            notes.append(f"{label}: {len(samples)} shapes, but {raw['gpu']} has no fit of that format; as it was")
            continue
        if len(samples) < FEWEST:
            notes.append(f"{label}: {len(samples)} different shapes are too few, as shipped; {FEWEST} are needed")
            continue
        factors = _factors(op, dtype, samples, gpu, profile)
        fits[dtype] = _moved(op, fits[dtype], factors.values)
        ranges = shapes_of([work for work, _ in samples])
        key = f"attention_forward/{dtype}" if op == "attention" else f"{op}/{dtype}"
        raw["provenance"][key] = factors.provenance(OWN_TRACE, files, ranges)
        spans = ", ".join(f"{axis} {low:.0f} to {high:.0f}" for axis, (low, high) in ranges.items())
        notes.append(f"{label}: {len(samples)} shapes ({spans}), {_told(factors.values)} of the shipped times")
        moved += 1
    return moved


def _told(values: Sequence[float]) -> str:
    return f"x {values[0]:.3f}" if len(values) == 1 else f"floor x {values[0]:.3f}, rest x {values[1]:.3f}"


def _by_fit(
    timed: Sequence[tuple[Kernel, float]], gpu: GpuSpec, notes: list[str]
) -> dict[tuple[str, str], list[tuple[Kernel, float]]]:
    """Median seconds of every shape by the fit that prices it; what no such GPU could do is left out and said."""
    repeats: dict[Kernel, list[float]] = {}
    for work, seconds in timed:
        repeats.setdefault(work, []).append(seconds)
    sorted_out: dict[tuple[str, str], list[tuple[Kernel, float]]] = {}
    odd = 0
    for work, times in repeats.items():
        op = "gemm" if isinstance(work, Gemm) else "grouped_gemm" if isinstance(work, GroupedGemm) else "attention"
        dtype = "bf16" if work.dtype == "fp16" else work.dtype  # the same tensor path, the same bytes
        seconds = median(times)
        if gpu.supports(work.dtype) and seconds < _IMPOSSIBLE * compute_floor_s(work, gpu):
            odd += 1
            continue
        if gpu.supports(work.dtype):
            sorted_out.setdefault((op, dtype), []).append((work, seconds))
        else:
            notes.append(f"{op} {work.dtype}: {gpu.name} has no such format; left out")
    if odd:
        notes.append(f"{odd} shapes are faster than {gpu.name} can be, left out: another GPU, or a kernel of less work")
    if repeats and not sorted_out:
        raise BadSource(
            f"no kernel of the traces can have run on {gpu.name}: all are faster than its peak, or of formats that it "
            "lacks; say with --system which GPU it was"
        )
    return sorted_out


def _factors(op: str, dtype: str, samples: Sequence[tuple[Kernel, float]], gpu: GpuSpec, profile: Profile) -> Factors:
    on = (gpu.hbm_bytes_per_s, max(1, gpu.sm_count))
    terms: list[tuple[float, ...]] = []
    for work, _ in samples:
        peak = gpu.peak(work.dtype)
        if isinstance(work, Attention):
            terms.append((attention_time_s(work, peak, *on, profile.attentions[dtype]),))
            continue
        if isinstance(work, Gemm):
            legs = gemm_legs(work, peak, *on, profile.gemms[dtype])
        else:
            legs = grouped_gemm_legs(work, peak, *on, profile.grouped_gemms[dtype])
        terms.append((legs.fixed_s, legs.seconds(fixed=0.0)))
    seconds = [s for _, s in samples]
    if len(terms[0]) == 1:
        return _one_factor([t[0] for t in terms], seconds)
    both = fit_factors(terms, seconds, (1.0, 1.0))
    if min(both.values) >= _LEAST:
        return both
    return _one_factor([sum(t) for t in terms], seconds)  # the shapes do not tell floor from rest


def _one_factor(shipped_s: Sequence[float], seconds: Sequence[float]) -> Factors:
    """The median ratio; each sample is judged by that of the others."""
    ratios = [log(s / t) for s, t in zip(seconds, shipped_s, strict=True)]
    errors = [
        exp(median(r for j, r in enumerate(ratios) if j != i) - own) - 1.0 for i, own in enumerate(ratios)
    ]  # fmt: skip
    return Factors((exp(median(ratios)),), len(seconds), tuple(errors), tuple(seconds))


def _moved(op: str, fit: dict[str, Any], values: Sequence[float]) -> dict[str, Any]:
    """The fit with its seconds longer and its rates lower by the factors."""
    rest = values[-1]
    changed = {name: fit[name] / rest for name in _RATES}
    if op == "attention":
        changed |= {name: fit[name] * rest for name in ("launch_s", "serial_s_per_key")}
    else:
        changed |= {name: fit[name] * values[0] for name in _FIXED[op]}
    return {**fit, **changed}
