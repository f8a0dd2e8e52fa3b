"""Decode steps through the layers of training: one token a sequence, attention against the cache, no loss."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.decode_step import decode_step
from moesim.sim.train.job import resolve
from moesim.sim.train.prices import StepPrices


def prices_of(batch: int = 4, seq_len: int = 1, **more: Any) -> StepPrices:
    resolved = resolve(
        parse_scenario(
            {
                "model": {"base": "mixtral-8x7b", "layers": 2},
                "cluster": {"gpu": "H100", "gpus": 1},
                "train": {"global_batch": batch, "micro_batch": batch, "seq_len": seq_len},
                "stack": "torch-eager",
                **more,
            }
        )
    )
    return StepPrices(resolved.job, resolved.kernels, resolved.tuning())


def test_a_longer_cache_and_a_larger_batch_take_longer() -> None:
    short, long = (decode_step(prices_of(), kv_len).duration_s for kv_len in (128, 65536))
    assert short < long
    assert decode_step(prices_of(batch=64), 128).duration_s > short


def test_only_attention_feels_the_cache() -> None:
    short, long = (decode_step(prices_of(), kv_len).by_category for kv_len in (128, 65536))
    assert {k: v for k, v in short.items() if k != "attention"} == {k: v for k, v in long.items() if k != "attention"}


def test_seconds_are_all_booked() -> None:
    step = decode_step(prices_of(), 1024)
    assert sum(step.by_category.values()) == pytest.approx(step.duration_s, rel=1e-12)


def test_training_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="a decode step has seq_len 1"):
        decode_step(prices_of(seq_len=8), 128)
