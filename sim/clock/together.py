"""Several programs on one clock and one network, each begun again when it is over, until all have run some times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from moesim.sim.clock.events import Clock, HeapClock
from moesim.sim.clock.network import Flow, Loads, Network
from moesim.sim.clock.shared_links import SharedLinks
from moesim.sim.clock.walker import Walker


@dataclass(frozen=True, slots=True)
class Tail:
    """What follows one run of a program: `seconds` in all; the first `flying_s` of them are a transfer over `loads`."""

    seconds: float
    flying_s: float = 0.0
    loads: Loads = ()


@dataclass(frozen=True, slots=True)
class Party:
    """A program: a fresh run of it, what follows a run that took so many seconds, and its links.

    `common` as in SharedLinks; `first`: the number by which the network knows the first of its other links.
    """

    walker: Callable[[Clock], Walker]
    tail: Callable[[float], Tail]
    common: Mapping[int, Loads]
    first: int = 0


@dataclass(frozen=True, slots=True)
class Round:
    """One run with what follows it: when it began, how long it took, seconds at full rate on links of the network."""

    begin_s: float
    seconds: float
    carried_s: Mapping[int, float]


class _StoppableClock(HeapClock):
    """A clock that can be told that nothing else matters."""

    def stop(self) -> None:
        """Forget all that is due."""
        self._due.clear()


def run_together(parties: Sequence[Party], least: int = 1) -> list[list[Round]]:
    """Rounds of every party that were over while all others ran, at least `least` of each.

    All begin at second 0 and begin again as soon as they are over, until the slowest has been through `least` times.
    Deadlock where a program cannot end.
    """
    runs = _Together(parties, least)
    runs.clock.run()
    return runs.outcome()


class _Together:
    """The state of `run_together`."""

    def __init__(self, parties: Sequence[Party], least: int) -> None:
        self._parties, self._least = parties, least
        self.clock = _StoppableClock()
        self._network = Network(self.clock)
        self._rounds: list[list[Round]] = [[] for _ in parties]
        self._running: list[Walker | None] = [None] * len(parties)
        for number in range(len(parties)):
            self._begin(number, 0.0)

    def outcome(self) -> list[list[Round]]:
        """See `run_together`."""
        for number, walker in enumerate(self._running):
            if not self._rounds[number] and walker is not None:
                walker.walked()  # says what stands still
        return self._rounds

    def _begin(self, number: int, begin_s: float) -> None:
        party = self._parties[number]
        links = SharedLinks(self._network, party.common, party.first)
        walker = self._running[number] = party.walker(self.clock)
        walker.join(links, begin_s, lambda: self._follow(number, begin_s, walker, links))
        self.clock.at(begin_s, walker.begin)

    def _follow(self, number: int, begin_s: float, walker: Walker, links: SharedLinks) -> None:
        """A run is over: now its tail."""
        body_s = walker.walked().makespan_s
        tail, now_s = self._parties[number].tail(body_s), begin_s + body_s

        def over(late_s: float) -> None:
            seconds = body_s + tail.seconds + late_s
            done = Round(begin_s, seconds, links.carried_s)
            self.clock.at(begin_s + seconds, lambda: self._end(number, done))

        if tail.flying_s > 0.0 and tail.loads:
            due_s = now_s + tail.flying_s

            def landed(end_s: float, slowed: bool) -> None:
                over(end_s - due_s if slowed else 0.0)

            links.start(Flow(tail.flying_s, tail.loads, 1.0, landed), now_s)
        else:
            over(0.0)

    def _end(self, number: int, done: Round) -> None:
        self._rounds[number].append(done)
        if all(len(rounds) >= self._least for rounds in self._rounds):
            self.clock.stop()
        else:
            self._begin(number, done.begin_s + done.seconds)
