"""How sure a serving prediction is: 90 % intervals from errors with whole sources left out of the fit.

A source is a team's engine of one release on one GPU (calibrate/fit/widths.py). Classes narrow from the kind of model
to engine and GPU generation; a GPU that no fitted run is of widens the interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import exp
from pathlib import Path
from typing import Any

from moesim.hwmodels.facts import read_yaml
from moesim.sim.serve.job import Deployment, ServeJob
from moesim.sim.serve.workload import Workload

_BANDS = Path(__file__).parents[1] / "software" / "engines" / "bands.yaml"
_WIDER = 1.5  # assumed: a GPU without measurements makes an answer that much less sure than its relatives
METRICS = ("ttft_s", "tpot_s", "output_tokens_per_s")


@cache
def _bands() -> dict[str, dict[str, Any]]:
    bands: dict[str, dict[str, Any]] = read_yaml(_BANDS)
    return bands


@cache
def _measured_gpus() -> frozenset[str]:
    gpus: list[str] = read_yaml(_BANDS.with_name("measured.yaml"))["gpus"]
    return frozenset(gpus)


@dataclass(frozen=True, slots=True)
class ServeBand:
    """Half-widths of logarithms by metric, the class they come from, and why they are wide."""

    key: str
    widths: dict[str, float]
    note: str

    def around(self, metric: str, value: float) -> tuple[float, float]:
        """(low, high) around a predicted value."""
        half = self.widths[metric]
        return value * exp(-half), value * exp(half)


def load_class(clients: int) -> str:
    """Closed loops and everything else have errors of their own."""
    return "closed" if clients else "open"


def band_keys(job: ServeJob, pools: bool, load: str) -> list[str]:
    """Classes a deployment belongs to, most specific first."""
    kind = "moe" if job.arch.is_moe else "dense"
    where = "pools" if pools else load
    engine, generation = job.engine.name, job.cluster.gpu.generation
    return [
        f"{kind},{where},{engine},{generation}",
        f"{kind},{where},{engine}",
        f"{kind},{where}",
        kind,
    ]


def serve_band(deployment: Deployment, load: Workload) -> ServeBand:
    """Intervals of a deployment under a load."""
    keys = band_keys(deployment.job, deployment.prefill is not None, load_class(load.clients))
    gpu = deployment.job.cluster.gpu.name
    factor = 1.0 if gpu in _measured_gpus() else _WIDER
    widths, used, bands = {}, keys[0], _bands()
    for metric in METRICS:
        key = next(k for k in keys if f"{metric},{k}" in bands)
        widths[metric] = factor * float(bands[f"{metric},{key}"]["half_width"])
        used = max(used, key, key=keys.index)
    notes = [] if used == keys[0] else [f"too few sources of class {keys[0]}: the intervals of {used}"]
    if factor > 1.0:
        notes.append(f"intervals widened {factor:g} times: no fitted run on {gpu} (assumed)")
    return ServeBand(used, widths, "; ".join(notes))
