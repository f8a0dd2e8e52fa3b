"""Transfers that share links, event by event: every one is a super-flow with a load on each link and a number of flows.

Rates are solved again only when a transfer starts or ends. On a link transfers share in proportion to their flows, as
many small flows with equal shares would (progressive filling on progress).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import simpy

from moesim.hwmodels.facts import FactError


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one collective or message puts on links: bytes and flows per link name, and when it may start."""

    name: str
    load_bytes: Mapping[str, float]
    flows: Mapping[str, float]
    start_s: float = 0.0
    latency_s: float = 0.0


@dataclass
class _Running:
    transfer: Transfer
    left_share: float = 1.0  # of the transfer, still to move
    rate_per_s: float = 0.0  # share per second

    @property
    def due_s(self) -> float:
        """Seconds until it is done at this rate."""
        return max(0.0, self.left_share) / self.rate_per_s


def shares(running: Sequence[Transfer], capacity: Mapping[str, float]) -> list[float]:
    """Progress per second of every transfer (1 / seconds alone at full rate), max-min fair by flows."""
    left = dict(capacity)
    rates = [0.0] * len(running)
    waiting = set(range(len(running)))
    while waiting:
        counts: dict[str, float] = {}
        for i in waiting:
            for link in running[i].load_bytes:
                counts[link] = counts.get(link, 0.0) + running[i].flows[link]
        limit = {
            i: min(
                left[link] * running[i].flows[link] / counts[link] / load
                for link, load in running[i].load_bytes.items()
            )
            for i in waiting
        }
        slowest = min(limit.values())
        for i in [i for i in waiting if limit[i] <= slowest * (1 + 1e-12)]:
            rates[i] = limit[i]
            waiting.discard(i)
            for link, load in running[i].load_bytes.items():
                left[link] = max(0.0, left[link] - rates[i] * load)
    return rates


class Network:
    """Links of one topology inside a SimPy environment."""

    def __init__(self, env: simpy.Environment, capacity: Mapping[str, float]) -> None:
        self._env, self._capacity = env, dict(capacity)
        self._running: dict[int, _Running] = {}
        self._waiting: dict[int, simpy.Event] = {}
        self._last_s = 0.0
        self._wake: simpy.Event = env.event()
        self._number = 0
        self._names: set[str] = set()
        self.done_s: dict[str, float] = {}
        env.process(self._clock())

    def send(self, transfer: Transfer) -> simpy.Event:
        """Start a transfer at its own time; the event fires when its last byte has arrived. Names are used once."""
        if transfer.name in self._names:
            raise FactError(f"two transfers are called {transfer.name!r}")
        self._names.add(transfer.name)
        for link, load in transfer.load_bytes.items():
            if self._capacity.get(link, 0.0) <= 0.0:
                raise FactError(f"{transfer.name}: link {link!r} has no bandwidth")
            if load <= 0.0 or transfer.flows.get(link, 0.0) <= 0.0:
                raise FactError(f"{transfer.name}: link {link!r} needs bytes and flows above zero")
        finished = self._env.event()
        self._env.process(self._one(transfer, finished))
        return finished

    def _one(self, transfer: Transfer, finished: simpy.Event) -> Generator[simpy.Event, Any, None]:
        yield self._env.timeout(max(0.0, transfer.start_s - self._env.now) + transfer.latency_s)
        if transfer.load_bytes:
            self._progress()
            number, self._number = self._number, self._number + 1
            self._running[number] = _Running(transfer)
            self._solve()
            gone = self._env.event()
            self._waiting[number] = gone
            yield gone
        self.done_s[transfer.name] = self._env.now
        finished.succeed()

    def _progress(self) -> None:
        """Move everything that runs up to now."""
        elapsed = self._env.now - self._last_s
        for running in self._running.values():
            running.left_share -= running.rate_per_s * elapsed
        self._last_s = self._env.now

    def _solve(self) -> None:
        numbers = list(self._running)
        rates = shares([self._running[n].transfer for n in numbers], self._capacity)
        for number, rate in zip(numbers, rates, strict=True):
            self._running[number].rate_per_s = rate
        wake, self._wake = self._wake, self._env.event()
        if not wake.triggered:
            wake.succeed()

    def _clock(self) -> Generator[simpy.Event, Any, None]:
        """Wait for the next finish, or for a start that changes the rates."""
        while True:
            wake = self._wake
            if not self._running:
                yield wake
                continue
            due = min(r.due_s for r in self._running.values())
            # those that this timer is for; never asked of the residue, which a large clock would round away
            over = [n for n, r in self._running.items() if r.due_s <= due * (1 + 1e-9)]
            timer = self._env.timeout(due)
            yield timer | wake
            if not timer.processed:
                continue
            self._progress()
            for number in over:
                del self._running[number]
            if self._running:
                self._solve()
            for number in over:
                self._waiting.pop(number).succeed()


def run_transfers(transfers: Sequence[Transfer], capacity: Mapping[str, float]) -> dict[str, float]:
    """Seconds at which each transfer is done, all on the same links."""
    env = simpy.Environment()
    network = Network(env, capacity)
    events = [network.send(t) for t in transfers]
    if events:
        env.run(until=env.all_of(events))
    return network.done_s
