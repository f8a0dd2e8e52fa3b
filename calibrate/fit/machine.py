"""Fit a profile to the sample table of one machine: the same small models that the shipped profiles are made of.

Errors are on shapes that were left out: a third of them in turn, three times over; the coefficients in the profile are
then fitted to all. Peaks are the best that was measured, so that no prediction is faster than the machine was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from moesim.calibrate.fit.attention import DECODE_FREE, FORWARD_FREE, make_fit
from moesim.calibrate.fit.formula import Free, Sample, fit_coefficients, free_for
from moesim.calibrate.fit.gemm import FREE as GEMM_FREE
from moesim.calibrate.fit.grouped import FREE as GROUPED_FREE
from moesim.calibrate.fit.left_out import Fitted, cross_fit
from moesim.calibrate.fit.nccl import FREE as COLLECTIVE_FREE
from moesim.calibrate.fit.nccl import NVLS_FREE, PROTOCOL_FREE
from moesim.calibrate.fit.surface import Plane
from moesim.calibrate.measure.samples import Measured
from moesim.hwmodels.domain_collectives import CollectiveFit, domain_collective_s, wire_bytes
from moesim.hwmodels.kernel_fits import (
    ATTENTION_AXES,
    GEMM_AXES,
    STREAM_AXES,
    AttentionFit,
    GemmFit,
    GroupedGemmFit,
    StreamFit,
)
from moesim.hwmodels.kernels import (
    attention_position,
    attention_time_s,
    gemm_position,
    gemm_time_s,
    grouped_gemm_time_s,
    stream_position,
    stream_time_s,
)
from moesim.hwmodels.work import Attention, Comm, Gemm, GroupedGemm, Stream

FEWEST = 4  # samples below which nothing is fitted

_TILES = (1, 16, 64, 128)
_WIDE_AXIS = 2.0  # doublings
_LINE_STEP = 1.5  # doublings between two nodes of a line, at least
STREAM_FREE = {
    "launch_s": Free(1e-5, 1e-7, 2e-3),
    "memory_efficiency": Free(0.5, 1e-3, 50.0),
    "cache_share": Free(0.5, 0.0, 0.99),
    "cache_bytes": Free(1e7, 1e5, 1e9),
}


def wider(free: Mapping[str, Free], slow: float = 100.0) -> dict[str, Free]:
    """The bounds of GPU kernels opened for machines that are slower to start and have caches that lift the rate."""
    freer = {}
    for name, each in free.items():
        low, high = each.low, each.high
        if name.endswith("_s") or "_s_per_" in name:
            high *= slow
        elif name.endswith("bandwidth_efficiency"):
            low, high = 0.01, 8.0
        elif name.endswith("_efficiency"):
            low = 0.005
        freer[name] = Free(each.start, low, high)
    return freer


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What the device reaches at best: FLOP/s by dtype, bytes per second of memory and of the link between ranks."""

    flops_per_s: dict[str, float]
    memory_bytes_per_s: float
    link_bytes_per_s: float
    sm_count: int = 0


def best_rates(samples: Sequence[Measured], works: Mapping[int, Any]) -> Rates:
    """Peaks from the samples themselves. `works` holds the Work of each sample that has one, by position."""
    flops: dict[str, float] = {}
    memory = link = 0.0
    for number, s in enumerate(samples):
        work = works.get(number)
        if isinstance(work, Gemm | GroupedGemm | Attention):
            flops[s.ask.dtype] = max(flops.get(s.ask.dtype, 0.0), work.flops / s.seconds)
        elif isinstance(work, Comm):
            link = max(link, wire_bytes(work.kind, work.group.ranks, work.bytes) / s.seconds)
        elif s.ask.op == "copy":
            passes = 3.0 if s.ask.phase == "add" else 2.0
            memory = max(memory, passes * s.ask.number("bytes") / s.seconds)
    return Rates(flops_per_s=flops, memory_bytes_per_s=memory, link_bytes_per_s=link)


