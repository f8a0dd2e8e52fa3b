"""Factors, none below zero, on what shipped constants say: the fit of a user's own logs and traces. numpy only.

Relative least squares with a weak pull to the shipped constants (one sample's weight is 1), so that what the samples do
not tell apart stays as shipped. With at most four factors the best set of positive ones is found by trying all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

_PULL = 0.05  # assumed: the weight of the shipped constants against that of one sample
_FOLDS = 3
RULE = "a third of the sizes, three times in turn; factors on the shipped constants from all of them"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Factors:
    """One factor per term, and the errors of samples that the fit did not see (fractions)."""

    values: tuple[float, ...]
    samples: int
    errors: tuple[float, ...]  # predicted over measured - 1 of every sample, from a fit without it
    seconds: tuple[float, ...]

    def provenance(self, package: str, tables: Sequence[str], ranges: dict[str, list[float]]) -> dict[str, Any]:
        """The record of a profile that says where these come from."""
        error = np.abs(np.array(self.errors))
        long = np.array(self.seconds) >= np.median(self.seconds)
        return {
            "package": package, "package_version": "as logged", "licence": "own measurement",
            "tables": sorted(tables), "fit_date": date.today().isoformat(), "left_out_rule": RULE,
            "shape_range": ranges, "assumed": [], "notes": "",
            "samples_fit": self.samples, "samples_left_out": len(self.errors),
            "median_error": float(np.median(error)), "p90_error": float(np.quantile(error, 0.9)),
            "long_median_error": float(np.median(error[long])), "long_p90_error": float(np.quantile(error[long], 0.9)),
            "long_bias": float(np.median(np.array(self.errors)[long])),
        }  # fmt: skip


def fit_factors(terms: Sequence[Sequence[float]], seconds: Sequence[float], shipped: Sequence[float]) -> Factors:
    """Factors of `terms` (a row per sample, in seconds or a root of them) that meet `seconds`; two samples or more.

    `shipped`: the factors that the shipped constants stand for, such as 1, 1, 0, 0.
    """
    a, t, start = np.array(terms), np.array(seconds), np.array(shipped, dtype=np.float64)
    errors = np.zeros(len(t))
    order = np.argsort(np.argsort(t, kind="stable"), kind="stable")
    for fold in range(_FOLDS):
        out = order % _FOLDS == fold
        if out.any() and not out.all():
            errors[out] = a[out] @ _solve(a[~out], t[~out], start) / t[out] - 1.0
    values = _solve(a, t, start)
    return Factors(tuple(values.tolist()), len(t), tuple(errors.tolist()), tuple(t.tolist()))


def _solve(terms: Floats, seconds: Floats, shipped: Floats) -> Floats:
    """Non-negative least squares of relative errors with the pull: the best over all sets of positive factors."""
    share = np.median(terms / seconds[:, None], axis=0)
    pull = _PULL * np.where(shipped > 0.0, 1.0, np.maximum(share, 1.0))
    rows = np.vstack([terms / seconds[:, None], np.diag(pull)])
    wanted = np.concatenate([np.ones(len(seconds)), pull * shipped])
    best, least = shipped, float("inf")
    count = len(shipped)
    for size in range(1, count + 1):
        for chosen in combinations(range(count), size):
            held = list(chosen)
            solved, *_ = np.linalg.lstsq(rows[:, held], wanted, rcond=None)
            if (solved < 0.0).any():
                continue
            values = np.zeros(count)
            values[held] = solved
            loss = float(((rows @ values - wanted) ** 2).sum())
            if loss < least - 1e-15:
                best, least = values, loss
    return best
