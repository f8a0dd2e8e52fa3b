"""Arrivals of a day: as many as the table says, one after the other at random."""

from __future__ import annotations

import numpy as np

from moesim.traces.day import HOURS, Day
from moesim.traces.requests import Floats
from moesim.traces.rng import stream

HOUR_S = 3600.0
DAY_S = HOURS * HOUR_S


def day_arrivals(day: Day, seed: int, days: int = 1) -> Floats:
    """Seconds from midnight of every request: a Poisson process with its hour's rate, the same day `days` times."""
    rates = np.array([hour.requests_per_s for hour in day] * days)
    expected = np.concatenate(([0.0], np.cumsum(rates * HOUR_S)))  # requests by the end of each hour
    draws = stream(seed, "requests.day")
    times: list[Floats] = []
    done = 0.0
    while done < expected[-1]:
        most = int(expected[-1] - done + 6.0 * (expected[-1] - done) ** 0.5 + 16.0)
        reached = done + np.cumsum(draws.standard_exponential(most))
        done = float(reached[-1])
        times.append(reached)
    reached = np.concatenate(times)
    reached = reached[reached < expected[-1]]
    hour = np.searchsorted(expected, reached, "right") - 1  # hours without requests are passed over
    return np.asarray((hour + (reached - expected[hour]) / (rates[hour] * HOUR_S)) * HOUR_S)


def expected_per_s(day: Day, time_s: float) -> float:
    """Mean requests per second at a time of the day."""
    return day[int(time_s / HOUR_S) % HOURS].requests_per_s
