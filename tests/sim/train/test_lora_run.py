"""Fine-tuning with adapters: what is trained is counted alike everywhere, and a checkpoint holds that and no more."""

from __future__ import annotations

from typing import Any

import pytest

from moesim import predict_train, run
from moesim.sim.model.adapted import adapter_parameters
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.job import resolve
from moesim.sim.train.model_flops import _adapter_params
from moesim.sim.train.prices import StepPrices


def asked(model: str, targets: str = "all", **lora: Any) -> dict[str, Any]:
    return {
        "model": {"base": model, "layers": 4},
        "cluster": {"node": "dgx-h200", "gpus": 8},
        "layout": {"zero": 3},
        "train": {"global_batch": 8, "seq_len": 1024, "lora": {"rank": 16, "targets": targets, **lora}},
    }


@pytest.mark.parametrize("targets", ["all", "attention"])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "mixtral-8x7b", "deepseek-v3", "qwen1.5-moe-a2.7b", "gpt-oss-20b"])
def test_what_is_trained_is_what_steps_compute(model: str, targets: str) -> None:
    found = resolve(parse_scenario(asked(model, targets)))
    prices = StepPrices(found.job, found.kernels, found.tuning())
    counted = adapter_parameters(found.job.arch, 16, targets == "attention")
    assert counted > 0.0 and counted == pytest.approx(_adapter_params(prices))


def test_a_checkpoint_of_adapters_holds_adapters() -> None:
    """Two bytes of weight and twelve of optimizer each, not the model that is frozen beside them."""
    small = run(asked("mixtral-8x7b"), 1e9)
    step = predict_train(asked("mixtral-8x7b"))
    counted = adapter_parameters(step.resolved.job.arch, 16, False)
    assert small.checkpoint_bytes == pytest.approx(14.0 * counted)
    whole = asked("mixtral-8x7b")
    del whole["train"]["lora"]
    assert run(whole, 1e9).checkpoint_bytes > 100.0 * small.checkpoint_bytes


def test_experts_that_get_no_adapters_are_said() -> None:
    def said(model: str, targets: str) -> bool:
        return any("routed experts carry none" in line for line in predict_train(asked(model, targets)).assumptions)

    assert said("mixtral-8x7b", "all") and not said("mixtral-8x7b", "attention") and not said("llama-3.1-8b", "all")
