"""Clocks: what is due next. One on SimPy, one on a bare heap that gives the same order to the last bit, but faster."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Protocol

import simpy


class Clock(Protocol):
    """Calls functions at their second; those of one second in the order in which they were asked for."""

    def at(self, second: float, call: Callable[[], None]) -> None:
        """Call `call` at `second`, or now when that has passed."""
        ...

    def run(self) -> None:
        """Until nothing is due any more."""
        ...


class SimpyClock:
    """SimPy's environment: every call is a timeout of it."""

    def __init__(self) -> None:
        self.env = simpy.Environment()

    def at(self, second: float, call: Callable[[], None]) -> None:
        """See Clock."""
        timeout = self.env.timeout(max(0.0, second - self.env.now))
        timeout.callbacks.append(lambda _: call())

    def run(self) -> None:
        """See Clock."""
        self.env.run()


class HeapClock:
    """The same without SimPy's events: for planners and fits, which run thousands of steps."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._now_s = 0.0
        self._count = 0

    def at(self, second: float, call: Callable[[], None]) -> None:
        """See Clock."""
        self._count += 1
        # as SimPy reckons it: delays are added to the present second
        heapq.heappush(self._due, (self._now_s + max(0.0, second - self._now_s), self._count, call))

    def run(self) -> None:
        """See Clock."""
        due = self._due
        while due:
            self._now_s, _, call = heapq.heappop(due)
            call()
