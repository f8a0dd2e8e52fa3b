"""Where the start of a run ends: which of the first requests say nothing about the service once it is warm.

The rule is MSER-5 (White, Cobb and Spratt 2000): of means of five requests each, those are left out without which the
mean of the rest is surest. It is asked of the time to the first token and of that of the whole request, and what it
would leave out has to differ from the rest by more than batch means of the rest do. Where the rest still drifts there
is no steady state, and nothing is left out: of a trend the rule takes the half that it may, and the rest drifts; of a
start that fades in waves it may take half too, and the rest does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from moesim.sim.serve.accounts import Floats, Latencies, latencies_of
from moesim.sim.serve.simulate import ServeRun
from moesim.sim.serve.workload import SERVED, Workload

GROUP = 5  # requests whose mean is one value of MSER-5
LEAST = 50  # answered requests, below which nothing is told apart
BATCHES, T_BATCHES = 20, 2.093  # means of batches, and Student's t for 95 % of one fewer degrees of freedom
_T_DRIFT = 2.878  # of 18 degrees of freedom for 99 %: what is left must not be given up lightly
_TREND = 0.25  # of the distance between start and rest: halves of a trend are twice that apart


@dataclass(frozen=True, slots=True)
class WarmUp:
    """The first requests that latencies leave out; `steady`: None where the rule was not asked, or could not tell."""

    requests: int
    steady: bool | None
    said: str  # for the assumptions; empty where there is nothing to say


def start_of(values: Floats) -> int | None:
    """How many of the first values are the start: at most half, 0 where there is none; None: no steady state."""
    groups = len(values) // GROUP
    means = values[: groups * GROUP].reshape(groups, GROUP).mean(axis=1)
    means = means - means.mean()
    left = np.arange(groups, 0, -1.0)
    sums, squares = (np.cumsum(column[::-1])[::-1] for column in (means, means**2))
    unsure = (np.maximum(0.0, squares - sums**2 / left) / left**2)[: groups // 2 + 1]
    cut = int(np.argmin(unsure)) * GROUP
    if not cut or not _differs(values, cut):
        return 0
    return None if _drifts(values, cut) else cut


def _differs(values: Floats, cut: int) -> bool:
    """Whether the first `cut` values are unlike the rest, as batch means of the rest spread."""
    rest = values[cut:]
    means = np.array([batch.mean() for batch in np.array_split(rest, min(BATCHES, len(rest)))])
    of_one_batch = float(means.var(ddof=1))
    spread: float = of_one_batch * (1.0 / len(means) + len(rest) / len(means) / cut)
    apart = abs(float(values[:cut].mean() - rest.mean()))
    return apart > max(T_BATCHES * sqrt(spread), 1e-9 * abs(float(rest.mean())))


def _drifts(values: Floats, cut: int) -> bool:
    """Whether the halves of what is left are unlike each other, as batch means within them spread.

    A trend makes them at least half as unlike as what was left out; the tail of a start that fades is no trend.
    """
    rest = values[cut:]
    first, second = (
        np.array([batch.mean() for batch in np.array_split(half, BATCHES // 2)]) for half in np.array_split(rest, 2)
    )
    spread: float = (first.var(ddof=1) + second.var(ddof=1)) / (BATCHES // 2)
    apart, start = abs(float(first.mean() - second.mean())), abs(float(values[:cut].mean() - rest.mean()))
    return apart > max(_T_DRIFT * sqrt(spread), _TREND * start)


def warm_up_of(run: ServeRun, load: Workload) -> WarmUp:
    """What a load's own share leaves out of a run, or the rule where it gives none."""
    count = len(run.log)
    if load.warmup is not None:
        skip = int(count * load.warmup)
        return WarmUp(skip, None, f"warm-up: the first {skip:,} of {count:,} requests are left out" if skip else "")
    if not load.clients and not load.requests.after and load.rate_per_s == 0.0:
        return WarmUp(0, None, "warm-up: nothing is left out, all requests come at once")
    if run.log.served < LEAST:
        return WarmUp(0, None, f"warm-up: nothing is left out, {run.log.served:,} requests are too few to tell it by")
    seen = latencies_of(run)
    starts = [start_of(values) for values in (seen.ttft_s, seen.e2e_s)]
    known = [start for start in starts if start is not None]
    answered = np.flatnonzero(np.frombuffer(bytes(run.log.status), dtype=np.uint8) == SERVED)
    skip = int(answered[max(known)]) if len(known) == len(starts) and max(known) else 0
    if len(known) < len(starts) or skip > count // 2:
        drift = "latencies still change in the second half of the run"
        return WarmUp(0, False, f"warm-up: nothing is left out, there is no steady state: {drift}")
    if not skip:
        return WarmUp(0, True, "warm-up: nothing is left out, the first requests are like the others (MSER-5)")
    cold = "the service was not warm (MSER-5)"
    return WarmUp(skip, True, f"warm-up: the first {skip:,} of {count:,} requests are left out of latencies: {cold}")


def warm_latencies(run: ServeRun, load: Workload) -> Latencies:
    """Latencies of the requests after the warm-up."""
    return latencies_of(run, warm_up_of(run, load).requests)
