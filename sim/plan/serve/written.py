"""An option of a serving plan as a scenario that runs: the question with its deployment filled in."""

from __future__ import annotations

from typing import Any

from moesim.sim.plan.serve.features import engine_with
from moesim.sim.plan.serve.space import ServeCandidate
from moesim.sim.question.lookup import without_training
from moesim.sim.question.scenario import Scenario
from moesim.sim.serve.slo import Slo

_OF_A_LAYOUT = ("pools", "attention_dp", "kv_blocks")  # keys of serve that a candidate says


def scenario_mapping(scenario: Scenario, c: ServeCandidate, slo: Slo) -> dict[str, Any]:
    """What `moesim serve` takes: keys that the scenario gives, and those that make up the candidate."""
    said = without_training(scenario.model_dump(mode="json", exclude_unset=True))
    asks, ask = c.asks, scenario.serve
    serve, cluster = said["serve"], said["cluster"]
    assert ask is not None and isinstance(serve, dict) and isinstance(cluster, dict)
    own = dict(asks["serve"])
    engine = engine_with(ask, own.pop("engine", {}))
    kept = {key: value for key, value in serve.items() if key not in (*_OF_A_LAYOUT, "engine", "slo")}
    pools = {"pools": own.pop("pools")} if "pools" in own else {}
    limits = {"slo": {"ttft_s": slo.ttft_s, "tpot_s": slo.tpot_s}}
    whole = {"engine": engine, **pools, **kept, **own, **limits}
    return {
        **{key: value for key, value in said.items() if key not in ("layout", "serve", "cluster")},
        "cluster": {**cluster, **asks["cluster"]},
        **({"layout": asks["layout"]} if "layout" in asks else {}),
        "serve": {key: value for key, value in whole.items() if value is not None},
    }
