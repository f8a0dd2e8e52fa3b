"""ServeCase: everything a chapter about a serving scenario is made of, computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moesim.reports.page.dense import Dense, dense_models
from moesim.sim.layout.layout import BadLayout
from moesim.sim.model.arch import ModelArch
from moesim.sim.model.catalogue import load_model
from moesim.sim.model.params import parameters
from moesim.sim.model.writing import as_mapping
from moesim.sim.plan.serve.plan import ServePlan, plan_serve
from moesim.sim.plan.serve.search import ServeEffort
from moesim.sim.question.lookup import without_training
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import Scenario, ScenarioError
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.prediction import ServePrediction
from moesim.sim.variation.whatif_serve import ServeWhatIf, whatif_serve

_NEAR, _FULL = ServeEffort(top=5, most=40), ServeEffort(top=5, most=400)
# keys of the serve section that a dense model has no use for
_EXPERTS = (
    "attention_dp",
    "expert_slots",
    "offload",
    "two_batch_overlap",
    "pools",
    "kv_blocks",
)  # of the serve section


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeCase:
    """A scenario, its prediction, its dense twin, what changes would do, and the best deployments found."""

    asked: ServePrediction
    dense: tuple[Dense[ServePrediction], ...]  # of equal quality and of equal active parameters; none if it is dense
    whatif: ServeWhatIf
    plan: ServePlan | None
    plan_note: str  # why there is no plan
    search: str

    @property
    def twin(self) -> ServePrediction | None:
        """The dense model of equal active parameters, where it can be served."""
        return next((d.answer for d in self.dense if d.kind == "iso-active"), None)

    @property
    def name(self) -> str:
        """Of the model."""
        return self.asked.resolved.deployment.job.arch.name


def tokens_at_most(p: ServePrediction) -> float:
    """Output tokens per second of a deployment whose queue is never empty."""
    return p.capacity_requests_per_s * p.run.log.output_total / p.run.log.served


def serve_case(raw: Mapping[str, Any], scenario: Scenario, search: str) -> ServeCase:
    """Predict everything about a serving scenario. Refusals as of `predict_serve`."""
    asked = predict_serve(scenario)
    dense = served_dense(raw, load_model(scenario.model), asked.resolved.deployment.gpus)
    plan, plan_note = _plan(scenario, search)
    return ServeCase(
        asked=asked,
        dense=tuple(dense),
        whatif=whatif_serve(scenario),
        plan=plan,
        plan_note=plan_note,
        search=search,
    )


def served_dense(raw: Mapping[str, Any], arch: ModelArch, gpus: int) -> list[Dense[ServePrediction]]:
    """Dense models under the same load on as many GPUs, in the tensor-parallel replicas that serve it cheapest."""
    serve = {key: value for key, value in raw["serve"].items() if key not in _EXPERTS}
    unused = ("routing", "placement", "layout")
    kept = {key: value for key, value in without_training(dict(raw)).items() if key not in unused}
    found = []
    for kind, model, quality in dense_models(arch, None):
        question = {**kept, "model": as_mapping(model), "serve": serve}
        question["cluster"] = {**raw["cluster"], "gpus": gpus}
        answer, note = _cheapest(question, gpus)
        found.append(Dense(kind, parameters(model), answer, note, quality))
    return found


def _cheapest(question: Mapping[str, Any], gpus: int) -> tuple[ServePrediction | None, str]:
    """The width of replicas that gives most tokens at its highest rate, and the width; or why none serves."""
    best, note, refusal = None, "", ""
    for tp in (width for width in (1, 2, 4, 8) if gpus % width == 0):
        try:
            tried = predict_serve({**question, "layout": {"tp": tp}}, meets=False)
        except (BadLayout, DoesNotFit, ScenarioError) as error:
            refusal = refusal or str(error)
            continue
        if best is None or tokens_at_most(tried) > tokens_at_most(best):
            best, note = tried, f"replicas of {tp} GPUs, tensor parallel"
    return best, note or f"cannot be served on {gpus} GPUs: {refusal}"


def _plan(scenario: Scenario, search: str) -> tuple[ServePlan | None, str]:
    if search == "none":
        return None, "Not searched: the report was asked for without a plan."
    given = {} if search == "full" or (scenario.serve and scenario.serve.pools) else {"pools": ("no",)}
    try:
        return plan_serve(scenario, given=given, effort=_FULL if search == "full" else _NEAR), ""
    except ScenarioError as refusal:  # that nothing meets the limits is an answer too
        return None, f"{str(refusal)[:1].upper()}{str(refusal)[1:]}."
