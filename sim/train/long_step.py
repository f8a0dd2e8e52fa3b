"""A step of many micro-batches from two shorter ones: between its fill and its drain a pipeline repeats itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from moesim.sim.train.job import TrainJob
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import StepResult

_FILL, _MORE = 3, 2  # turns of the pipeline after which it repeats itself, and those that show it; tested


def _lengths(job: TrainJob) -> tuple[int, int]:
    return _FILL * job.layout.pp, (_FILL + _MORE) * job.layout.pp


def is_long(job: TrainJob) -> bool:
    """True where the step has many more micro-batches than stages: two shorter ones are less work."""
    return job.micro_batches > sum(_lengths(job))


def long_step(prices: StepPrices, run: Callable[[StepPrices], StepResult]) -> StepResult:
    """A step run whole, or continued from two of fewer micro-batches where there are many more than stages.

    Within a thousandth where all ranks are alike and no CPU falls behind; an estimate where rows are drawn.
    """
    job = prices.job
    if not is_long(job):
        return run(prices)
    few, more = _lengths(job)
    each = job.micro_batch * job.layout.dp
    short, longer = (run(prices.of_batch(each * count)) for count in (few, more))
    times = (job.micro_batches - more) / (more - few)

    def on(a: float, b: float) -> float:
        return b + times * (b - a)

    spent = {
        key: max(0.0, on(short.breakdown_s.get(key, 0.0), longer.breakdown_s.get(key, 0.0)))
        for key in dict.fromkeys((*longer.breakdown_s, *short.breakdown_s))
    }
    return replace(longer, step_time_s=on(short.step_time_s, longer.step_time_s), breakdown_s=spent)
