"""Clocks: the median seconds of a call with its spread, on a core that others use too, or on a CUDA stream.

On a CPU the scheduler tells how long our threads waited for a core (Linux, schedstat): repeats in which they waited for
more than WAITED of the time are set aside, as long as enough others are left. What was kept is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

Call = Callable[[int], Any]  # told how often it has run, so that it can rotate its buffers

WAITED = 0.03  # share of a repeat that our threads may wait for a core before it is set aside
_SHORTEST_S = 4e-4  # a repeat runs the call as often as it takes to last this long
_MOST_REPEATS = 60
_ENOUGH = 5
_TASKS = Path("/proc/self/task")


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call: median over repeats, spread (half the middle half over the median), share set aside."""

    seconds: float
    spread: float
    repeats: int
    disturbed_share: float


def waited_s() -> float:
    """Seconds that the threads of this process have waited for a core; 0 where the system does not say."""
    total = 0
    try:
        for task in _TASKS.iterdir():
            total += int((task / "schedstat").read_text().split()[1])
    except (OSError, IndexError, ValueError):  # a thread that just ended, or another system
        return total * 1e-9
    return total * 1e-9


def summary(walls: list[tuple[float, float]]) -> Timing:
    """Timing of (seconds, seconds waited) pairs: undisturbed repeats, or the least disturbed third of them."""
    calm = [wall for wall, waited in walls if waited <= WAITED * wall]
    if len(calm) < min(_ENOUGH, len(walls)):
        by_wait = sorted(walls, key=lambda each: each[1] / each[0])
        calm = [wall for wall, _ in by_wait[: max(min(3, len(walls)), len(walls) // 3)]]
    middle = median(calm)
    low, _, high = quantiles(calm, n=4) if len(calm) > 1 else (middle, middle, middle)
    return Timing(middle, (high - low) / 2.0 / middle, len(calm), 1.0 - len(calm) / len(walls))


def time_cpu(call: Call, budget_s: float) -> Timing:
    """Time a call on the CPU for about `budget_s`, one warm-up included."""
    begin = perf_counter()
    call(0)
    first = perf_counter() - begin
    count = max(1, round(_SHORTEST_S / max(first, 1e-7)))
    turn = 1
    walls: list[tuple[float, float]] = []
    while len(walls) < 3 or (len(walls) < _MOST_REPEATS and perf_counter() - begin < budget_s):
        before, start = waited_s(), perf_counter()
        for i in range(turn, turn + count):
            call(i)
        wall = perf_counter() - start
        walls.append((wall / count, (waited_s() - before) / count))
        turn += count
    return summary(walls)


def time_cuda(call: Call, budget_s: float) -> Timing:
    """Time a call on the current CUDA stream with events; the GPU is kept busy so that launches are not waited for.

    Written for, but never run on a GPU in this repository's own CI.
    """
    import torch

    for i in range(3):
        call(i)
    torch.cuda.synchronize()
    begin, turn = perf_counter(), 3
    walls: list[tuple[float, float]] = []
    while len(walls) < 3 or (len(walls) < _MOST_REPEATS and perf_counter() - begin < budget_s):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(200_000)  # about 0.1 ms: the launches below queue up behind it
        start.record()
        for i in range(turn, turn + 4):
            call(i)
        end.record()
        torch.cuda.synchronize()
        walls.append((start.elapsed_time(end) * 1e-3 / 4.0, 0.0))
        turn += 4
    return summary(walls)
