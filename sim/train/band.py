"""How sure a prediction is: a 90 % interval from the spread of validation errors of the same class of run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import exp
from pathlib import Path
from typing import Any

from moesim.hwmodels.facts import read_yaml
from moesim.sim.software.stack import release_age
from moesim.sim.train.job import Correction, TrainJob

_BANDS = Path(__file__).parents[1] / "software" / "stacks" / "bands.yaml"


@dataclass(frozen=True, slots=True)
class Interval:
    """Low and high seconds around a prediction, the class whose errors gave them, and why it is wide."""

    low_s: float
    high_s: float
    band: str
    note: str


@cache
def _bands() -> dict[str, dict[str, Any]]:
    bands: dict[str, dict[str, Any]] = read_yaml(_BANDS)
    return bands


# How much wider an interval of a tuned MoE stack gets with the age of its software (assumed). Measured: successive
# releases of the same MoE run differ by up to 1.9x while a stack is young, by 1.5 % median later.
_WIDER = {"young": 1.5, "unknown": 1.25}


def band_keys(job: TrainJob) -> list[str]:
    """Classes a job belongs to, most specific first."""
    kind = "moe" if job.arch.is_moe else "dense"
    stack = job.stack.name  # an interval is of the runs of this very stack, whoever lends it constants
    return [
        f"{kind},{stack},{job.cluster.gpu.family}",
        f"{kind},{stack},{job.cluster.gpu.generation}",
        f"{kind},{stack}",
        kind,
    ]


def interval(job: TrainJob, step_time_s: float) -> Interval:
    """The 90 % interval of a predicted step time."""
    bands = _bands()
    keys = band_keys(job)
    key = next(k for k in keys if k in bands)
    half = float(bands[key]["half_width"])
    if key not in keys[:2]:  # an unmeasured class is not surer than any measured class of the same stack or kind
        half = max(float(b["half_width"]) for name, b in bands.items() if f"{name},".startswith(f"{key},"))
    notes = [] if key in keys[:2] else [f"no measured runs of class {keys[0]}: widest band of {key} used"]
    if job.arch.is_moe:
        age = release_age(job.release)
        half *= _WIDER.get(age, 1.0)
        if age in _WIDER:
            notes.append(f"interval widened {_WIDER[age]:g}x: {age} release of an MoE stack (assumed)")
    return Interval(step_time_s * exp(-half), step_time_s * exp(half), key, "; ".join(notes))


def corrected_interval(step_time_s: float, correction: Correction) -> Interval:
    """The band that the deployment's own rows left."""
    half = correction.half_width
    name = f"own runs: {correction.deployment}"
    return Interval(step_time_s * exp(-half), step_time_s * exp(half), name, "")
