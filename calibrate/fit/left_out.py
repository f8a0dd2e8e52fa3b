"""Fit a formula, and a surface over it where one helps, to all samples; judge it on samples that it did not see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from moesim.calibrate.fit.formula import FitResult, Free, Sample, fit_coefficients
from moesim.calibrate.fit.surface import Plane, fit_surface

FOLDS = 3
FEWEST_FOR_SURFACE = 60  # samples, over several axes
FEWEST_FOR_LINE = 10  # over one
RULE = "a third of the shapes, three times in turn; coefficients from all of them"
W = TypeVar("W")


@dataclass(frozen=True, slots=True)
class Fitted:
    """Coefficients (and a surface, where one helps) from all samples, with errors on shapes left out."""

    values: dict[str, Any]
    result: FitResult
    samples: int


def folds(samples: Sequence[Sample[W]]) -> list[tuple[list[Sample[W]], list[Sample[W]]]]:
    """(seen, left out) pairs; every family of shapes is left out once, small and large ones alike."""
    families = list(dict.fromkeys(s.family for s in sorted(samples, key=lambda s: s.seconds)))
    fold_of = {family: number % FOLDS for number, family in enumerate(families)}
    return [
        ([s for s in samples if fold_of[s.family] != f], [s for s in samples if fold_of[s.family] == f])
        for f in range(FOLDS)
    ]


def cross_fit(
    predict: Callable[[Mapping[str, Any], W], float],
    free: Mapping[str, Free],
    samples: Sequence[Sample[W]],
    plane: Plane[W] | None = None,
    surface: str = "surface",
) -> Fitted:
    """Fit to all samples; judge on each third with coefficients of the other two.

    Where there are samples enough for a surface over `plane` it is laid over the formula, under the name `surface`,
    if samples left out are met better with it.
    """
    whole = fit_coefficients(predict, free, samples, samples, long_weight=1.0)
    bare = _ratios(predict, free, samples, None, surface)
    result = _judged(whole, bare, len(samples))
    values: dict[str, Any] = {**whole.values}
    enough = FEWEST_FOR_LINE if plane is not None and len(plane.axes) == 1 else FEWEST_FOR_SURFACE
    if plane is not None and len(samples) >= enough:
        laid = _judged(whole, _ratios(predict, free, samples, plane, surface), len(samples))
        if laid.median_error < result.median_error:
            result = laid
            values[surface] = fit_surface(plane, samples, partial(predict, whole.values))
    return Fitted(values, result, len(samples))


def _ratios(
    predict: Callable[[Mapping[str, Any], W], float],
    free: Mapping[str, Free],
    samples: Sequence[Sample[W]],
    plane: Plane[W] | None,
    surface: str,
) -> list[tuple[float, float]]:
    """(predicted over measured, measured seconds) of every sample, by a fit that did not see it."""
    ratios: list[tuple[float, float]] = []
    for seen, unseen in folds(samples):
        if seen and unseen:
            values: dict[str, Any] = fit_coefficients(predict, free, seen, unseen, long_weight=1.0).values
            if plane is not None:
                values = {**values, surface: fit_surface(plane, seen, partial(predict, values))}
            ratios += [(predict(values, s.work) / s.seconds, s.seconds) for s in unseen]
    return ratios


def _judged(whole: FitResult, ratios: Sequence[tuple[float, float]], count: int) -> FitResult:
    """The errors of left-out samples in place of those of samples seen."""
    import numpy as np

    ratio, seconds = np.array([r for r, _ in ratios]), np.array([s for _, s in ratios])
    error, long = np.abs(ratio - 1.0), seconds > np.median(seconds)
    return replace(
        whole,
        samples_fit=count,
        samples_left_out=len(ratios),
        median_error=float(np.median(error)),
        p90_error=float(np.quantile(error, 0.9)),
        long_median_error=float(np.median(error[long])),
        long_p90_error=float(np.quantile(error[long], 0.9)),
        long_bias=float(np.median(ratio[long]) - 1.0),
    )
