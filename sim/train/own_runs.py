"""What a user's own measured runs say of another run of the same deployment: a factor on its step, and how sure it is.

Errors of a model of a deployment are one part that all its runs share (team, stack, machine), one that runs alike in
layout and scale share, and noise. From runs that were measured the first is learned at once, the second only near
them: the posterior of a Gaussian process (Rasmussen and Williams 2006, ch. 2). A planner's next layout is not the last.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, log2, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moesim.files.plain_yaml import FileError, read_text
from moesim.files.whole import write_text
from moesim.hwmodels.checked_fit import BadNumber, number, whole
from moesim.hwmodels.interval import NORMAL_90
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.train.band import class_width

if TYPE_CHECKING:
    from moesim.sim.train.job import TrainJob

# of logs of step times, read off 5,900 pairs of published fit rows of one source and deployment: the root of half their
# mean squared difference is 0.06 to 0.09 at one doubling, 0.09 at two, 0.095 from three on
_MOST_LAYOUT_SIGMA = 0.09
_REACH = 2.0  # doublings over which that forgets itself
_MOST_LOG_RATIO = 5.0  # a run that takes 150 times what is predicted is another run
NOISE_SIGMA = 0.024  # the same run in the next software release (calibrate/fit/bands.py: NOISE, 90 %)
_CLASS_SOURCES = 8  # sources that a class's width rests on, about: the degrees of freedom of the law's scale


@dataclass(frozen=True, slots=True)
class Law:
    """How far runs of a deployment are off: together, by layout and scale, and from run to run; logs, sigmas."""

    shared_sigma: float
    layout_sigma: float

    def covariance(self, distances: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of two runs so many doublings apart, without noise."""
        return self.shared_sigma**2 + self.layout_sigma**2 * np.exp(-distances / _REACH)

    @property
    def variance(self) -> float:
        """Of one run, with noise."""
        return self.shared_sigma**2 + self.layout_sigma**2 + NOISE_SIGMA**2


