"""Figures of merit of a run: latencies and their quantiles, throughput, goodput, load, and a label for the state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.sim.serve.requests import RequestLog

Floats = npt.NDArray[np.float64]
_LATE = 0.2  # assumed: an open loop whose last tenth waits that share of the run longer than its first is backlogged


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and quantiles of one latency, seconds."""

    mean: float
    p50: float
    p90: float
    p99: float

    def to_dict(self) -> dict[str, float]:
        """Ready for JSON."""
        return {"mean": self.mean, "p50": self.p50, "p90": self.p90, "p99": self.p99}


def spread(values: Floats) -> Spread:
    """Mean and quantiles of at least one value; zeros for none."""
    if not len(values):
        return Spread(0.0, 0.0, 0.0, 0.0)
    p50, p90, p99 = (float(v) for v in np.quantile(values, (0.5, 0.9, 0.99)))
    return Spread(float(values.mean()), p50, p90, p99)


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds of every request that counts, in order of arrival. tpot_s leaves out requests of a single token."""

    arrival_s: Floats
    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats
    tokens: Floats  # output tokens of each


def latencies(log: RequestLog, warmup: float = 0.0, stream_tokens: float = 1.0) -> Latencies:
    """Latencies as clients see them, without the first `warmup` share of the requests.

    An engine that sends tokens in groups delays the first: tokens of a request come at even distances.
    """
    skip = int(len(log) * warmup)
    arrival, first = np.array(log.arrival_s)[skip:], np.array(log.first_s)[skip:]
    finish, output = np.array(log.finish_s)[skip:], np.array(log.output, dtype=np.float64)[skip:]
    several = output > 1
    waited = np.minimum(stream_tokens, output) - 1.0
    first = first + (finish - first) * waited / np.maximum(1.0, output - 1.0)
    tpot = (finish[several] - first[several]) / (output[several] - 1.0)
    return Latencies(arrival, first - arrival, tpot, finish - arrival, output)


def goodput_per_s(found: Latencies, ttft_s: float, tpot_s: float) -> float:
    """Requests per second that met both limits; a single token needs no second one."""
    if not len(found.e2e_s):
        return 0.0
    ends = found.arrival_s + found.e2e_s
    span = float(ends.max() - found.arrival_s.min())
    each = (found.e2e_s - found.ttft_s) / np.maximum(1.0, found.tokens - 1.0)
    good = (found.ttft_s <= ttft_s) & (each <= tpot_s)
    return float(good.sum()) / span if span > 0 else 0.0


def label_of(found: Latencies, rate_per_s: float, capacity_per_s: float, closed: bool) -> str:
    """stable, backlogged (the queue grew during the run) or overloaded (more comes than can ever be served)."""
    if closed or rate_per_s <= 0.0:
        return "stable"
    if rate_per_s > capacity_per_s:
        return "overloaded"
    tenth = max(1, len(found.ttft_s) // 10)
    span = float(found.arrival_s[-1] - found.arrival_s[0])
    grown = float(found.ttft_s[-tenth:].mean() - found.ttft_s[:tenth].mean())
    return "backlogged" if span > 0 and grown > _LATE * span else "stable"
