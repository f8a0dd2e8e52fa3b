"""What a scenario says of routing becomes one process, the same for every verb; what it does not say is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.sim.layout.placement import expert_loads
from moesim.sim.question.lookup import routing_of, routing_said, usual_routing
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.train.job import resolve
from moesim.traces.routing import BadTrace, Routing

BOTH: dict[str, Any] = {
    "model": "mixtral-8x7b",
    "cluster": {"node": "dgx-h100", "gpus": 64},
    "layout": {"ep": 8},
    "train": {"global_batch": 64, "seq_len": 4096},
    "serve": {"attention_dp": 8, "requests": {"kind": "closed", "concurrency": 8}},
}


def test_both_verbs_assume_the_same_process_and_say_so_alike() -> None:
    scenario = parse_scenario(BOTH)
    training, serving = resolve(scenario), resolve_serve(scenario)
    assert training.job.routing == serving.deployment.job.routing == usual_routing()
    lines = [[line for line in each.assumptions if "routing" in line] for each in (training, serving)]
    assert len(lines[0]) == 1 and lines[0] == lines[1] and routing_said(usual_routing()) in lines[0][0]


@pytest.mark.parametrize("routing", ["balanced", {"lognormal": 0.3}])
def test_what_is_stated_is_not_assumed(routing: Any) -> None:
    assert not any("routing" in line for line in resolve(parse_scenario({**BOTH, "routing": routing})).assumptions)


def test_dense_models_have_no_routing_to_assume() -> None:
    scenario = parse_scenario({**BOTH, "model": "llama-3.1-8b", "layout": {}, "serve": None})
    assert not any("routing" in line for line in resolve(scenario).assumptions)


def test_every_word_reaches_the_process() -> None:
    words = {"group_sigma": 0.3, "topic": 0.6, "group_topic": 0.2, "drift": 0.999, "sampling": False, "seed": 4}
    asked = routing_of(parse_scenario({**BOTH, "routing": {"lognormal": 0.5, **words}}))
    assert asked == Routing(kind="lognormal", sigma=0.5, **words)  # type: ignore[arg-type]  # words of several kinds
    assert routing_of(parse_scenario({**BOTH, "routing": "balanced"})) == Routing()
    said = routing_said(asked)
    assert all(number in said for number in ("0.5", "0.3", "0.6", "0.2", "0.999")) and "as expected" in said


def test_the_usual_training_batch_is_even_before_it_is_drawn() -> None:
    job = resolve(parse_scenario(BOTH)).job
    for load, forced in zip(*(_loads(job, routing) for routing in (usual_routing(), Routing())), strict=True):
        assert load == forced


def _loads(job: Any, routing: Routing) -> Any:
    return expert_loads(job.arch, job.layout, job.cluster, routing, 4096, None)


def test_counts_belong_to_the_layers_with_experts(tmp_path: Path) -> None:
    """A file holds a line per layer with experts; DeepSeek's three dense layers have none."""
    asked: dict[str, Any] = {
        "model": {"base": "deepseek-v3", "layers": 5},
        "cluster": {"node": "dgx-h100", "gpus": 8},
        "layout": {"ep": 8},
        "train": {"global_batch": 8, "seq_len": 1024},
        "routing": {"counts": str(tmp_path / "counts.npy")},
    }
    table = np.ones((2, 256))
    table[1, :32] = 3.0
    np.save(tmp_path / "counts.npy", table)
    job = resolve(parse_scenario(asked)).job
    even, skewed = [load for load in _loads(job, job.routing) if load is not None]
    assert even.imbalance == 1.0 and skewed.imbalance == pytest.approx(3.0 * 8 / (3.0 + 7.0), rel=1e-3)
    np.save(tmp_path / "counts.npy", np.ones((5, 256)))
    with pytest.raises(BadTrace, match=r"use shape \[2, 256\]"):
        _loads(job, job.routing)
