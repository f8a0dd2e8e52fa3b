"""As many requests as it takes: a load drawn longer and longer until a percentile is known well enough.

Requests that follow each other are alike, so the interval is that of quantiles of twenty batches in a row, not of
requests: Student's t of how far those lie apart, around the quantile of all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.sim.question.request_sections import SureAsk
from moesim.sim.serve.accounts import Floats, latencies_of
from moesim.sim.serve.job import ResolvedServe
from moesim.sim.serve.simulate import PricedJobs, ServeRun, simulate
from moesim.sim.serve.warmup import BATCHES, T_BATCHES, warm_up_of
from moesim.sim.serve.workload import workload_of
from moesim.sim.software.stack import Tuning

_MOST, _TIMES = 200_000, 64  # requests, and how many times the first load: then it is said how far that got
_TAIL = 3.0  # requests beyond the percentile in a batch, at least: fewer do not say where it is
TITLES = {"ttft_s": "the first token", "tpot_s": "further tokens"}


@dataclass(frozen=True, slots=True)
class Percentile:
    """A percentile `p` of one latency with its own 95 % interval, seconds; of the simulation, not of the model."""

    p: float
    value: float
    low: float
    high: float

    @property
    def within(self) -> float:
        """Half of the interval over the value."""
        return (self.high - self.value) / self.value if self.value > 0.0 else 0.0

    def to_dict(self) -> dict[str, float]:
        """Ready for JSON."""
        return {"p": self.p, "value": self.value, "low": self.low, "high": self.high}


def percentile_of(values: Floats, p: float) -> Percentile | None:
    """The percentile and its interval; None for fewer values than batches."""
    if len(values) < BATCHES:
        return None
    value = float(np.quantile(values, p / 100.0))
    each = np.array([np.quantile(batch, p / 100.0) for batch in np.array_split(values, BATCHES)])
    half = T_BATCHES * float(each.std(ddof=1)) / BATCHES**0.5
    return Percentile(p, value, max(0.0, value - half), value + half)


def is_sure(found: Percentile | None, count: int, within: float) -> bool:
    """Whether the interval is narrow enough, and of enough values to be believed."""
    if found is None:
        return False
    beyond = count / BATCHES * (1.0 - found.p / 100.0)
    return beyond >= _TAIL and found.within <= within


def percentiles_of(run: ServeRun, skip: int, asked: SureAsk) -> dict[str, Percentile]:
    """Of the first token and of the pace, each where there are enough requests."""
    seen = latencies_of(run, skip)
    found = {name: percentile_of(getattr(seen, name), asked.percentile) for name in TITLES}
    return {name: of for name, of in found.items() if of is not None}


def most_requests(first: int, p: float) -> int:
    """Requests that are drawn at most, beginning with `first`: enough for the tail of a rare percentile in any case."""
    tail = 3.0 * _TAIL * BATCHES / (1.0 - p / 100.0)
    return min(_MOST, max(_TIMES * first, round(tail)))


def sure_run(resolved: ResolvedServe, tuning: Tuning, priced: PricedJobs) -> tuple[ResolvedServe, ServeRun]:
    """The load drawn again with twice the requests until the percentile is sure, and its last run."""
    asked = resolved.ask.requests.sure_of
    assert asked is not None
    most, drifting = most_requests(len(resolved.workload.requests), asked.percentile), 0
    while True:
        run, count = simulate(resolved.deployment, resolved.workload, tuning, priced), len(resolved.workload.requests)
        if not run.log.served:
            return resolved, run
        warm = warm_up_of(run, resolved.workload)
        seen = latencies_of(run, warm.requests)
        series = [values for name in TITLES if len(values := getattr(seen, name))]
        known = [percentile_of(values, asked.percentile) for values in series]
        drifting = drifting + 1 if warm.steady is False else 0
        name, close = f"p{asked.percentile:g} of {' and '.join(TITLES.values())}", f"{asked.within:.3g}"
        if all(is_sure(of, len(values), asked.within) for of, values in zip(known, series, strict=True)):
            return _said(resolved, f"so many make {name} known within {close} of it (95 %)"), run
        if drifting > 1:
            return _said(resolved, f"{name} is not known within {close} of it: no steady state, more do not help"), run
        if 2 * count > most:
            reached = max((of.within for of in known if of is not None), default=1.0)
            return _said(resolved, f"no more are drawn: {name} is known within {reached:.2g} of it, not {close}"), run
        resolved = of_count(resolved, 2 * count)


def of_count(resolved: ResolvedServe, count: int) -> ResolvedServe:
    """The same question with another number of requests, drawn anew."""
    ask, arch = resolved.ask.requests, resolved.deployment.job.arch
    drawn = ask.model_copy(update={"count": len(resolved.workload.requests), "sure_of": None})
    _, before = workload_of(drawn, arch)
    workload, said = workload_of(drawn.model_copy(update={"count": count}), arch)
    kept = [line for line in resolved.assumptions if line not in before and not line.startswith(_COUNT)]
    return replace(resolved, workload=workload, assumptions=(*kept, *said))


_COUNT = "requests.count = "


def _said(resolved: ResolvedServe, why: str) -> ResolvedServe:
    kept = [line for line in resolved.assumptions if not line.startswith(_COUNT)]
    return replace(resolved, assumptions=(*kept, f"{_COUNT}{len(resolved.workload.requests):,}: {why}"))
