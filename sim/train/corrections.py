"""Corrections: what own runs say of one deployment, and of no other: a factor on the step with its own band."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from math import exp
from pathlib import Path
from typing import Any

from moesim.sim.question.scenario import ScenarioError
from moesim.sim.train.band import Interval
from moesim.sim.train.job import TrainJob
from moesim.sim.train.step import StepResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """`factor` on the predicted step of one deployment, learned from `rows` rows; 90 % of them within the band."""

    deployment: str
    factor: float
    half_width: float  # of the logarithm
    rows: int

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "deployment": self.deployment, "factor": self.factor, "half_width": self.half_width, "rows": self.rows,
        }  # fmt: skip


def deployment_of(job: TrainJob) -> str:
    """What a correction is learned for: one model on one kind of GPU, with one stack in one precision."""
    return f"{job.arch.name} on {job.cluster.gpu.name}, {job.stack.name}, {job.precision}"


def load_corrections(path: str) -> dict[str, Correction]:
    """Corrections by deployment. ScenarioError for a file that is none."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        corrections = [Correction(**each) for each in raw["corrections"]]
    except OSError as error:
        raise ScenarioError(f"cannot read corrections {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise ScenarioError(f"{path} holds no corrections; `moesim calibrate --from rows` writes them") from None
    return {c.deployment: c for c in corrections}


def corrected(step: StepResult, correction: Correction) -> StepResult:
    """The step times the factor; the difference is booked as a category of its own, below zero where it got faster."""
    extra = (correction.factor - 1.0) * step.step_time_s
    sources = step.by_source | {"own runs of this deployment": abs(extra)}
    breakdown = step.breakdown_s | {"correction": extra}
    return replace(step, step_time_s=step.step_time_s + extra, breakdown_s=breakdown, by_source=sources)


def corrected_interval(step_time_s: float, correction: Correction) -> Interval:
    """The band that the deployment's own rows left."""
    half = correction.half_width
    name = f"own runs: {correction.deployment}"
    return Interval(step_time_s * exp(-half), step_time_s * exp(half), name, "")
