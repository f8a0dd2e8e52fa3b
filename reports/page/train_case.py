"""TrainCase: everything a chapter about a training scenario is made of, computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesim.reports.page.dense import Dense, trained_dense
from moesim.sim.model.catalogue import load_model
from moesim.sim.plan.train.plan import Plan, plan_train
from moesim.sim.plan.train.search import Effort
from moesim.sim.question.scenario import Scenario, ScenarioError
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prediction import Prediction
from moesim.sim.train.whole_run import TrainingRun, training_run
from moesim.sim.variation.whatif_train import WhatIf, whatif_train

SEARCHES = ("near", "full", "none")
_NEAR = Effort(top=2, most=48)
_FULL = Effort(top=5, most=400)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainCase:
    """A scenario, its prediction, its dense twin, what changes would do, and the best layouts found."""

    file: Path
    raw: Mapping[str, Any]
    asked: Prediction
    dense: tuple[Dense[Prediction], ...]  # of equal quality and of equal active parameters; none for a dense model
    whatif: WhatIf
    plan: Plan | None
    search: str
    run: TrainingRun | None

    @property
    def twin(self) -> Prediction | None:
        """The dense model of equal active parameters, where it fits."""
        return next((d.answer for d in self.dense if d.kind == "iso-active"), None)

    @property
    def name(self) -> str:
        """Of the model."""
        return self.asked.resolved.job.arch.name


def train_case(file: Path, raw: Mapping[str, Any], scenario: Scenario, search: str, tokens: float) -> TrainCase:
    """Predict everything about a training scenario. Refusals as of `predict_train`."""
    arch = load_model(scenario.model)
    asked = predict_train(scenario, lost="all")
    return TrainCase(
        file=file,
        raw=raw,
        asked=asked,
        dense=tuple(trained_dense(raw, arch, search, tokens or None)),
        whatif=whatif_train(scenario),
        plan=_plan(scenario, asked, search),
        search=search,
        run=training_run(asked, tokens) if tokens else None,
    )


def _plan(scenario: Scenario, asked: Prediction, search: str) -> Plan | None:
    if search == "none":
        return None
    try:
        return plan_train(
            scenario, given=near(asked) if search == "near" else {}, effort=_NEAR if search == "near" else _FULL
        )
    except ScenarioError:
        if search == "full":
            raise
        return plan_train(scenario, effort=_NEAR)  # what lies beside the asked layout does not divide: look everywhere


def near(asked: Prediction) -> dict[str, tuple[int, ...]]:
    """Axes of a search beside the asked layout: its widths halved and doubled."""
    job, lay = asked.resolved.job, asked.resolved.job.layout

    def around(value: int, most: int) -> tuple[int, ...]:
        return tuple(v for v in (value // 2, value, value * 2) if 1 <= v <= most)

    given = {"tp": around(lay.tp, min(16, job.cluster.domain)), "pp": around(lay.pp, job.arch.num_layers)}
    if job.arch.moe is not None:
        given["ep"] = around(lay.ep, job.arch.moe.experts)
    return given | {"micro_batch": around(job.micro_batch, 8)}
