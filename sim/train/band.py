"""How sure a prediction is: a 90 % interval that is meant to hold on runs of teams that nobody here has seen.

Its width is of the class of run, from errors with whole sources left out of the fit (calibrate/fit/widths.py), and
grows with what no fitted run is like: a GPU that none ran on, a length or a number of GPUs beyond them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import exp, log2, sqrt
from pathlib import Path
from typing import Any

from moesim.hwmodels.facts import read_yaml
from moesim.sim.train.job import Correction, TrainJob

_STACKS = Path(__file__).parents[1] / "software" / "stacks"
NO_ROWS_OF_STACK = "a stack without fitted runs"
_OTHER_GPU = 0.49  # assumed, from one source: MI355X, whose kernels are derived, is 0.37 off; 1.645 x 0.3
_PER_DOUBLING = 0.1  # assumed: half-width for every doubling beyond what was measured
_AXES = {"seq_len": "tokens per sequence", "gpus": "GPUs", "batch_tokens": "tokens per micro-batch"}


@dataclass(frozen=True, slots=True)
class Interval:
    """Low and high seconds around a prediction, the class whose errors gave them, and why it is wide."""

    low_s: float
    high_s: float
    band: str
    note: str
    parts: dict[str, float]  # reason -> its share of the squared half-width; sums to 1
    narrower: str  # the one fact that would narrow it most


@dataclass(frozen=True, slots=True)
class Measured:
    """What the fitted runs of a kind of model hold: stacks, GPUs, and (smallest, largest) by axis."""

    stacks: frozenset[str]
    gpus: frozenset[str]
    ranges: Mapping[str, tuple[float, float]]


@cache
def _bands() -> dict[str, dict[str, Any]]:
    bands: dict[str, dict[str, Any]] = read_yaml(_STACKS / "bands.yaml")
    return bands


@cache
def measured(kind: str) -> Measured:
    """Of dense or moe models."""
    record = read_yaml(_STACKS / "measured.yaml")[kind]
    ranges = {axis: (float(low), float(high)) for axis, (low, high) in record["ranges"].items()}
    return Measured(frozenset(record["stacks"]), frozenset(record["gpus"]), ranges)


def author_of(job: TrainJob) -> str:
    """vendor: a tuned recipe of a named release, as its makers run it; other: everything else."""
    return "vendor" if job.release and job.stack.author == "vendor-tuned" else "other"


def kind_of(job: TrainJob) -> str:
    """dense or moe."""
    return "moe" if job.arch.is_moe else "dense"


def band_keys(job: TrainJob) -> list[str]:
    """Classes a job belongs to, most specific first."""
    kind, stack = kind_of(job), job.stack.name
    author = f"{kind},{author_of(job)}"
    return [f"{author},{stack},{job.cluster.gpu.family}", f"{author},{stack}", author, kind]


def axes_of(job: TrainJob) -> dict[str, float]:
    """Where a job lies on the axes along which runs were measured."""
    return {
        "seq_len": float(job.seq_len),
        "gpus": float(job.layout.gpus),
        "batch_tokens": float(job.micro_batch * job.seq_len),
    }


def _beyond(job: TrainJob, seen: Measured) -> dict[str, float]:
    """Half-width of every axis on which the job lies outside what was measured, with its reason."""
    parts = {}
    for axis, value in axes_of(job).items():
        low, high = seen.ranges[axis]
        doublings = max(log2(value / high), log2(low / value), 0.0)
        if doublings > 0.0:
            measured_range = f"{low:,.0f} to {high:,.0f}"
            parts[f"{value:,.0f} {_AXES[axis]}, measured {measured_range}"] = _PER_DOUBLING * doublings
    return parts


def _class_width(job: TrainJob) -> tuple[str, float, str]:
    """The class whose errors the interval has, its half-width, and why it is not the most specific one."""
    bands, keys = _bands(), band_keys(job)
    key = next(k for k in keys if k in bands)
    half, note = float(bands[key]["half_width"]), ""
    if job.stack.name not in measured("dense").stacks | measured("moe").stacks:
        unknown = float(bands[NO_ROWS_OF_STACK]["half_width"])
        if unknown > half:
            key, half = NO_ROWS_OF_STACK, unknown
        note = f"no fitted run of stack {job.stack.name}"
    elif key != keys[0]:
        note = f"too few sources of class {keys[0]}: the interval of {key}"
    return key, half, note


def interval(job: TrainJob, step_time_s: float, least_s: float = 0.0) -> Interval:
    """The 90 % interval of a predicted step time; no lower than `least_s`, which no such step can beat."""
    key, half, note = _class_width(job)
    seen = measured(kind_of(job))
    widths = {f"how far off runs of unseen teams were, class {key}": half}
    # dense runs show a GPU's kernels for both kinds; those of experts hide them behind exchanges and the host
    if job.cluster.gpu.name not in seen.gpus | measured("dense").gpus:
        widths[f"no fitted run on {job.cluster.gpu.name} (assumed)"] = _OTHER_GPU
    widths |= _beyond(job, seen)
    whole = sqrt(sum(w * w for w in widths.values()))
    parts = {reason: (w / whole) ** 2 for reason, w in widths.items()}
    notes = [*([note] if note else []), *(f"interval widened: {reason}" for reason in list(widths)[1:])]
    narrower = _narrower(job, half)
    low_s = max(step_time_s * exp(-whole), min(least_s, step_time_s))
    return Interval(low_s, step_time_s * exp(whole), key, "; ".join(notes), parts, narrower)


def _narrower(job: TrainJob, half: float) -> str:
    """The one fact that would narrow the interval most: the release of a vendor's recipe, or runs of one's own."""
    own = "runs of your own (moesim calibrate --from rows)"
    vendor = _bands().get(f"{kind_of(job)},vendor")
    if vendor is None or author_of(job) == "vendor" or job.stack.name != "megatron-tuned":
        return own
    known = float(vendor["half_width"])
    return (
        f"the software's release, if this is a vendor's recipe (+{exp(known) - 1.0:.0%} then)" if known < half else own
    )


def corrected_interval(step_time_s: float, correction: Correction) -> Interval:
    """The band that the deployment's own rows left."""
    half = correction.half_width
    name = f"own runs: {correction.deployment}"
    return Interval(step_time_s * exp(-half), step_time_s * exp(half), name, "", {name: 1.0}, "more runs of your own")
