"""Each model in its own best layout: what a search finds on the same GPUs, and how far the asked layout is from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moesim.sim.plan.serve.plan import plan_serve
from moesim.sim.plan.serve.search import ServeEffort
from moesim.sim.plan.train.plan import plan_train
from moesim.sim.plan.train.search import Effort, Progress
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import ScenarioError, scenario_of
from moesim.sim.serve.predict import predict_serve
from moesim.sim.train.predict import predict_train

TRAINED = Effort(top=1, most=48)  # enough for the best: what is left cannot beat its bound
_SERVED = ServeEffort(top=1, most=40)
_NEAR = 0.005  # gains below this are none


@dataclass(frozen=True, slots=True)
class Best:
    """A section in the best layout that was found. `gain`: of the asked layout's cost per token, what it saves; None
    where that one does not fit."""

    scenario: dict[str, Any]
    layout: str
    gain: float | None

    @property
    def note(self) -> str:
        """How far the asked layout is from the best."""
        if self.gain is None:
            return f"the asked layout does not fit; best layout found: {self.layout}"
        if self.gain < _NEAR:
            return f"the asked layout is as good as the best found ({self.layout})"
        return f"best layout found: {self.layout}; per token the asked one costs {self.gain:.1%} more"


def best_train(scenario: Mapping[str, Any], effort: Effort = TRAINED, progress: Progress | None = None) -> Best:
    """The fastest layout of a training scenario on its own GPUs. DoesNotFit where none fits."""
    question = scenario_of(dict(scenario))
    try:
        plan = plan_train(question, effort=effort, progress=progress)
    except ScenarioError as refusal:
        raise DoesNotFit(str(refusal)) from None
    best = plan.options[0]
    try:
        asked_s: float | None = predict_train(question, events=False).step_time_s
    except DoesNotFit:
        asked_s = None
    if asked_s is not None and asked_s <= best.finalist.step_time_s:  # a layout that the search does not look at
        return Best(dict(scenario), "the asked one", 0.0)
    gain = None if asked_s is None else asked_s / best.finalist.step_time_s - 1.0
    return Best(plan.scenario(best), best.finalist.candidate.title, gain)


def best_serve(scenario: Mapping[str, Any], progress: Progress | None = None) -> Best:
    """The cheapest deployment that serves the load within the limits; without limits, most tokens per second and GPU.

    DoesNotFit where none does.
    """
    question = scenario_of(dict(scenario))
    assert question.serve is not None
    limits = question.serve.slo is not None
    try:
        plan = plan_serve(
            question, objective="cost" if limits else "tokens_per_s_per_gpu", effort=_SERVED, progress=progress
        )
    except ScenarioError as refusal:
        raise DoesNotFit(str(refusal)) from None
    found = plan.scenario(0)
    try:
        asked = predict_serve(question, meets=False)
    except DoesNotFit:
        return Best(found, plan.options[0].served.candidate.title, None)
    best = predict_serve(found, meets=False)
    gain = best.output_tokens_per_s_per_gpu / asked.output_tokens_per_s_per_gpu - 1.0
    if gain <= 0.0:
        return Best(dict(scenario), "the asked one", 0.0)
    return Best(found, plan.options[0].served.candidate.title, gain)
