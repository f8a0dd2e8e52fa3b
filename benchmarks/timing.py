"""Timing shared by the benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter


def timed(call: Callable[[], object], repeats: int = 3) -> float:
    """Median seconds of a call."""
    seconds = []
    for _ in range(repeats):
        begin = perf_counter()
        call()
        seconds.append(perf_counter() - begin)
    return median(seconds)
