"""How sure a serving prediction is: 90 % intervals from errors with whole sources left out of the fit.

A source is a team's engine of one release on one GPU (calibrate/fit/widths.py). Classes narrow from the kind of model
to engine and GPU generation; a GPU that no fitted run is of widens the interval.
"""

from __future__ import annotations

from functools import cache
from math import log, prod
from pathlib import Path
from typing import Any

from moesim.hwmodels.facts import read_yaml
from moesim.hwmodels.interval import Sureness, width_of
from moesim.sim.serve.job import Deployment, ServeJob
from moesim.sim.serve.workload import Workload

_BANDS = Path(__file__).parents[1] / "software" / "engines" / "bands.yaml"
_STRANGE_GPU = 1.5  # assumed: a GPU without measurements makes an answer that much less sure than its relatives
# from two sources left out, of mixtures on an engine whose version nobody said: 0.50 of the token's time at p90 against
# 0.29 where it is said; dense models show no difference, and first tokens are as unsure either way
_UNDATED = 1.7
_NO_DATE = "no version or date"
TITLES = {"ttft_s": "the first token", "tpot_s": "further tokens", "output_tokens_per_s": "tokens/s"}
METRICS = tuple(TITLES)


@cache
def _bands() -> dict[str, dict[str, Any]]:
    bands: dict[str, dict[str, Any]] = read_yaml(_BANDS)
    return bands


@cache
def _measured_gpus() -> frozenset[str]:
    gpus: list[str] = read_yaml(_BANDS.with_name("measured.yaml"))["gpus"]
    return frozenset(gpus)


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


def _wider(job: ServeJob, metric: str) -> dict[str, float]:
    """What makes an interval of a deployment wider than its class: reason -> factor."""
    gpu, engine, factors = job.cluster.gpu.name, job.engine, {}
    if gpu not in _measured_gpus():
        factors[f"no fitted run on {gpu} (assumed)"] = _STRANGE_GPU
    if metric != "ttft_s" and job.arch.is_moe and not engine.version and engine.month is None:
        factors[f"{_NO_DATE} of {engine.family} stated"] = _UNDATED
    return factors


def _narrower(job: ServeJob, factors: dict[str, float]) -> str:
    """The one fact that would narrow the intervals most."""
    if any(reason.startswith(_NO_DATE) for reason in factors):
        return "serve.engine.version, or its date"
    gpu = job.cluster.gpu.name
    if factors:
        return f"fitted rows of runs on {gpu}; how far off your own runs are: moesim validate my_rows.csv"
    return "nothing that a scenario can say; how far off your own runs are: moesim validate my_rows.csv"


def serve_sureness(deployment: Deployment, load: Workload) -> dict[str, Sureness]:
    """The 90 % interval of every metric of a deployment under a load."""
    job = deployment.job
    keys = band_keys(job, deployment.prefill is not None, load_class(load.clients))
    bands, found = _bands(), {}
    for metric in METRICS:
        factors = _wider(job, metric)
        notes = [f"widened {factor:g} times: {reason}" for reason, factor in factors.items()]
        key = next(k for k in keys if f"{metric},{k}" in bands)
        own = width_of(bands[f"{metric},{key}"])
        whole = own.scaled(prod(factors.values()))
        said = [] if key == keys[0] else [f"too few sources of class {keys[0]}: the interval of {key}"]
        about = f"interval of {TITLES[metric]}: "
        parts = _shares(f"how far off runs of unseen sources were, class {key}", factors)
        found[metric] = Sureness(
            key, whole, about + "; ".join([*said, *notes]) if said or notes else "", parts, _narrower(job, factors)
        )
    return found


def _shares(first: str, factors: dict[str, float]) -> dict[str, float]:
    """Shares of the square: the class's own, and of the rest each factor as its logarithm."""
    whole = prod(factors.values())
    rest, logs = 1.0 - 1.0 / whole**2, log(whole)
    return {first: 1.0 / whole**2} | {reason: rest * log(factor) / logs for reason, factor in factors.items()}
