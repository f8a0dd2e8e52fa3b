"""Intervals grow with what no fitted run is like, and say why."""

from __future__ import annotations

from math import log
from typing import Any

import pytest

from moesim import predict_train
from moesim.hwmodels.interval import Sureness
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.band import interval_s, sureness
from moesim.sim.train.job import resolve

JOB: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "cluster": {"node": "dgx-h100", "gpus": 8},
    "layout": {"tp": 8},
    "train": {"global_batch": 8, "seq_len": 4096},
}


def of(**changes: Any) -> Sureness:
    return sureness(resolve(parse_scenario({**JOB, **changes})).job)


def half(sure: Sureness) -> float:
    low, high = sure.around(1.0)
    return (log(high) - log(low)) / 2.0


def test_a_known_dense_stack_on_h100_keeps_a_narrow_interval() -> None:
    band = of()
    assert half(band) <= 0.12 and sum(band.parts.values()) == pytest.approx(1.0)


def test_experts_a_strange_gpu_a_strange_stack_and_long_sequences_widen() -> None:
    known = half(of())
    mixture = of(model="mixtral-8x7b", layout={"ep": 8})
    strange = of(cluster={"node": "mi300x-platform", "gpus": 8})
    long = of(train={"global_batch": 8, "seq_len": 131072})
    assert half(mixture) > 2 * known and half(strange) > 2 * known and half(long) > known
    assert "no fitted run on mi300x" in strange.note and "tokens per sequence" in long.note
    assert half(of(stack="hai-llm")) > 2 * known and "hai-llm" in of(stack="hai-llm").note


def test_the_release_of_a_vendors_recipe_narrows_a_mixture() -> None:
    plain, named = (of(model="mixtral-8x7b", layout={"ep": 8}, **said) for said in ({}, {"release": "26.04"}))
    assert half(named) < half(plain) / 2
    assert "release" in plain.narrower and "your own" in named.narrower


def test_the_answer_carries_the_reasons() -> None:
    answer = predict_train({**JOB, "train": {"global_batch": 8, "seq_len": 131072, "recompute": "full"}})
    assert any("interval widened" in line for line in answer.assumptions)


def test_no_interval_reaches_below_what_no_step_can_beat() -> None:
    sure = of(model="mixtral-8x7b", layout={"ep": 8})
    low, high = sure.around(2.0)
    assert interval_s(sure, 2.0, 1.95) == (1.95, high) and low < 1.95  # a bound just below the step
    assert interval_s(sure, 2.0, 0.5) == (low, high)
    answer = predict_train({**JOB, "model": "mixtral-8x7b", "layout": {"ep": 8}}, check_memory=False)
    assert max(answer.lower_bounds_s.values()) <= answer.low_s < answer.step_time_s < answer.high_s
    assert sum(answer.sureness.parts.values()) == pytest.approx(1.0) and "release" in answer.sureness.narrower


def test_a_mixture_of_an_unnamed_recipe_may_be_much_slower_but_seldom_faster() -> None:
    width = of(model="mixtral-8x7b", layout={"ep": 8}).width
    assert width.above > 3.0 * width.below
