"""Intervals grow with what no fitted run is like, and say why."""

from __future__ import annotations

from math import log
from typing import Any

import pytest

from moesim import predict_train
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.band import Interval, interval
from moesim.sim.train.job import resolve

JOB: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "cluster": {"node": "dgx-h100", "gpus": 8},
    "layout": {"tp": 8},
    "train": {"global_batch": 8, "seq_len": 4096},
}


def of(**changes: Any) -> Interval:
    return interval(resolve(parse_scenario({**JOB, **changes})).job, 1.0)


def half(band: Interval) -> float:
    assert band.high_s * band.low_s == pytest.approx(1.0)
    return log(band.high_s)


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
    answer = predict_train(
        {
            **JOB,
            "model": "mixtral-8x7b",
            "cluster": {"node": "dgx-h100", "gpus": 64},
            "layout": {"pp": 4, "vpp": 8, "ep": 8},
            "train": {"global_batch": 256, "seq_len": 4096},
        }
    )
    assert max(answer.lower_bounds_s.values()) == answer.low_s < answer.step_time_s
    assert sum(answer.band_parts.values()) == pytest.approx(1.0) and "release" in answer.narrower
