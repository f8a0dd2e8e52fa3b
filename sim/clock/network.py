"""One network of links shared by transfers: progress of each, max-min fair, solved only where and when something binds.

A transfer is (seconds alone, the share of every link that it fills when alone, a weight). It moves at a rate of at
most 1: at rate 1 it takes exactly its seconds alone, so a transfer that meets nobody takes its closed form's time to
the last bit. On every link the rates times the shares sum to at most 1; links that all
transfers together cannot fill bind nobody and are never looked at. Where links bind, rates grow together in proportion
to the weights (one per flow that a transfer consists of) until a link is full or a rate is 1: weighted max-min.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import TypeVar

from moesim.sim.clock.events import Clock

_FULL = 1.0 + 1e-12  # a link is over-subscribed only beyond rounding
Link = TypeVar("Link", bound=Hashable)
Loads = tuple[tuple[int, float], ...]  # (link, share of it that the transfer fills when alone)


class Flow:
    """One transfer under way: what is left in seconds alone, and the rate at which that shrinks."""

    __slots__ = ("done", "due_s", "left_s", "loads", "rate", "since_s", "slowed", "version", "weight")

    def __init__(self, seconds: float, loads: Loads, weight: float, done: Callable[[float, bool], None]) -> None:
        self.left_s, self.loads, self.weight, self.done = seconds, loads, weight, done
        self.rate, self.since_s, self.due_s, self.version = 0.0, 0.0, 0.0, 0
        self.slowed = False  # it was below full rate at some time


class Network:
    """Links by number, each whole."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._members: dict[int, list[Flow]] = {}
        self._load: dict[int, float] = {}
        self.solves = 0

    def start(self, flow: Flow, now_s: float) -> None:
        """Let `flow` run from now on; `done` is called with the second at which it ends, and whether it was slowed."""
        flow.since_s = now_s
        binding = False
        for link, share in flow.loads:
            self._members.setdefault(link, []).append(flow)
            load = self._load.get(link, 0.0) + share
            self._load[link] = load
            if load > _FULL:
                binding = True
        if binding:
            self._solve(self._component(flow), now_s)
        else:
            self._move(flow, 1.0, now_s)

    def _move(self, flow: Flow, rate: float, now_s: float) -> None:
        """Give a flow its rate and the event of its end."""
        flow.rate = rate
        flow.slowed = flow.slowed or rate != 1.0
        flow.version += 1
        flow.due_s = now_s + (flow.left_s if rate == 1.0 else flow.left_s / rate)
        version = flow.version
        self._clock.at(flow.due_s, lambda: self._finish(flow, version))

    def _finish(self, flow: Flow, version: int) -> None:
        if version != flow.version:
            return  # its rate has changed since; another event ends it
        flow.version += 1
        freed: list[Flow] = []
        for link, share in flow.loads:
            members = self._members[link]
            members.remove(flow)
            # an empty link weighs nothing: no residue of sums stays behind
            self._load[link] = self._load[link] - share if members else 0.0
            freed.extend(f for f in members if f.rate != 1.0)
        now_s = flow.due_s
        while freed:
            part = self._component(freed[0])
            self._solve(part, now_s)
            freed = [f for f in freed if f not in part]
        flow.done(now_s, flow.slowed)

    def _component(self, flow: Flow) -> list[Flow]:
        """All transfers that this one meets on links that bind, directly or through others, in order of discovery."""
        found, seen = [flow], {flow}
        for one in found:
            for link, _ in one.loads:
                if self._load[link] > _FULL:
                    for other in self._members[link]:
                        if other not in seen:
                            seen.add(other)
                            found.append(other)
        return found

    def _solve(self, flows: Sequence[Flow], now_s: float) -> None:
        self.solves += 1
        links = {k for f in flows for k, _ in f.loads if self._load[k] > _FULL}
        for flow, rate in zip(
            flows, fair_rates([f.loads for f in flows], [f.weight for f in flows], links), strict=True
        ):
            if rate == flow.rate and flow.version:
                continue  # nothing changes: its event stands
            flow.left_s = max(0.0, flow.left_s - (now_s - flow.since_s) * flow.rate)
            flow.since_s = now_s
            self._move(flow, rate, now_s)


def fair_rates(
    loads: Sequence[Sequence[tuple[Link, float]]], weights: Sequence[float], binding: Collection[Link]
) -> list[float]:
    """Weighted max-min fair rates of at most 1 of transfers that fill these shares of links; only those of `binding`
    can be full."""
    rates = [1.0] * len(loads)
    left = dict.fromkeys(binding, 1.0)
    waiting = list(range(len(loads)))
    while waiting:
        pull: dict[Link, float] = {}
        for i in waiting:
            for link, share in loads[i]:
                if link in left:
                    pull[link] = pull.get(link, 0.0) + weights[i] * share
        level = min((max(0.0, left[k]) / p for k, p in pull.items()), default=float("inf"))
        free = [i for i in waiting if weights[i] * level >= 1.0]
        if free:  # these need no more than their own pace
            fixed = free
        else:
            tight = {k for k, p in pull.items() if max(0.0, left[k]) / p <= level * (1 + 1e-12)}
            fixed = [i for i in waiting if any(k in tight for k, _ in loads[i])]
        for i in fixed:
            rates[i] = min(1.0, weights[i] * level)
            for link, share in loads[i]:
                if link in left:
                    left[link] -= rates[i] * share
        gone = set(fixed)
        waiting = [i for i in waiting if i not in gone]
    return rates
