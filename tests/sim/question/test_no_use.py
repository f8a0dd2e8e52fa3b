"""What is asked for and changes nothing is said, or refused where it could only mislead."""

from __future__ import annotations

from typing import Any

import pytest

from moesim import DoesNotFit, predict_serve, predict_train, sweep
from moesim.hwmodels.facts import FactError
from moesim.sim.question.scenario import ScenarioError
from moesim.traces.day import Hour

DENSE: dict[str, Any] = {
    "model": {"base": "llama-3.1-8b", "layers": 4},
    "cluster": {"node": "dgx-h100", "gpus": 8},
    "train": {"global_batch": 16, "seq_len": 512},
}
MOE = {**DENSE, "model": {"base": "mixtral-8x7b", "layers": 4}}
SERVED: dict[str, Any] = {
    "model": "qwen3-30b-a3b",
    "cluster": {"gpu": "H100", "gpus": 2},
    "layout": {"tp": 2},
    "serve": {"engine": "vllm", "requests": {"kind": "closed", "concurrency": 2, "count": 4}},
}


def said(scenario: dict[str, Any], **train: Any) -> list[str]:
    asked = {**scenario, "train": {**scenario["train"], **train}}
    return [a for a in predict_train(asked, check_memory=False).assumptions if "changes nothing" in a]


def test_keys_without_use_for_a_model_are_said() -> None:
    assert said(DENSE) == [] == said(MOE) == said({**MOE, "routing": {"lognormal": 0.5}}, capacity_factor=1.0)
    assert any("routing" in line for line in said({**DENSE, "routing": {"lognormal": 0.5}}))
    assert any("capacity_factor" in line for line in said(DENSE, capacity_factor=1.0))
    assert any("mtp" in line for line in said(MOE, mtp=True)) and said(MOE, mtp=False) == []
    assert said({**DENSE, "model": {"base": "deepseek-v3", "layers": 4}}, mtp=True) == []


@pytest.mark.parametrize(("scenario", "key"), [(DENSE, "serve.requests.count"), (SERVED, "train.global_batch")])
def test_a_sweep_over_a_section_that_is_not_there_is_refused(scenario: dict[str, Any], key: str) -> None:
    with pytest.raises(ScenarioError, match="this scenario only"):
        sweep(scenario, {key: (1, 2)})


def test_the_cause_of_too_little_room_is_named() -> None:
    for changed, cause in (({"kv_blocks": 1}, "serve.kv_blocks=1"), ({"adapters": {"count": 99_999, "rank": 65_536}},
                                                                      "serve.adapters take")):  # fmt: skip
        with pytest.raises(DoesNotFit, match=cause):
            predict_serve({**SERVED, "serve": {**SERVED["serve"], **changed}})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"usable_bytes": "200 GB"}, "usable_bytes is more than hbm_bytes"),
        ({"price_usd_per_hour": 1e300}, "price_usd_per_hour"),
    ],
)
def test_hardware_that_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
    gpu = {"like": "h100-sxm", "peak_flops_per_s": {"bf16": 1e15}, "hbm_bytes": "100 GB", "hbm_bytes_per_s": "3 TB/s"}
    hardware = {"gpus": {"g": {**gpu, **changed}}, "nodes": {"n": {"gpu": "g", "gpus": 8}}}
    with pytest.raises(FactError, match=message):
        predict_train({**DENSE, "cluster": {"node": "n", "gpus": 8, "hardware": hardware}})


def test_a_day_of_more_requests_than_fit_is_refused_before_they_are_drawn() -> None:
    from moesim import predict_day

    asked = {**SERVED, "serve": {**SERVED["serve"], "requests": {"kind": "poisson", "rate_per_s": 1}}}
    for rate in (50.0, 1e5, 1e12):
        with pytest.raises(ScenarioError, match="scale the table down"):
            predict_day(asked, tuple(Hour(rate) for _ in range(24)))


@pytest.mark.parametrize("gpus", [131_072, 10_000_000])
def test_more_ranks_than_can_be_drawn_are_refused_before_they_are(gpus: int) -> None:
    """Every rank of every micro-batch has a load of its own: tens of millions of them are gigabytes and minutes."""
    asked = {"model": "qwen3-30b-a3b", "cluster": {"node": "dgx-h100", "gpus": gpus}, "layout": {"ep": 8},
             "train": {"global_batch": 4 * gpus, "seq_len": 4096}}  # fmt: skip
    with pytest.raises(ScenarioError, match=r"million loads .* take routing: balanced"):
        predict_train(asked)
    assert predict_train({**asked, "routing": "balanced"}).step_time_s > 0.0
