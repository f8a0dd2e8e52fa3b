"""Fitted surfaces find a correction that was put into the samples, ignore spikes, and never fall along growing axes."""

from __future__ import annotations

from itertools import pairwise
from math import exp, log2

import pytest

from moesim.calibrate.fit.formula import Sample
from moesim.calibrate.fit.surface import Plane, fit_surface
from moesim.hwmodels.work import Gemm

pytest.importorskip("scipy", reason="fits need the extra 'fit'")

SIZES = tuple(2**i for i in range(4, 13))


def position(work: Gemm) -> tuple[float, ...]:
    return log2(work.m), log2(work.n)


PLANE = Plane[Gemm](
    ("log2_m", "log2_n"),
    ((4.0, 6.0, 8.0, 10.0, 12.0), (4.0, 8.0, 12.0)),
    position,
    lambda node: Gemm(round(2.0 ** node[0]), round(2.0 ** node[1]), 64),
    growing=2,
)


def formula_s(work: Gemm) -> float:
    return 1e-9 * work.m * work.n


def samples(slope: float, spike: float = 1.0) -> list[Sample[Gemm]]:
    """Work that takes 2^(slope x (log2 m - 8)) times the formula, one shape `spike` times that."""
    made = []
    for m in SIZES:
        for n in SIZES:
            work = Gemm(m, n, 64)
            odd = spike if (m, n) == (256, 256) else 1.0
            made.append(Sample(work, formula_s(work) * odd * exp(slope * (log2(m) - 8.0)), (n,)))
    return made


def test_a_known_correction_is_found() -> None:
    surface = fit_surface(PLANE, samples(0.05), formula_s)
    for m in (16, 100, 1000, 4096):
        assert surface.factor(log2(m), 7.0) == pytest.approx(exp(0.05 * (log2(m) - 8.0)), rel=0.01)


def test_one_spike_pulls_little() -> None:
    smooth, spiked = fit_surface(PLANE, samples(0.0), formula_s), fit_surface(PLANE, samples(0.0, 5.0), formula_s)
    assert spiked.factor(8.0, 8.0) < 1.15 * smooth.factor(8.0, 8.0)


def test_seconds_never_fall_from_node_to_node() -> None:
    """The samples fall with m; the fit is flat at best."""
    surface = fit_surface(PLANE, samples(-2.0), formula_s)
    for n in PLANE.nodes[1]:
        times = [formula_s(PLANE.work_at((m, n))) * surface.factor(m, n) for m in PLANE.nodes[0]]
        assert all(b >= a * 0.998 for a, b in pairwise(times))
