"""A layout of a plan as a scenario that runs: the question with its layout filled in."""

from __future__ import annotations

from typing import Any

from moesim.sim.plan.train.space import Candidate
from moesim.sim.question.scenario import Scenario

_DEGREES = ("tp", "pp", "vpp", "cp", "ep", "etp", "zero", "schedule")
_KEPT = ("sequence_parallel", "duplicates")  # keys of a layout that are not searched


def scenario_mapping(scenario: Scenario, gpus: int, candidate: Candidate) -> dict[str, Any]:
    """What `moesim train` takes: keys that the scenario gives, and those that make up the candidate."""
    said = scenario.model_dump(mode="json", exclude_unset=True)
    asked, train = said.get("layout", {}), said["train"]
    layout = {key: getattr(candidate.layout, key) for key in _DEGREES}
    kept = {key: asked[key] for key in _KEPT if key in asked}
    whole = {
        **said,
        "cluster": {**said["cluster"], "gpus": gpus},
        "layout": {**layout, **kept},
        "train": {**train, "micro_batch": candidate.micro_batch, "recompute": [candidate.recompute]},
    }
    return whole | _stack(said.get("stack"), candidate)


def _stack(asked: Any, candidate: Candidate) -> dict[str, Any]:
    """The dispatcher, where the candidate has another than the software's own choice."""
    if candidate.dispatcher == "auto":
        return {}
    if isinstance(asked, dict):
        return (
            {}
            if asked.get("dispatcher") == candidate.dispatcher
            else {"stack": {**asked, "dispatcher": candidate.dispatcher}}
        )
    named = {} if asked is None else {"name": asked}
    return {"stack": {**named, "dispatcher": candidate.dispatcher}}
