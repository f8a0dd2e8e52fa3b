"""Answers as pandas objects, for notebooks and scripts: one row per alternative, units in the names.

_s seconds, _bytes bytes, _w watts, _mwh megawatt-hours, usd US dollars; rates per second. Dollars are None where no
price is known. Nothing is predicted again: each function lays out an answer that a verb gave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from moesim.sim.comparison.comparison import Comparison
from moesim.sim.comparison.questions import SECTIONS
from moesim.sim.plan.fleet.fleet import Fleet
from moesim.sim.plan.serve.plan import ServePlan
from moesim.sim.plan.train.plan import Plan
from moesim.sim.serve.accounts import latencies_of
from moesim.sim.serve.prediction import ServePrediction
from moesim.sim.train.prediction import Prediction
from moesim.sim.train.shared_fabric import SharedFabric
from moesim.sim.train.whole_run import TrainingRun
from moesim.sim.variation.sweep import Sweep
from moesim.sim.variation.whatif_serve import ServeWhatIf
from moesim.sim.variation.whatif_train import WhatIf

if TYPE_CHECKING:
    import pandas as pd


def _frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows))


def plan(plan: Plan | ServePlan) -> pd.DataFrame:
    """Layouts or deployments of a search, one row each, best first by the plan's objective.

    Training: gpus, degrees of parallelism, micro_batch, recompute, step_time_s, bound_s (no schedule is faster),
    memory_bytes of the fullest GPU, tokens_per_s of all GPUs, dollars. Serving: gpus, shape of a replica, mean and 90 %
    ttft_s and tpot_s, goodput_per_s (requests within the limits), dollars. `why`: what it loses by against the best.
    """
    return _frame(option.to_dict() for option in plan.options)


def sweep(sweep: Sweep) -> pd.DataFrame:
    """One row per combination of settings, in the sweep's order: a column per setting, then one per result.

    A point that could not be predicted has no results; its column `error` says why.
    """
    return _frame(sweep.rows).reindex(columns=[*sweep.names, *sweep.results])


def beside(answer: SharedFabric) -> pd.DataFrame:
    """One row per job: seconds by itself, alone in its place and beside the others, what it loses; its busiest uplinks.

    `uplinks.share` is how full those are, `uplinks.job.N` the part of job N (from 1).
    """
    rows = []
    for number, job in enumerate(answer.to_dict()["jobs"], 1):
        use = job.pop("busiest_uplinks")
        job.pop("assumptions")
        parts = {f"uplinks.job.{n}": share for n, share in enumerate(use["by_job"], 1)} if use else {}
        rows.append({"job": number} | job | ({"uplinks.share": use["share"]} if use else {}) | parts)
    return _frame(rows)


def front(plan: ServePlan) -> pd.DataFrame:
    """Deployments and numbers of clients that nothing beats in both tokens_per_s_per_user and tokens_per_s_per_gpu.

    One row each: gpus, deployment, clients, both rates in output tokens per second, mean ttft_s.
    """
    return _frame(point.to_dict() for point in plan.front)


def fleet(fleet: Fleet) -> pd.DataFrame:
    """One row per year from year 0: peak_per_s (requests), fixed_replicas, gpus, servers, racks, power_w, MWh.

    Dollars of the year by way of paying stand in columns `usd.<choice>`. Replicas by hour are in the record alone. p10,
    p50 and p90 of replicas, gpus, autoscaled_gpu_hours and each way of paying: `replicas.p10`, `rent, fixed.p90`.
    """
    rows = []
    for year in fleet.years:
        record = year.to_dict()
        sure = {f"{name}.{q}": v for name, each in record.pop("intervals").items() for q, v in each.items()}
        usd = {f"usd.{choice}": value for choice, value in record.pop("usd").items()}
        rows.append({key: value for key, value in record.items() if key != "replicas"} | usd | sure)
    return _frame(rows)


def whatif(answer: WhatIf | ServeWhatIf) -> pd.DataFrame:
    """One row per change, the one that matters most for tokens per dollar first.

    knob and change; with the change step_time_s (serving: mean ttft_s and tpot_s) and tokens_per_usd; whether it fits
    into memory; tokens_per_s_factor over the run as asked.
    """
    return _frame(answer.to_dict()["outcomes"])


def compare(comparison: Comparison) -> pd.DataFrame:
    """One column per model; rows are figures of training and serving, named section.figure (train.step_time_s).

    A section that could not be predicted has a row section.refusal that says why, and no others. `gpus_for_same_work`:
    GPUs of this model that do the work of the first one's.
    """
    import pandas as pd

    columns = {}
    for column in comparison.columns:
        record = {key: getattr(column, key) for key in ("model", "parameters", "active_parameters", "cluster")}
        for section in SECTIONS:
            side = getattr(column, section)
            if side is not None:
                record |= _flat(section, asdict(side))
                record[f"{section}.gpus_for_same_work"] = comparison.gpus_for_same_work(column, section)
            elif section in column.refusals:
                record[f"{section}.refusal"] = column.refusals[section]
        columns[column.name] = record
    return pd.DataFrame(columns)


def _flat(prefix: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """{'run': {'usd': 1}} under 'train' as {'train.run.usd': 1}."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= _flat(f"{prefix}.{key}", value) if isinstance(value, dict) else {f"{prefix}.{key}": value}
    return flat


def break_evens(comparison: Comparison) -> pd.DataFrame:
    """One row per pair of models and axis: where the winner changes.

    low and high bound what was searched, crossings lists the values, all in the axis's `unit`; `answer` is a sentence.
    """
    keys = ("section", "axis", "unit", "first", "other", "low", "high", "answer", "note")
    return _frame(
        {**{key: getattr(b, key) for key in keys}, "crossings": [c.value for c in b.crossings]}
        for b in comparison.break_evens
    )


def train(prediction: Prediction) -> pd.Series[float]:
    """Seconds of one step by category (gemm, ep_comm, bubble, ...), of the mean rank; they sum to step_time_s."""
    import pandas as pd

    return pd.Series(prediction.breakdown_s, name="seconds")


def wires(prediction: Prediction) -> pd.DataFrame:
    """One row per kind of wire and pipeline rank: the share of the step for which a GPU of it uses its full rate."""
    return _frame(
        {"wire": load.wire, "rank": rank, "share": float(share)}
        for load in prediction.wires.loads
        for rank, share in enumerate(load.share)
    )


def run(run: TrainingRun) -> pd.Series[Any]:
    """A whole training run as one column: tokens, steps, days and wall_s, gpu_hours, usd, MWh, co2_tonnes, failures.

    goodput is the share of wall_s that trains, between 0 and 1; failures are those expected.
    """
    import pandas as pd

    return pd.Series(run.to_dict(), name="run")


def serve(prediction: ServePrediction) -> pd.DataFrame:
    """One row per simulated request in order of arrival, those of the warm-up included, as the clients see it.

    arrival_s since the start; input_tokens and output_tokens; ttft_s and e2e_s: seconds from arrival to the first and
    to the last token.
    """
    log, seen = prediction.run.log, latencies_of(prediction.run)
    return _frame(
        {"arrival_s": a, "input_tokens": p, "output_tokens": o, "ttft_s": f, "e2e_s": e}
        for a, p, o, f, e in zip(log.arrival_s, log.prompt, log.output, seen.ttft_s, seen.e2e_s, strict=True)
    )
