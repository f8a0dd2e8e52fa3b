"""Answers as pandas objects, for notebooks and scripts: one row per alternative, SI units in the names."""

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
    """Layouts or deployments of a search, best first: degrees, seconds, rates, dollars."""
    return _frame(option.to_dict() for option in plan.options)


def sweep(sweep: Sweep) -> pd.DataFrame:
    """One row per point: settings, then results."""
    return _frame(sweep.rows).reindex(columns=[*sweep.names, *sweep.results])


def front(plan: ServePlan) -> pd.DataFrame:
    """Deployments and numbers of clients that nothing beats in tokens/s of a user and of a GPU."""
    return _frame(point.to_dict() for point in plan.front)


def fleet(fleet: Fleet) -> pd.DataFrame:
    """One row per year: replicas, GPUs, racks, kW, and dollars by choice."""
    rows = []
    for year in fleet.years:
        record = year.to_dict()
        usd = {f"usd.{choice}": value for choice, value in record.pop("usd").items()}
        rows.append({key: value for key, value in record.items() if key != "replicas"} | usd)
    return _frame(rows)


def whatif(answer: WhatIf | ServeWhatIf) -> pd.DataFrame:
    """One row per change, the one that matters most first."""
    return _frame(answer.to_dict()["outcomes"])


def compare(comparison: Comparison) -> pd.DataFrame:
    """One column per model; rows are figures of training and serving, named section.figure."""
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
    """One row per axis: range searched, values where the winner changes, and the answer as a sentence."""
    keys = ("section", "axis", "unit", "first", "other", "low", "high", "answer", "note")
    return _frame(
        {**{key: getattr(b, key) for key in keys}, "crossings": [c.value for c in b.crossings]}
        for b in comparison.break_evens
    )


def train(prediction: Prediction) -> pd.Series[float]:
    """Where a step goes: seconds by category; they sum to the step."""
    import pandas as pd

    return pd.Series(prediction.breakdown_s, name="seconds")


def run(run: TrainingRun) -> pd.Series[Any]:
    """A whole training run: days, dollars, energy, failures."""
    import pandas as pd

    return pd.Series(run.to_dict(), name="run")


def serve(prediction: ServePrediction) -> pd.DataFrame:
    """One row per request, as the clients see it: arrival, tokens, seconds to the first and to the last token."""
    log, seen = prediction.run.log, latencies_of(prediction.run)
    return _frame(
        {"arrival_s": a, "input_tokens": p, "output_tokens": o, "ttft_s": f, "e2e_s": e}
        for a, p, o, f, e in zip(log.arrival_s, log.prompt, log.output, seen.ttft_s, seen.e2e_s, strict=True)
    )
