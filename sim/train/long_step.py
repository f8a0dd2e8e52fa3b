"""A step of many micro-batches from two shorter ones: between its fill and its drain a pipeline repeats itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from moesim.sim.train.job import TrainJob
from moesim.sim.train.step import StepResult

_STEADY = {"dualpipe": 4}  # micro-batches per virtual stage after which a pipeline repeats itself; tested
_STEADY_ELSE = 2


def _lengths(job: TrainJob) -> tuple[int, int]:
    few = _STEADY.get(job.layout.schedule, _STEADY_ELSE) * job.layout.chunks
    return few, few + 2 * job.layout.pp


def is_long(job: TrainJob) -> bool:
    """True where the step has many more micro-batches than stages."""
    return job.micro_batches > 2 * _lengths(job)[1]


def long_step(job: TrainJob, run: Callable[[TrainJob], StepResult]) -> StepResult:
    """The step of `job`: run whole, or continued from two of fewer micro-batches where there are many more than stages.

    Exact where all ranks are alike; an estimate where rows are drawn.
    """
    if not is_long(job):
        return run(job)
    few, more = _lengths(job)
    each = job.micro_batch * job.layout.dp
    short, longer = (run(replace(job, global_batch=each * count)) for count in (few, more))
    times = (job.micro_batches - more) / (more - few)

    def on(a: float, b: float) -> float:
        return b + times * (b - a)

    spent = {
        key: max(0.0, on(short.breakdown_s.get(key, 0.0), longer.breakdown_s.get(key, 0.0)))
        for key in dict.fromkeys((*longer.breakdown_s, *short.breakdown_s))
    }
    return replace(longer, step_time_s=on(short.step_time_s, longer.step_time_s), breakdown_s=spent)