def law_of(job: TrainJob) -> Law:
    """From the width of the job's class: what layouts do is at most half of its square."""
    width = class_width(job)[1]
    whole = (width.below + width.above) / 2.0 / NORMAL_90
    layout = min(_MOST_LAYOUT_SIGMA, whole / sqrt(2.0))
    return Law(sqrt(whole**2 - layout**2), layout)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run lies: what may be doubled, and what is one thing or another."""

    doublings: tuple[float, ...]  # log2 of what AXES names
    recompute: str
    zero: int

    def distance(self, other: Place) -> float:
        """Doublings between two runs; another recompute or ZeRO stage counts as one each."""
        apart = sum(abs(a - b) for a, b in zip(self.doublings, other.doublings, strict=True))
        return apart + float(self.recompute != other.recompute) + float(self.zero != other.zero)


AXES = ("gpus", "seq_len", "global_batch", "micro_batch", "tp", "pp", "vpp", "cp", "ep", "etp")


def place_of(job: TrainJob) -> Place:
    """Where a job lies among runs of its deployment."""
    lay = job.layout
    sizes = {"gpus": lay.gpus, "seq_len": job.seq_len, "global_batch": job.global_batch, "micro_batch": job.micro_batch}
    sizes |= {name: getattr(lay, name) for name in AXES if name not in sizes}
    recompute = "+".join(sorted(job.recompute)) or "none"
    return Place(tuple(log2(sizes[name]) for name in AXES), recompute, lay.zero)


@dataclass(frozen=True, slots=True)
class OwnRun:
    """One measured run: the log of measured over predicted seconds, and where it lies."""

    log_ratio: float
    place: Place

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; sizes as people write them."""
        sizes = {name: round(2.0**power) for name, power in zip(AXES, self.place.doublings, strict=True)}
        return {"log_ratio": self.log_ratio, **sizes, "recompute": self.place.recompute, "zero": self.place.zero}


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What own runs say of one job: `factor` on its predicted step, and how far the next run may be off."""

    deployment: str
    factor: float
    half_width: float  # of the logarithm
    rows: int  # own runs of the deployment
    doublings: float  # how far the nearest own run is; 0: the same layout and scale

    @property
    def near(self) -> str:
        """How like the own runs this job is, in words."""
        if self.doublings == 0.0:
            return "one of the same layout and scale"
        return f"the nearest {self.doublings:.1f} doublings away"


@dataclass(frozen=True)
class OwnRuns:
    """Measured runs of one deployment."""

    deployment: str
    runs: tuple[OwnRun, ...]

    def at(self, job: TrainJob) -> Correction:
        """Mean and 90 % half-width of the log of measured over predicted for this job."""
        law, place = law_of(job), place_of(job)
        distances = np.array([run.place.distance(place) for run in self.runs])
        inverse = np.linalg.inv(law.covariance(self._distances) + NOISE_SIGMA**2 * np.eye(len(self.runs)))
        ratios = np.array([run.log_ratio for run in self.runs])
        to_job = law.covariance(distances)
        variance = law.variance - float(to_job @ inverse @ to_job)
        # what the runs say of the law's own scale; no less than one: luck proves nothing
        freedom = _CLASS_SOURCES + len(ratios)
        scale = max(1.0, (_CLASS_SOURCES - 2.0 + float(ratios @ inverse @ ratios)) / (freedom - 2.0))
        return Correction(
            deployment=self.deployment,
            factor=exp(float(to_job @ inverse @ ratios)),
            half_width=_student_90(freedom) * sqrt(variance * scale),
            rows=len(self.runs),
            doublings=float(distances.min()),
        )

    @cached_property
    def _distances(self) -> NDArray[np.float64]:
        return np.array([[a.place.distance(b.place) for b in self.runs] for a in self.runs])

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"deployment": self.deployment, "runs": [run.to_dict() for run in self.runs]}


def _student_90(freedom: int) -> float:
    """Half-width that holds 90 % of Student's t, in units of its variance-one scale (Hill 1970, first terms)."""
    z, n = NORMAL_90, float(freedom)
    quantile = z + (z**3 + z) / (4.0 * n) + (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / (96.0 * n**2)
    return quantile * sqrt((n - 2.0) / n)


def load_own_runs(path: str) -> dict[str, OwnRuns]:
    """Own runs by deployment. ScenarioError for a file that is none."""
    try:
        raw = json.loads(read_text(Path(path), "is not there"))
        kept = [OwnRuns(str(each["deployment"]), tuple(_run(run) for run in each["runs"])) for each in raw["own_runs"]]
    except (FileError, BadNumber) as error:
        raise ScenarioError(f"corrections {path[:200]}: {error}; `moesim calibrate --from rows` writes them") from None
    except (ValueError, KeyError, TypeError, OverflowError):
        raise ScenarioError(f"{path} holds no own runs; `moesim calibrate --from rows` writes them") from None
    if any(not each.runs for each in kept):
        raise ScenarioError(f"{path} names a deployment without runs; `moesim calibrate --from rows` writes none")
    return {each.deployment: each for each in kept}


def _run(raw: dict[str, Any]) -> OwnRun:
    ratio = number(raw["log_ratio"], "log_ratio", -_MOST_LOG_RATIO, _MOST_LOG_RATIO)
    sizes = [whole(raw[name], name, 1, 10**9) for name in AXES]
    place = Place(tuple(log2(size) for size in sizes), str(raw["recompute"])[:100], whole(raw["zero"], "zero", 0, 3))
    return OwnRun(ratio, place)


def write_own_runs(kept: Sequence[OwnRuns], path: Path) -> None:
    """Own runs as JSON, for `corrections:` in a scenario."""
    text = json.dumps({"own_runs": [each.to_dict() for each in kept]}, indent=1, sort_keys=True)
    write_text(path, text + "\n")
