"""Time lost: what a step takes longer than the same step without one of the things that set its ranks apart.

Lines of the breakdown say what ranks waited for; these say what would be won. The two differ: when the busiest rank is
gone, the next thing is waited for, and a wait that hid another one wins less than it lasted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from moesim.sim.train.job import Resolved, TrainJob
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import simulate_step
from moesim.traces.routing import Routing

Which = Literal["none", "cheap", "all"]


def lost_s(
    resolved: Resolved, prices: StepPrices, step_time_s: float, which: Which, number: int = 0
) -> dict[str, float]:
    """Seconds by what is taken away, everything else as it is; below zero where the step would get slower.

    busiest_rank: with balanced routing. slow_gpus: with those as fast as the others. jitter: with none of it.
    links: with all links at their full rate.
    which: "cheap" leaves out what needs another run with ranks told apart (a run where one rank stands for its stage
    costs a fraction of that); "none" runs nothing.
    """
    factor = resolved.correction.factor if resolved.correction is not None else 1.0
    lost = {}
    for name, job in _without(prices) if which != "none" else ():
        other = StepPrices(job, resolved.kernels, resolved.tuning(), model=prices.model)
        if which == "cheap" and (other.varies or job.unlike.any):
            continue
        other.row_tables = prices.row_tables
        lost[name] = step_time_s - factor * simulate_step(other, events=False, number=number).step_time_s
    return lost


def _without(prices: StepPrices) -> Iterator[tuple[str, TrainJob]]:
    """The job without one thing that sets its ranks apart, for each of those that it has."""
    job, unlike = prices.job, prices.job.unlike
    if prices.varies:
        yield "busiest_rank", replace(job, routing=Routing())
    if unlike.slow_gpus and unlike.speed_factor != 1.0:
        yield "slow_gpus", replace(job, unlike=replace(unlike, slow_gpus=()))
    if unlike.jitter_share > 0.0:
        yield "jitter", replace(job, unlike=replace(unlike, jitter_share=0.0))
    if unlike.links:
        yield "links", replace(job, unlike=replace(unlike, links=()))
