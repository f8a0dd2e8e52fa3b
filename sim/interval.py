"""How sure a prediction is: a 90 % interval from the spread of validation errors of the same class of run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import exp
from pathlib import Path
from typing import Any

from hwmodels.facts import read_yaml
from sim.job import TrainJob
from sim.stack import gpu_class

_BANDS = Path(__file__).parent / "stacks" / "bands.yaml"


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


def band_keys(job: TrainJob) -> list[str]:
    """Classes a job belongs to, most specific first."""
    kind = "moe" if job.arch.is_moe else "dense"
    family = gpu_class(job.cluster)
    generation = "blackwell" if family in ("b200", "b300", "gb200", "gb300") else family
    age = ",unknown-release" if kind == "moe" and not job.release else ""
    young = ",young" if job.release and job.release < "26.02" and kind == "moe" else ""
    return [
        f"{kind},{job.stack.name},{family}{age}{young}",
        f"{kind},{job.stack.name},{generation}{age}{young}",
        f"{kind},{job.stack.name}{age}{young}",
        f"{kind},{job.stack.name}",
        kind,
    ]


def interval(job: TrainJob, step_time_s: float) -> Interval:
    """The 90 % interval of a predicted step time."""
    bands = _bands()
    keys = band_keys(job)
    key = next(k for k in keys if k in bands)
    half = float(bands[key]["half_width"])
    note = "" if key == keys[0] else f"no measured runs of class {keys[0]}: band of {key} used"
    return Interval(step_time_s * exp(-half), step_time_s * exp(half), key, note)
