"""How sure a serving prediction is: 90 % intervals from left-out errors of the same class of deployment."""

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
_WIDER = 1.5  # assumed: a class without measurements is that much less sure than its relatives
METRICS = ("ttft_s", "tpot_s", "output_tokens_per_s")


@cache
def _bands() -> dict[str, dict[str, Any]]:
    bands: dict[str, dict[str, Any]] = read_yaml(_BANDS)
    return bands


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
    widths, used = {}, keys[0]
    bands = _bands()
    for metric in METRICS:
        key = next((k for k in keys if f"{metric},{k}" in bands), "")
        if key:
            half = float(bands[f"{metric},{key}"]["half_width"])
        else:
            half = max(float(b["half_width"]) for name, b in bands.items() if name.split(",")[0] == metric)
        if key != keys[0]:
            half *= _WIDER
            used = key or "all"
        widths[metric] = half
    note = "" if used == keys[0] else f"no measured runs of class {keys[0]}: {_WIDER:g} times the band of {used}"
    return ServeBand(keys[0] if not note else used, widths, note)
