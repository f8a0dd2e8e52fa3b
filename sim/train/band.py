"""How sure a prediction is: a 90 % interval that is meant to hold on runs of teams that nobody here has seen.

Its width, below and above, is of the class of run, from errors with whole sources left out of the fit
(calibrate/fit/widths.py), and grows with what no fitted run is like: a GPU that none ran on, a length or a number of
GPUs beyond them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.hwmodels.facts import read_yaml
from moesim.hwmodels.interval import Sureness, Width, widened, width_of

if TYPE_CHECKING:
    from moesim.sim.train.job import TrainJob
    from moesim.sim.train.own_runs import Correction

_STACKS = Path(__file__).parents[1] / "software" / "stacks"
NO_ROWS_OF_STACK = "a stack without fitted runs"
OWN_RUNS = "runs of your own (moesim calibrate --from rows)"
_OTHER_GPU = 0.49  # assumed, from one source: MI355X, whose kernels are derived, is 0.37 off; 1.645 x 0.3
_PER_DOUBLING = 0.1  # assumed: half-width for every doubling beyond what was measured
_AXES = {"seq_len": "tokens per sequence", "gpus": "GPUs", "batch_tokens": "tokens per micro-batch"}


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


def class_width(job: TrainJob) -> tuple[str, Width, str]:
    """The class whose errors the interval has, its width, and why it is not the most specific one."""
    bands, keys = _bands(), band_keys(job)
    key = next(k for k in keys if k in bands)
    width, note = width_of(bands[key]), ""
    if job.stack.name not in measured("dense").stacks | measured("moe").stacks:
        unknown = width_of(bands[NO_ROWS_OF_STACK])
        if unknown.square > width.square:
            key, width = NO_ROWS_OF_STACK, unknown
        note = f"no fitted run of stack {job.stack.name}"
    elif key != keys[0]:
        note = f"too few sources of class {keys[0]}: the interval of {key}"
    return key, width, note


def sureness(job: TrainJob) -> Sureness:
    """The 90 % interval of a predicted step time, before anything bounds it."""
    key, width, note = class_width(job)
    seen = measured(kind_of(job))
    reasons = {}
    # dense runs show a GPU's kernels for both kinds; those of experts hide them behind exchanges and the host
    if job.cluster.gpu.name not in seen.gpus | measured("dense").gpus:
        reasons[f"no fitted run on {job.cluster.gpu.name} (assumed)"] = _OTHER_GPU
    reasons |= _beyond(job, seen)
    whole, parts = widened(f"how far off runs of unseen teams were, class {key}", width, reasons)
    notes = [*([note] if note else []), *(f"interval widened: {reason}" for reason in reasons)]
    return Sureness(key, whole, "; ".join(notes), parts, _narrower(job, width))


def _narrower(job: TrainJob, width: Width) -> str:
    """The one fact that would narrow the interval most: the release of a vendor's recipe, or runs of one's own."""
    vendor = _bands().get(f"{kind_of(job)},vendor")
    if vendor is None or author_of(job) == "vendor" or job.stack.name != "megatron-tuned":
        return OWN_RUNS
    known = width_of(vendor)
    if known.square >= width.square:
        return OWN_RUNS
    return f"the software's release, if this is a vendor's recipe ({known.reach()} then)"


def of_own_runs(correction: Correction) -> Sureness:
    """The interval that the deployment's own rows left: they are as near to this job, and as alike, as they are."""
    half, name = correction.half_width, f"own runs: {correction.deployment}"
    why = f"{correction.rows} own runs, {correction.near}"
    return Sureness(name, Width(half, half), "", {why: 1.0}, "more runs of your own, nearer to this layout and scale")


def interval_s(sure: Sureness, step_time_s: float, least_s: float) -> tuple[float, float]:
    """(low, high) seconds of a step; no lower than `least_s`, which no such step can beat."""
    low_s, high_s = sure.around(step_time_s)
    return max(low_s, min(least_s, step_time_s)), high_s
