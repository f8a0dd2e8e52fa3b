"""Fit the coefficients of one formula to measured (work, seconds) pairs and say how wrong it is on others.

The formula is the shipped function itself, called on each sample: what is fitted is what is used.
scipy and numpy are imported where they are needed, so that the module loads without the `fit` extra.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from moesim.refusal import MachineFailure

W = TypeVar("W")


LONG_S = 20e-6  # kernels longer than this are what training and prefill are made of
SEED = 20240101
_WAVE_TERMS = ("partial_wave_exponent", "wave_exponent", "decode_partial_wave_exponent")


@dataclass(frozen=True, slots=True)
class Sample(Generic[W]):
    """One measurement: the work, the seconds, and the shape family that is held out as a whole."""

    work: W
    seconds: float
    family: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Free:
    """Start and bounds of one coefficient."""

    start: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class FitResult:
    """Coefficients and the error on families that the fit never saw (fractions, |predicted/measured - 1|)."""

    values: dict[str, float]
    samples_fit: int
    samples_left_out: int
    median_error: float
    p90_error: float
    long_median_error: float
    long_p90_error: float
    long_bias: float
    loss: float


def free_for(free: Mapping[str, Free], sm_count: int) -> dict[str, Free]:
    """`free`, with the wave terms held at zero when the number of SMs is not known."""
    if sm_count:
        return dict(free)
    return {n: Free(0.0, 0.0, 0.0) if n in _WAVE_TERMS else f for n, f in free.items()}


def split(samples: Sequence[Sample[W]], fit_count: int, left_out_count: int) -> tuple[list[Sample[W]], list[Sample[W]]]:
    """Hold out one third of the families, then thin both sides; deterministic."""
    import numpy as np

    rng = np.random.default_rng(SEED)
    families = sorted({s.family for s in samples})
    order = rng.permutation(len(families))
    held = {families[i] for i in order[: len(families) // 3]}
    seen = [s for s in samples if s.family not in held]
    unseen = [s for s in samples if s.family in held]
    return _thin(seen, fit_count, rng), _thin(unseen, left_out_count, rng)


def _thin(samples: list[Sample[W]], count: int, rng: Any) -> list[Sample[W]]:
    """At most `count` samples, drawn without replacement, in their old order."""
    if len(samples) <= count:
        return samples
    picked = sorted(rng.choice(len(samples), size=count, replace=False).tolist())
    return [samples[i] for i in picked]


def fit_coefficients(
    predict: Callable[[Mapping[str, float], W], float],
    free: Mapping[str, Free],
    seen: Sequence[Sample[W]],
    unseen: Sequence[Sample[W]],
    long_weight: float = 2.0,
) -> FitResult:
    """Robust least squares on log(predicted/measured); longer than LONG_S weighs `long_weight` times more."""
    import numpy as np

    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise MachineFailure("fits need scipy, which is not installed; pip install 'moesim[calibrate]'") from None

    names = [n for n, f in free.items() if f.low < f.high]
    held = {n: f.start for n, f in free.items() if f.low >= f.high}
    measured = np.log([s.seconds for s in seen])
    weight = np.where(np.exp(measured) > LONG_S, long_weight, 1.0)
    # keep scale-free parameters: the solver works on coefficient / scale
    scale = np.array([max(abs(free[n].start), (free[n].high - free[n].low) * 1e-3) for n in names])

    def residual(x: Any) -> Any:
        values = {**held, **dict(zip(names, (x * scale).tolist(), strict=True))}
        return weight * (np.log([predict(values, s.work) for s in seen]) - measured)

    start = np.array([free[n].start for n in names]) / scale
    low = np.array([free[n].low for n in names]) / scale
    high = np.array([free[n].high for n in names]) / scale
    solution = least_squares(residual, start, bounds=(low, high), loss="soft_l1", f_scale=0.08, max_nfev=60)
    values = {**held, **dict(zip(names, (solution.x * scale).tolist(), strict=True))}
    return judge(predict, values, seen, unseen, float(solution.cost))


def judge(
    predict: Callable[[Mapping[str, Any], W], float],
    values: Mapping[str, Any],
    seen: Sequence[Sample[W]],
    unseen: Sequence[Sample[W]],
    loss: float,
) -> FitResult:
    """Errors on `unseen`, which must not be empty."""
    import numpy as np

    ratio = np.array([predict(values, s.work) / s.seconds for s in unseen])
    long = np.array([s.seconds > LONG_S for s in unseen])
    error = np.abs(ratio - 1.0)
    pool = error[long] if long.any() else error
    return FitResult(
        values=dict(values),
        samples_fit=len(seen),
        samples_left_out=len(unseen),
        median_error=float(np.median(error)),
        p90_error=float(np.quantile(error, 0.9)),
        long_median_error=float(np.median(pool)),
        long_p90_error=float(np.quantile(pool, 0.9)),
        long_bias=float(np.median(ratio[long] if long.any() else ratio) - 1.0),
        loss=loss,
    )
