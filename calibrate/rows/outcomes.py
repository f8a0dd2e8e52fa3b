"""Predict many rows: each distinct workload once, on all cores, in an order that timing cannot change."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moesim.calibrate.rows.files import blinded
from moesim.calibrate.rows.kinds import COMM, SERVING, TRAINING, table_of
from moesim.calibrate.rows.predict_comm import family_of_comm, predict_comm_row
from moesim.calibrate.rows.predict_serving import BAND_OF, family_of_serving, predict_serving_row
from moesim.calibrate.rows.predict_training import simulate_row
from moesim.calibrate.rows.training import scenario_of
from moesim.hwmodels.units import GIB
from moesim.refusal import Refusal
from moesim.sim.serve.band import serve_sureness
from moesim.sim.train.band import interval_s, sureness
from moesim.sim.train.memory import step_memory
from moesim.sim.train.step import lower_bounds_s
from moesim.sim.train.workers import crew

MEMORY_BAND = 0.03  # assumed: relative half-width of the interval of peak memory
_PARALLEL_FROM = 100  # distinct workloads below which starting processes costs more than it saves

Progress = Callable[[int, int], None]  # (done, all)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A predicted value with its interval, in the metric's unit."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one workload is predicted to take, or why it is refused. The rest is for grouping."""

    estimates: dict[str, Estimate]
    family: str = ""  # the class that accuracy targets are set for, where the predictor knows it
    gpu: str = ""
    generation: str = ""  # of the GPU
    kind: str = ""  # dense | MoE | transfer
    release: str = ""  # YY.MM, empty when unknown
    stack: str = ""  # of training, whose constants it got
    refusal: str = ""


def predict_workload(row: dict[str, str]) -> Outcome:
    """Predict one blinded row of any kind of file."""
    predictors = {COMM.name: _predict_comm, SERVING.name: _predict_serving, TRAINING.name: _predict_training}
    return predictors[table_of(row).name](row)


def _predict_serving(row: dict[str, str]) -> Outcome:
    try:
        result = predict_serving_row(row)
    except Refusal as error:
        return Outcome({}, refusal=" ".join(str(error).split()))
    deployment = result.resolved.deployment
    sure = serve_sureness(deployment, result.resolved.workload)
    gpu, moe = deployment.job.cluster.gpu, deployment.job.arch.is_moe
    estimates = {m: Estimate(v, *sure[BAND_OF[m]].around(v)) for m, v in result.values.items()}
    kind = "MoE" if moe else "dense"
    return Outcome(estimates, family_of_serving(row, moe), gpu.name, gpu.generation, kind)


def _predict_comm(row: dict[str, str]) -> Outcome:
    try:
        result = predict_comm_row(row)
    except Refusal as error:
        return Outcome({}, refusal=" ".join(str(error).split()))
    p, rate = result.prediction, result.bandwidth_bytes_per_s
    estimates = {"time_us": Estimate(p.time_s * 1e6, p.low_s * 1e6, p.high_s * 1e6)}
    if rate is not None:
        estimates["bandwidth_gbs"] = Estimate(
            rate / 1e9, rate * p.time_s / p.high_s / 1e9, rate * p.time_s / p.low_s / 1e9
        )
    gpu = result.question.cluster.gpu
    return Outcome(estimates, family_of_comm(result.question), gpu.name, gpu.generation, "transfer")


def _predict_training(row: dict[str, str]) -> Outcome:
    """The memory check is not enforced."""
    try:
        result = simulate_row(row)
        peak = max(m.allocated for m in step_memory(result.prices)) / GIB
    except Refusal as error:
        return Outcome({}, refusal=" ".join(str(error).split()))
    job = result.resolved.job
    seconds = result.step.step_time_s
    low_s, high_s = interval_s(sureness(job), seconds, max(lower_bounds_s(result.prices).values()))
    estimates = (
        Estimate(seconds, low_s, high_s),
        Estimate(peak, peak * (1.0 - MEMORY_BAND), peak * (1.0 + MEMORY_BAND)),
    )
    kind = "MoE" if job.arch.is_moe else "dense"
    gpu = job.cluster.gpu
    by_metric = dict(zip(TRAINING.metrics, estimates, strict=True))
    return Outcome(by_metric, "", gpu.name, gpu.generation, kind, job.release, job.stack.name)


def predict_rows(
    rows: Sequence[dict[str, str]], workers: int = 1, progress: Progress | None = None, dask: str = ""
) -> list[Outcome]:
    """Outcomes in the order of `rows`. Workers are spawned only when there are many distinct workloads.

    dask: the address of a scheduler to run on instead.
    """
    keys = [_key(blinded(row)) for row in rows]
    distinct = {key: blinded(row) for key, row in zip(keys, rows, strict=True)}
    outcomes: dict[str, Outcome] = {}
    workers, names = workers if len(distinct) > _PARALLEL_FROM else 1, list(distinct)
    with crew(workers, dask) as those:
        for number, outcome in those.each(predict_workload, list(distinct.values())):
            outcomes[names[number]] = outcome
            if progress is not None:
                progress(len(outcomes), len(distinct))
    return [outcomes[key] for key in keys]


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _key(row: dict[str, str]) -> str:
    """Equal for rows that ask the same question."""
    if table_of(row) is not TRAINING:
        return json.dumps(row, sort_keys=True)
    try:
        question, _ = scenario_of(row)
    except Refusal:
        return json.dumps(row, sort_keys=True)
    return json.dumps(question, sort_keys=True)
