"""The whole product in a few seconds: predict DeepSeek-V3, add it up, run it twice, draw it, and be refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moesim.sim.layout.layout import BadLayout
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import load_scenario
from moesim.sim.software.stack import Tuning
from moesim.sim.train.job import resolve
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import simulate_step

DEEPSEEK = Path(__file__).parents[1] / "examples" / "deepseek-v3-h800.yaml"


def test_deepseek_v3_takes_about_as_long_as_measured() -> None:
    prediction = predict_train(DEEPSEEK, check_memory=False)
    assert prediction.low_s < 19.93 < prediction.high_s  # arXiv:2505.09343, table 4
    assert prediction.step_time_s == pytest.approx(19.93, rel=0.25)
    assert sum(prediction.breakdown_s.values()) == pytest.approx(prediction.step_time_s, rel=1e-9)
    assert json.loads(json.dumps(prediction.to_dict()))["layout"]["dp"] == 128


def test_engine_and_recursion_agree_on_it() -> None:
    scenario = load_scenario(DEEPSEEK)
    assert scenario.train is not None
    fewer = scenario.train.model_copy(update={"global_batch": 4096})  # 32 micro-batches in place of 120
    resolved = resolve(scenario.model_copy(update={"train": fewer}))
    prices = StepPrices(resolved.job, resolved.kernels, Tuning())
    assert simulate_step(prices, events=True).timeline.end_s == simulate_step(prices, events=False).timeline.end_s


def test_what_cannot_be_is_refused() -> None:
    scenario = {
        "model": "mixtral-8x7b",
        "cluster": {"node": "dgx-h100", "gpus": 8},
        "layout": {"ep": 8},
        "train": {"global_batch": 64, "seq_len": 4096},
    }
    with pytest.raises(DoesNotFit, match=r"does not fit: needs .* GiB of .* GiB on stage 0; "):
        predict_train(scenario)
    with pytest.raises(BadLayout, match="use one of 1, 2, 4, 8"):
        predict_train({**scenario, "cluster": {"node": "dgx-h100", "gpus": 48}, "layout": {"ep": 16, "pp": 3}})
