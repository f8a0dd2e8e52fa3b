"""Clocks: how long a call takes on a core that others use too, or on a CUDA stream, and how much that varies.

A CPU is shared: other processes, or a neighbour on the same physical core, slow some repeats down twofold. Linux tells
how long our threads stood waiting for a core. Repeats without such waits count, at their lower quartile: what the
machine does while it is left alone. Long programs on a busy machine have none; the longest wait of any one thread is
then taken off (so long at least our work stood still) and the median counts. A CUDA stream is ours alone: its median.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

Call = Callable[[int], Any]  # told how often it has run, so that it can rotate its buffers

DISTURBED = 1.25  # a repeat longer than the quartile times this was disturbed
_SHORTEST_S = 4e-4  # a repeat runs the call as often as it takes to last this long
_MOST_REPEATS = 60
_RUNNING_SHARE = 0.05  # of a repeat that surely ran: a wait may have begun before it
WAITED = 0.03  # share of a repeat that a thread may wait for a core while the repeat still counts as calm
_FEWEST = 3  # calm repeats, or as many as there are
_TASKS = Path("/proc/self/task")


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call, spread (half the middle half of the repeats over it), share of disturbed repeats."""

    seconds: float
    spread: float
    repeats: int
    disturbed_share: float


Kind = Literal["own", "shared", "together"]  # a device of our own; cores that others use; several ranks on such cores


def summary(repeats: Sequence[tuple[float, float]], kind: Kind = "shared") -> Timing:
    """Timing of (seconds, seconds of them waited for a core) of each repeat.

    Ranks that wait for each other are all left alone so seldom that the fastest of their calm repeats counts.
    """
    calm = [wall for wall, wait in repeats if kind == "own" or wait <= WAITED * wall]
    if len(calm) >= min(_FEWEST, len(repeats)):
        walls, middle = calm, {"own": 0.5, "shared": 0.25, "together": 0.0}[kind]
    else:
        walls, middle = [max(wall - wait, _RUNNING_SHARE * wall) for wall, wait in repeats], 0.5
    low, seconds, high = (_quantile(walls, share) for share in (0.25, middle, 0.75))
    slow = sum(wall > DISTURBED * seconds for wall, _ in repeats)
    return Timing(seconds, (high - low) / 2.0 / seconds, len(walls), slow / len(repeats))


def _quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies, between neighbours in proportion."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def waits_s() -> dict[str, float]:
    """Seconds that each thread of this process has stood in a run queue so far; empty where the system does not say."""
    waits = {}
    try:
        for task in _TASKS.iterdir():
            waits[task.name] = int((task / "schedstat").read_text().split()[1]) * 1e-9
    except (OSError, IndexError, ValueError):  # a thread that just ended, or a system without these files
        return waits
    return waits


def longest_wait_s(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """The longest that any one thread waited in between: so long at least our work stood still."""
    return max((after[name] - before.get(name, 0.0) for name in after), default=0.0)


def time_cpu(call: Call, budget_s: float) -> Timing:
    """Time a call on the CPU for about `budget_s`, one warm-up included."""
    begin = perf_counter()
    call(0)
    first = perf_counter() - begin
    count = max(1, round(_SHORTEST_S / max(first, 1e-7)))
    turn = 1
    walls: list[tuple[float, float]] = []
    while len(walls) < 3 or (len(walls) < _MOST_REPEATS and perf_counter() - begin < budget_s):
        before, start = waits_s(), perf_counter()
        for i in range(turn, turn + count):
            call(i)
        wall = perf_counter() - start
        walls.append((wall / count, longest_wait_s(before, waits_s()) / count))
        turn += count
    return summary(walls)


def time_cuda(call: Call, budget_s: float) -> Timing:
    """Time a call on the current CUDA stream with events; a pause in front lets the launches queue up.

    Written with care, but not yet run: this repository's machines have no GPU.
    """
    import torch

    for i in range(3):
        call(i)
    torch.cuda.synchronize()
    begin, turn = perf_counter(), 3
    walls: list[tuple[float, float]] = []
    while len(walls) < 3 or (len(walls) < _MOST_REPEATS and perf_counter() - begin < budget_s):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(200_000)  # clock cycles: about 0.1 ms
        start.record()
        for i in range(turn, turn + 4):
            call(i)
        end.record()
        torch.cuda.synchronize()
        walls.append((start.elapsed_time(end) * 1e-3 / 4.0, 0.0))
        turn += 4
    return summary(walls, "own")