def gemm_plane(samples: Sequence[Sample[Gemm]]) -> Plane[Gemm]:
    """A coarse plane over the shapes that were measured."""
    dtype = samples[0].work.dtype

    def work_at(node: tuple[float, ...]) -> Gemm:
        m, n, k = (round(2.0**x) for x in node[:3])
        return Gemm(m, n, k, dtype)

    nodes = _between_extremes([gemm_position(s.work) for s in samples])
    return Plane(GEMM_AXES, nodes, gemm_position, work_at, growing=3)


def _attention_plane(samples: Sequence[Sample[Attention]]) -> Plane[Attention]:
    """The same over attention; what more queries, keys or heads add is left to the formula."""
    nodes = _between_extremes([attention_position(s.work) for s in samples])
    any_work = samples[0].work
    return Plane(ATTENTION_AXES, nodes, attention_position, lambda node: any_work, growing=0)


def _between_extremes(positions: Sequence[tuple[float, ...]]) -> tuple[tuple[float, ...], ...]:
    """Three nodes along every axis that spans more than two doublings, two where it spans less, one where nothing."""
    axes = []
    for axis in zip(*positions, strict=True):
        low, high = min(axis), max(axis)
        wide = (low, (low + high) / 2.0, high) if high - low > _WIDE_AXIS else (low, high)
        axes.append(wide if high > low else (low,))
    return tuple(axes)


def fit_gemms(samples: Sequence[Sample[Gemm]], peak: float, rates: Rates) -> tuple[GemmFit, Fitted]:
    """Dense GEMMs of one dtype; the row tile is the one that explains most."""
    free = free_for(wider(GEMM_FREE), rates.sm_count)

    def predictor(tile: int) -> Callable[[Mapping[str, float], Gemm], float]:
        def predict(v: Mapping[str, Any], work: Gemm) -> float:
            fit = GemmFit(tile_m=tile, tile_n=tile, **v)
            return gemm_time_s(work, peak, rates.memory_bytes_per_s, rates.sm_count, fit)

        return predict

    losses = {t: fit_coefficients(predictor(t), free, samples, samples, 1.0).loss for t in _TILES}
    tile = min(losses, key=lambda t: losses[t])
    fitted = cross_fit(predictor(tile), free, samples, gemm_plane(samples))
    return GemmFit(tile_m=tile, tile_n=tile, **fitted.values), fitted


def fit_grouped(samples: Sequence[Sample[GroupedGemm]], peak: float, rates: Rates) -> tuple[GroupedGemmFit, Fitted]:
    """Grouped GEMMs over distributions of rows, forward and both gradients."""
    free = free_for({**wider(GROUPED_FREE), "launch_s": Free(1e-5, 1e-7, 5e-3)}, rates.sm_count)
    del free["op_overhead_s"]  # of a serving engine's whole MoE op; here every kernel is timed by itself

    def record(v: Mapping[str, float], tile: int) -> GroupedGemmFit:
        return GroupedGemmFit(tile_rows=tile, tile_n=tile, op_overhead_s=0.0, stream_bandwidth_efficiency=1.0, **v)

    def predictor(tile: int) -> Callable[[Mapping[str, float], GroupedGemm], float]:
        def predict(v: Mapping[str, float], work: GroupedGemm) -> float:
            return grouped_gemm_time_s(work, peak, rates.memory_bytes_per_s, rates.sm_count, record(v, tile))

        return predict

    losses = {t: fit_coefficients(predictor(t), free, samples, samples, 1.0).loss for t in _TILES}
    tile = min(losses, key=lambda t: losses[t])
    fitted = cross_fit(predictor(tile), free, samples)
    return record(fitted.values, tile), fitted


