"""The event engine: one SimPy process per lane walks its items in program order, like a CUDA stream.

`recursion` computes the same times without events (start = max(lane free, dependencies)); it is used where nothing
contends, by the fits, and as the oracle: both give the same bits.
"""

from __future__ import annotations

from collections.abc import Generator

import simpy

from moesim.sim.clock.program import Deadlock, Lane, Program, Timeline


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
