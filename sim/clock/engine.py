"""Programs of timed items on lanes (rank, stream) with dependencies, and the event engine that runs them.

One SimPy process per lane walks its items in program order, like a CUDA stream. `recursion` computes the same times
without events (start = max(lane free, dependencies)); it is used where nothing contends, by the fits, and as the
oracle: both give the same bits.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import NamedTuple

import simpy

from moesim.refusal import Refusal


class Dep(NamedTuple):
    """Wait until item `item` has ended (or, with `from_start`, begun) and `lag_s` more seconds have passed."""

    item: int
    lag_s: float = 0.0
    from_start: bool = False


class Lane(NamedTuple):
    """One stream of one rank; items on it run one after another in program order."""

    rank: int
    stream: str  # compute | comm | dp | host; gather in op-by-op runs


@dataclass
class Program:
    """Items by number: label, duration, dependencies; and the order of items on every lane."""

    labels: list[str] = field(default_factory=list)
    durations_s: list[float] = field(default_factory=list)
    deps: list[tuple[Dep, ...]] = field(default_factory=list)
    lane_of: list[Lane] = field(default_factory=list)
    lanes: dict[Lane, list[int]] = field(default_factory=dict)

    def add(self, lane: Lane, label: str, duration_s: float, deps: tuple[Dep, ...] = ()) -> int:
        """Append an item to `lane`; returns its number. Dependencies may point to items added later."""
        number = len(self.labels)
        self.labels.append(label)
        self.durations_s.append(duration_s)
        self.deps.append(deps)
        self.lane_of.append(lane)
        self.lanes.setdefault(lane, []).append(number)
        return number

    def set_deps(self, item: int, deps: tuple[Dep, ...]) -> None:
        """Replace the dependencies of an item (they were not known when it was added)."""
        self.deps[item] = deps

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Timeline:
    """Start and end of each item of a program, by item number, in seconds."""

    program: Program
    start_s: list[float]
    end_s: list[float]

    @property
    def makespan_s(self) -> float:
        """When the last item ended; 0 for an empty program."""
        return max(self.end_s, default=0.0)

    def lane_end_s(self, lane: Lane) -> float:
        """When the lane's last item ended; 0 for an unused lane."""
        items = self.program.lanes.get(lane)
        return self.end_s[items[-1]] if items else 0.0

    def ranks(self) -> list[int]:
        """Ranks that run anything, in order."""
        return sorted({lane.rank for lane in self.program.lanes})


class Deadlock(Refusal):
    """Items wait for each other, as streams that disagree on the order of collectives do."""


class _Signals:
    """Events for 'item began' and 'item ended', each with the lags that someone waits for."""

    def __init__(self, env: simpy.Environment, program: Program) -> None:
        self._env = env
        self._lags: dict[tuple[int, bool], dict[float, simpy.Event]] = {}
        for deps in program.deps:
            for dep in deps:
                by_lag = self._lags.setdefault((dep.item, dep.from_start), {})
                if dep.lag_s not in by_lag:
                    by_lag[dep.lag_s] = env.event()

    def event(self, item: int, from_start: bool, lag_s: float) -> simpy.Event:
        return self._lags[(item, from_start)][lag_s]

    def fire(self, item: int, from_start: bool) -> None:
        for lag, event in self._lags.get((item, from_start), {}).items():
            if lag <= 0.0:
                event.succeed()
            else:
                self._env.process(self._later(event, lag))

    def _later(self, event: simpy.Event, lag_s: float) -> Generator[simpy.Event, None, None]:
        yield self._env.timeout(lag_s)
        event.succeed()


def run(program: Program) -> Timeline:
    """Execute `program` event by event. Deadlock when items wait for each other."""
    env = simpy.Environment()
    count = len(program)
    start, end = [-1.0] * count, [-1.0] * count
    signals = _Signals(env, program)

    def walk(items: list[int]) -> Generator[simpy.Event, None, None]:
        for item in items:
            for dep in program.deps[item]:
                event = signals.event(dep.item, dep.from_start, dep.lag_s)
                if not event.processed:
                    yield event
            start[item] = env.now
            signals.fire(item, True)
            if program.durations_s[item] > 0.0:
                yield env.timeout(program.durations_s[item])
            end[item] = env.now
            signals.fire(item, False)

    for lane in sorted(program.lanes):
        env.process(walk(program.lanes[lane]))
    env.run()
    _require_done(program, end)
    return Timeline(program, start, end)


def recursion(program: Program) -> Timeline:
    """The same times by recursion over the program: no events, no contention. Deadlock as `run`."""
    count = len(program)
    start, end = [-1.0] * count, [-1.0] * count
    position = dict.fromkeys(program.lanes, 0)
    free = dict.fromkeys(program.lanes, 0.0)
    waiting: dict[int, list[Lane]] = {}
    ready = sorted(program.lanes, reverse=True)
    while ready:
        lane = ready.pop()
        items = program.lanes[lane]
        clock, i = free[lane], position[lane]
        while i < len(items):
            item = items[i]
            blocker = next((d.item for d in program.deps[item] if end[d.item] < 0.0), None)
            if blocker is not None:
                waiting.setdefault(blocker, []).append(lane)
                break
            for dep in program.deps[item]:
                at = (start if dep.from_start else end)[dep.item] + dep.lag_s
                if at > clock:
                    clock = at
            start[item] = clock
            clock += program.durations_s[item]
            end[item] = clock
            ready.extend(waiting.pop(item, ()))
            i += 1
        free[lane], position[lane] = clock, i
    _require_done(program, end)
    return Timeline(program, start, end)


def _require_done(program: Program, end: list[float]) -> None:
    undone = [program.labels[i] for i, t in enumerate(end) if t < 0.0]
    if undone:
        raise Deadlock(f"{len(undone)} items never ran, the first: {', '.join(undone[:5])}")
