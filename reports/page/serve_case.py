"""ServeCase: everything a chapter about a serving scenario is made of, computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moesim.sim.comparison.twin import as_mapping, dense_twin
from moesim.sim.layout.layout import BadLayout
from moesim.sim.model.arch import ModelArch
from moesim.sim.model.catalogue import load_model
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
    twin: ServePrediction | None
    twin_note: str  # how the twin is deployed, or why there is none
    whatif: ServeWhatIf
    plan: ServePlan | None
    plan_note: str  # why there is no plan
    search: str

    @property
    def name(self) -> str:
        """Of the model."""
        return self.asked.resolved.deployment.job.arch.name


def serve_case(raw: Mapping[str, Any], scenario: Scenario, search: str) -> ServeCase:
    """Predict everything about a serving scenario. Refusals as of `predict_serve`."""
    asked = predict_serve(scenario)
    twin, twin_note = served_twin(raw, load_model(scenario.model), asked.resolved.deployment.gpus)
    plan, plan_note = _plan(scenario, search)
    return ServeCase(
        asked=asked,
        twin=twin,
        twin_note=twin_note,
        whatif=whatif_serve(scenario),
        plan=plan,
        plan_note=plan_note,
        search=search,
    )


def served_twin(raw: Mapping[str, Any], arch: ModelArch, gpus: int) -> tuple[ServePrediction | None, str]:
    """The dense twin under the same load on as many GPUs: as wide as was asked where that fits, else as it fits."""
    if not arch.is_moe:
        return None, f"{arch.name} is dense: there is no twin to hold against it."
    serve = {key: value for key, value in raw["serve"].items() if key not in _EXPERTS}
    unused = ("routing", "placement", "layout")
    kept = {key: value for key, value in without_training(dict(raw)).items() if key not in unused}
    question = {**kept, "model": as_mapping(dense_twin(arch)), "serve": serve}
    question["cluster"] = {**raw["cluster"], "gpus": gpus}
    refusal = ""
    asked = int(raw.get("layout", {}).get("tp", 1))
    for tp in (asked, *(width for width in (1, 2, 4, 8) if width != asked)):
        if gpus % tp:
            continue
        try:
            return predict_serve(
                {**question, "layout": {"tp": tp}}, meets=False
            ), f"replicas of {tp} GPUs, tensor parallel"
        except (BadLayout, DoesNotFit, ScenarioError) as error:
            refusal = refusal or str(error)
    return None, f"The dense twin cannot be served on {gpus} GPUs: {refusal}."


def _plan(scenario: Scenario, search: str) -> tuple[ServePlan | None, str]:
    if search == "none":
        return None, "Not searched: the report was asked for without a plan."
    given = {} if search == "full" or (scenario.serve and scenario.serve.pools) else {"pools": ("no",)}
    try:
        return plan_serve(scenario, given=given, effort=_FULL if search == "full" else _NEAR), ""
    except ScenarioError as refusal:  # that nothing meets the limits is an answer too
        return None, f"{str(refusal)[:1].upper()}{str(refusal)[1:]}."
