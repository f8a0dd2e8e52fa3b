"""Setting: a change of scenario keys, which a what-if offers, writes as a scenario and runs as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from moesim.sim.question.scenario import Scenario
from moesim.sim.variation.sweep import with_settings

Reach = Literal["settings", "hardware", "question"]
GROUPS: Mapping[Reach, str] = {  # in the order in which answers show them
    "settings": "what you can change",
    "hardware": "what you would have to buy",
    "question": "what would be another question",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One change: what, how, and the keys of the scenario that say it, as paths with dots; None takes a key away."""

    knob: str
    change: str
    keys: Mapping[str, Any]
    group: Reach = "settings"


def asked_with(scenario: Scenario, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The scenario as a mapping with these keys. ScenarioError for paths through a value."""
    said = scenario.model_dump(mode="json", exclude_unset=True)
    serve = scenario.serve
    if isinstance(scenario.stack, str) and any(path.startswith("stack.") for path in keys):
        said["stack"] = {"name": scenario.stack}
    if serve is not None and isinstance(serve.engine, str) and any(path.startswith("serve.engine.") for path in keys):
        said["serve"] = {**said["serve"], "engine": {"name": serve.engine}}
    given = {path: value for path, value in keys.items() if value is not None}
    changed = with_settings(said, given)
    for path in keys.keys() - given.keys():
        *parents, last = path.split(".")
        owner = changed
        for name in parents:
            owner = owner.get(name, {})
        owner.pop(last, None)
    return changed
