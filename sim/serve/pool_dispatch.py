"""PoolDispatch: prompts are computed by some workers, their caches handed over, tokens decoded by others.

No decode worker runs ahead of a prefill worker that may still send it something: prompts that are done cause caches
that come. Short prompts may stay on the decode worker, and workers may change from one pool to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from math import inf, nextafter

from moesim.sim.serve.feed import Feed
from moesim.sim.serve.front import Front
from moesim.sim.serve.handover import HandOver
from moesim.sim.serve.replica import Replica
from moesim.sim.serve.router import LeastLoaded, Router
from moesim.sim.serve.workload import REJECTED, TIMED_OUT, RequestLog

_PREFILL, _DECODE = 0, 1


@dataclass(frozen=True, slots=True)
class Change:
    """From a time on so many workers of one pool serve in the other: they finish what they have, then switch."""

    at_s: float
    to_decode: int  # workers that leave prefill for decode; negative: the other way
    switch_s: float  # from a worker's last request in one pool to its first in the other


@dataclass(slots=True)
class Pools:
    """A disaggregated system: prompts are computed here, their caches sent there, tokens decoded there."""

    prefill: list[Replica]  # with a log of their own in which every request has one output token
    decode: list[Replica]
    wires: HandOver
    local_tokens: int = 0  # prompts of at most so many tokens to compute stay on the decode worker
    changes: Sequence[Change] = ()
    decode_weights: Sequence[float] = ()  # how fast each decode worker is; empty: all alike
    added: Callable[[int, int], None] | None = None  # (pool, worker of the other): it serves here now, as the last


class Due:
    """Workers of one pool by the time before which none of them finishes anything."""

    __slots__ = ("heap", "times")

    def __init__(self, workers: int) -> None:
        self.heap: list[tuple[float, int]] = []
        self.times = [inf] * workers

    def at(self, n: int, time_s: float) -> None:
        """What was known of worker n no longer holds."""
        while n >= len(self.times):  # several may have joined before one of them was asked for anything
            self.times.append(inf)
        if time_s != self.times[n]:
            self.times[n] = time_s
            if time_s < inf:
                heappush(self.heap, (time_s, n))

    def first(self) -> tuple[float, int]:
        """(when, which) is due first; infinite when none is."""
        heap = self.heap
        while heap and self.times[heap[0][1]] != heap[0][0]:
            heappop(heap)
        return heap[0] if heap else (inf, -1)


class PoolDispatch:
    """One run: call `run`."""

    def __init__(
        self, log: RequestLog, pools: Pools, front: Front, router: Router, feed: Feed, most: int | None = None
    ) -> None:
        """`router`: of the prefill workers; `front`: the API server that all share; `most`: as in `Dispatch`."""
        self.log, self.pools, self.router, self.feed, self.front = log, pools, router, feed, replace(front)
        self.most = inf if most is None else most
        self.decoders = LeastLoaded(pools.decode, pools.decode_weights)
        self._workers = (pools.prefill, pools.decode)
        self._due = (Due(len(pools.prefill)), Due(len(pools.decode)))
        self._events: list[tuple[float, int, int, int, int]] = []  # (time, kind, request, sender, receiver)
        self._local: dict[int, int] = {}  # request that a decode worker computes -> that worker
        self._leaving: list[tuple[int, int, float]] = []  # (pool, worker, seconds to switch) of those that drain
        self._owed = [0, 0]  # workers that are still to leave each pool, once others have come to it
        for change in pools.changes:
            heappush(self._events, (change.at_s, _CHANGE, change.to_decode, 0, 0))

    def run(self) -> None:
        """Until every request is answered, rejected or given up."""
        events, wires, feed = self._events, self.pools.wires, self.feed
        prefill_due, decode_due = self._due
        while True:
            coming_s = min(events[0][0] if events else inf, wires.next_s, feed.next_s)
            first_s, sender = prefill_due.first()
            last_s, receiver = decode_due.first()
            if first_s <= last_s and first_s < coming_s:
                self._advance(_PREFILL, sender, coming_s, stop=True)
            elif last_s < min(coming_s, first_s):
                until_s = min(coming_s, first_s)
                if feed.answers:  # who answers first may cause the next request
                    decode_due.times[receiver] = inf
                    until_s = min(until_s, decode_due.first()[0])
                self._advance(_DECODE, receiver, until_s, stop=feed.answers)
            elif coming_s < inf:
                self._happen(coming_s)
            else:
                return

    # ---- what workers do

    def _advance(self, pool: int, n: int, until_s: float, stop: bool) -> None:
        worker = self._workers[pool][n]
        worker.advance(max(until_s, nextafter(worker.now, inf)), stop=stop)
        self._settle(pool, n)

    def _settle(self, pool: int, n: int) -> None:
        worker = self._workers[pool][n]
        for request in worker.done:
            if pool == _PREFILL:
                self._computed(request, n)
            else:
                self.decoders.left(n)
                if self._local.pop(request, None) is not None:
                    self.pools.prefill[0].log.hit[request] = self.log.hit[request]  # where hits are counted
                self._answered(request)
        worker.done.clear()
        if pool == _PREFILL:
            self.router.moved(n)
        self._due[pool].at(n, worker.next_finish_s())
        if self._leaving and worker.idle:
            self._switch(pool, n)

    def _computed(self, request: int, n: int) -> None:
        """A prompt is done: the decode worker with the fewest requests gets its cache."""
        prompts, wires = self.pools.prefill[n].log, self.pools.wires
        self.router.left(n)
        if prompts.status[request] == TIMED_OUT:
            self._gone(request, TIMED_OUT, prompts.finish_s[request])
            return
        to = self.decoders.choose(request, prompts.finish_s[request])
        self.decoders.sent(to)
        wires.promise(to)
        heappush(self._events, (prompts.finish_s[request] + wires.fixed_s, _CACHE, request, n, to))

    def _answered(self, request: int) -> None:
        if self.feed.answers:
            self.feed.finished(request, self.log.finish_s[request])

    def _gone(self, request: int, status: int, time_s: float) -> None:
        """A request that nobody answers."""
        self.log.status[request] = status
        self.log.first_s[request] = self.log.finish_s[request] = time_s
        if status == REJECTED:
            self.feed.rejected(request, time_s)
        else:
            self._answered(request)

    # ---- what comes

    def _happen(self, time_s: float) -> None:
        events, wires = self._events, self.pools.wires
        if self.feed.next_s == time_s:
            _, request = self.feed.pop()
            self._arrive(request, time_s)
        elif events and events[0][0] == time_s and events[0][1] == _PROMPT:
            _, _, request, n, local = heappop(events)
            self._enter(request, n, local, time_s)
        elif wires.next_s <= time_s:
            ended_s, ended = wires.finish()
            for request, n in ended:
                worker = self.pools.decode[n]
                worker.advance(ended_s)
                worker.submit(request, ended_s)
                self._settle(_DECODE, n)
        elif events[0][1] == _CHANGE:
            _, _, to_decode, _, _ = heappop(events)
            self._change(to_decode)
            self._leave(time_s)
        elif events[0][1] == _SWITCHED:
            _, _, _, n, pool = heappop(events)
            self._join(pool, n, time_s)
        else:
            while events and events[0][:2] == (time_s, _CACHE):  # those of one pass leave together
                _, _, request, sender, receiver = heappop(events)
                wires.start(request, sender, receiver, self.log.prompt[request], time_s)

    def _arrive(self, request: int, time_s: float) -> None:
        tokens = self.log.prompt[request]
        n = self.router.choose(request, time_s)
        known = min(self.router.known_tokens, tokens)
        kept = self.pools.prefill[n].prefix is not None
        if min(self.router.loads[m] for m in self.router.open) >= self.most:
            self._gone(request, REJECTED, time_s)
            return
        entered_s = self.front.enter(time_s, tokens)
        if kept:
            self.log.prefix[request] = 0  # a decode worker keeps no prompts for others
        found = self.log.prefix[request] if self.pools.decode[0].engine.prefix_cache else 0
        if tokens - found <= self.pools.local_tokens:
            to = self._local[request] = self.decoders.choose(request, time_s)
            self.decoders.sent(to)
            heappush(self._events, (entered_s, _PROMPT, request, to, 1))
            return
        prompts = self.pools.prefill[n].log
        prompts.arrival_s[request] = time_s
        prompts.hit[request] = known  # expected, until the worker knows
        self.router.coming_tokens[n] += tokens - known
        self.router.sent(n)
        self.router.moved(n)
        heappush(self._events, (entered_s, _PROMPT, request, n, 0))

    def _enter(self, request: int, n: int, local: int, time_s: float) -> None:
        """A prompt reaches the engine of the worker that computes it."""
        worker = self._workers[_DECODE if local else _PREFILL][n]
        worker.advance(time_s)
        if local:
            worker.compute(request)
        else:
            self.router.coming_tokens[n] -= self.log.prompt[request] - worker.log.hit[request]
        worker.submit(request, time_s)
        self._settle(_DECODE if local else _PREFILL, n)

    # ---- pools that change

    def _change(self, to_decode: int) -> None:
        """So many more workers leave prefill for decode, or come from there; the last one of a pool stays in it."""
        pool = _PREFILL if to_decode > 0 else _DECODE
        stay = min(abs(to_decode), self._owed[1 - pool])  # who was to leave the other pool stays there instead
        self._owed[1 - pool] -= stay
        self._owed[pool] += abs(to_decode) - stay

    def _leave(self, time_s: float) -> None:
        """Workers with the least to do stop taking requests; who has none switches at once."""
        for pool, router in ((_PREFILL, self.router), (_DECODE, self.decoders)):
            while self._owed[pool] and len(router.open) > 1:
                self._owed[pool] -= 1
                n = min(router.open, key=lambda m: (router.loads[m], -m))
                router.closed(n)
                self._leaving.append((pool, n, self.pools.changes[0].switch_s))
                worker = self._workers[pool][n]
                if worker.idle and not router.loads[n]:
                    worker.now = max(worker.now, time_s)
                    self._switch(pool, n)

    def _switch(self, pool: int, n: int) -> None:
        router = self.router if pool == _PREFILL else self.decoders
        for leaving in self._leaving:
            if leaving[:2] == (pool, n) and not router.loads[n]:
                self._leaving.remove(leaving)
                ready_s = self._workers[pool][n].now + leaving[2]
                heappush(self._events, (ready_s, _SWITCHED, 0, n, 1 - pool))
                return

    def _join(self, pool: int, before: int, time_s: float) -> None:
        assert self.pools.added is not None  # whoever asks for changes says how workers are made
        self.pools.added(pool, before)
        n = len(self._workers[pool]) - 1
        self._workers[pool][n].now = time_s
        (self.router if pool == _PREFILL else self.decoders).joined(n)
        self._leave(time_s)


_PROMPT, _CACHE, _CHANGE, _SWITCHED = 0, 1, 2, 3  # a prompt reaches its engine; a cache leaves; pools change