def fit_attention(
    forward: Sequence[Sample[Attention]], decode: Sequence[Sample[Attention]], peak: float, rates: Rates
) -> tuple[AttentionFit, dict[str, Fitted]]:
    """Forward with backward, and decode."""
    both = {**wider(FORWARD_FREE), "cache_write_passes": Free(0.0, 0.0, 0.0)}
    ratio = {"backward_efficiency_ratio": Free(0.8, 0.05, 4.0)}
    starts = {name: f.start for name, f in DECODE_FREE.items()}

    def predict_both(v: Mapping[str, float], work: Attention) -> float:
        rest = {k: x for k, x in v.items() if k != "backward_efficiency_ratio"}
        fit = replace(make_fit(rest, starts), backward_efficiency_ratio=v["backward_efficiency_ratio"])
        return attention_time_s(work, peak, rates.memory_bytes_per_s, rates.sm_count, fit)

    planes = [_attention_plane(part) for part in (forward, decode)]
    first = cross_fit(predict_both, free_for({**both, **ratio}, rates.sm_count), forward, planes[0])
    values = {k: v for k, v in first.values.items() if k != "backward_efficiency_ratio"}

    def predict_decode(v: Mapping[str, float], work: Attention) -> float:
        return attention_time_s(work, peak, rates.memory_bytes_per_s, rates.sm_count, make_fit(values, v))

    second = cross_fit(
        predict_decode, free_for(wider(DECODE_FREE), rates.sm_count), decode, planes[1], "decode_surface"
    )
    fit = make_fit(values, second.values)
    fit = replace(fit, backward_efficiency_ratio=first.values["backward_efficiency_ratio"])
    return fit, {"attention_forward": first, "attention_decode": second}


def fit_stream(samples: Sequence[Sample[Stream]], rates: Rates) -> tuple[StreamFit, Fitted]:
    """One kind of memory-bound work, one direction."""

    def predict(v: Mapping[str, Any], work: Stream) -> float:
        return stream_time_s(work, rates.memory_bytes_per_s, StreamFit(**v))

    fitted = cross_fit(predict, STREAM_FREE, samples, _stream_plane(samples))
    return StreamFit(**fitted.values), fitted


def _stream_plane(samples: Sequence[Sample[Stream]]) -> Plane[Stream]:
    """A line over the sizes that were measured."""
    kind = samples[0].work
    sizes = sorted(stream_position(s.work)[0] for s in samples)
    nodes = [sizes[0]]
    for size in sizes:
        if size - nodes[-1] >= _LINE_STEP:
            nodes.append(size)
    return Plane(STREAM_AXES, (tuple(nodes),), stream_position, lambda node: replace(kind, bytes=2.0 ** node[0]), 1)


def fit_transfers(samples: Sequence[Sample[Comm]], rates: Rates) -> tuple[CollectiveFit, Fitted]:
    """Collectives between the ranks of this machine; no switches that reduce, one protocol."""
    none = dict.fromkeys((*NVLS_FREE, *PROTOCOL_FREE), 0.0)
    free = {**wider(COLLECTIVE_FREE), "ramp_sqrt_s": Free(2e-3, 0.0, 1.0), "a2a_ramp_sqrt_s": Free(2e-3, 0.0, 1.0)}
    free = {n: Free(f.start, f.low, 2.0) if n.endswith("_efficiency") else f for n, f in free.items()}

    def record(v: Mapping[str, float]) -> CollectiveFit:
        return CollectiveFit(nvls_min_ranks=0, switch_bytes=0.0, **{**none, **v})

    def predict(v: Mapping[str, float], work: Comm) -> float:
        return domain_collective_s(work.kind, work.group.ranks, work.bytes, rates.link_bytes_per_s, record(v))

    fitted = cross_fit(predict, free, samples)
    return record(fitted.values), fitted


def shape_ranges(works: Iterable[Any], names: Sequence[str]) -> dict[str, list[float]]:
    """Smallest and largest value of each size."""
    held = list(works)
    return {n: [min(float(getattr(w, n)) for w in held), max(float(getattr(w, n)) for w in held)] for n in names}
