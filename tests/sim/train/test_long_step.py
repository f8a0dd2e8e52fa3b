"""A long step from two shorter ones, by hand: what every micro-batch more adds goes on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from moesim.sim.train.long_step import is_long, long_step


@dataclass(frozen=True)
class _Step:
    step_time_s: float
    breakdown_s: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Prices:
    job: Any
    asked: list[int]

    def of_batch(self, global_batch: int) -> _Prices:
        count = global_batch // (self.job.micro_batch * self.job.layout.dp)
        return replace(self, job=SimpleNamespace(**{**vars(self.job), "micro_batches": count}))


def _prices(micro_batches: int, pp: int = 2) -> Any:
    return _Prices(SimpleNamespace(micro_batches=micro_batches, micro_batch=2, layout=SimpleNamespace(pp=pp, dp=4)), [])


def _run(prices: Any) -> Any:
    """Half a second to fill, a tenth for every micro-batch; less is idle, and little is never below zero."""
    count = prices.job.micro_batches
    prices.asked.append(count)
    parts = {"gemm": 0.08 * count, "bubble": max(0.0, 0.5 - 0.01 * count), "tiny": 1e-3}
    return _Step(0.5 + 0.1 * count, parts)


@pytest.mark.parametrize(("micro_batches", "pp", "long"), [(16, 2, False), (17, 2, True), (8, 1, False), (9, 1, True)])
def test_what_is_long(micro_batches: int, pp: int, long: bool) -> None:
    """Three and five turns of the pipeline are run in its place."""
    prices = _prices(micro_batches, pp)
    assert is_long(prices.job) == long
    long_step(prices, _run)
    assert prices.asked == ([3 * pp, 5 * pp] if long else [micro_batches])


def test_every_part_goes_on_as_it_does_between_the_two() -> None:
    prices = _prices(100)
    step = cast(_Step, long_step(prices, _run))
    assert step.step_time_s == pytest.approx(0.5 + 0.1 * 100)
    assert step.breakdown_s["gemm"] == pytest.approx(8.0) and step.breakdown_s["tiny"] == pytest.approx(1e-3)
    assert step.breakdown_s["bubble"] == 0.0  # it would be below zero
