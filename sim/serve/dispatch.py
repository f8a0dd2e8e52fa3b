"""Dispatch: workers behind a router, on one clock. Every request is sent where the router says when it arrives.

A worker is run up to the next arrival only where it may finish something before it. Where answers cause requests
(clients, conversations), no worker runs ahead of one that may still answer: who is first due goes first.
"""

from __future__ import annotations

from dataclasses import replace
from heapq import heapify, heappop, heappush
from math import inf, nextafter

from moesim.sim.serve.feed import Feed
from moesim.sim.serve.front import Front
from moesim.sim.serve.replica import Replica
from moesim.sim.serve.router import Router
from moesim.sim.serve.workload import REJECTED, RequestLog


class Dispatch:
    """One run: call `run`."""

    def __init__(
        self, log: RequestLog, workers: list[Replica], front: Front, router: Router, feed: Feed,
        most: int | None = None,
    ) -> None:  # fmt: skip
        """`front`: the API server that every worker has; `most`: its unfinished requests before others are rejected."""
        self.log, self.workers, self.router, self.feed = log, workers, router, feed
        self.most = inf if most is None else most
        self.front = front
        self._fronts = [replace(front) for _ in workers]
        self._entering: list[tuple[float, int, int]] = []  # (reaches the engine, request, worker)
        self._due: list[tuple[float, int]] = []  # no worker finishes anything before its time here
        self._due_s = [inf] * len(self.workers)

    def run(self) -> None:
        """Until every request is answered, rejected or given up."""
        entering, due, due_s, feed = self._entering, self._due, self._due_s, self.feed
        while True:
            arriving_s = feed.next_s
            entering_s = entering[0][0] if entering else inf
            coming_s = entering_s if entering_s <= arriving_s else arriving_s
            while due and due_s[due[0][1]] != due[0][0]:
                heappop(due)  # out of date
            if due and due[0][0] < coming_s:
                self._advance(due[0][1], coming_s)
            elif coming_s == inf:
                return
            elif entering_s <= arriving_s:
                self._enter(*heappop(entering))
            else:
                _, request = feed.pop()
                self.arrive(request, arriving_s)

    def _enter(self, entered_s: float, request: int, n: int) -> None:
        """A request reaches its engine; or what was set for this time happens."""
        if request < 0:
            self.timer(entered_s, request, n)
            return
        worker = self.workers[n]
        worker.advance(entered_s)
        self.router.coming_tokens[n] -= self.log.prompt[request] - self.log.hit[request]
        worker.submit(request, entered_s)
        self._settle(n)

    def timer(self, time_s: float, kind: int, n: int) -> None:
        """Something that a dispatch of another kind set for this time."""
        raise NotImplementedError

    def arrive(self, request: int, time_s: float) -> None:
        """A request is at the router for the first time."""
        self.route(request, time_s)

    def route(self, request: int, time_s: float) -> None:
        """Send a request to a worker, or reject it."""
        n = self.router.choose(request, time_s)
        if self.router.loads[n] >= self.most and min(self.router.loads[m] for m in self.router.open) >= self.most:
            self.reject(request, time_s)
            return
        tokens = self.log.prompt[request]
        self.log.hit[request] = known = min(self.router.known_tokens, tokens)  # expected, until the worker knows
        self.router.coming_tokens[n] += tokens - known
        self.router.sent(n)
        self.router.moved(n)
        self.sent(request, n)
        entered_s = self._fronts[n].enter(time_s, tokens)
        heappush(self._entering, (entered_s, request, n))

    def reject(self, request: int, time_s: float) -> None:
        """Nobody answers it."""
        self.log.status[request] = REJECTED
        self.log.first_s[request] = self.log.finish_s[request] = time_s
        self.feed.rejected(request, time_s)

    def sent(self, request: int, worker: int) -> None:
        """A worker will get a request."""

    def joined(self) -> None:
        """There is one more worker, at the end of the list."""
        self._fronts.append(replace(self.front))
        self._due_s.append(inf)

    def drop(self, n: int) -> None:
        """A worker is lost, with everything that it had or that was on its way to it."""
        self._due_s[n] = inf
        self._entering[:] = [e for e in self._entering if e[1] < 0 or e[2] != n]
        heapify(self._entering)

    def _first_due(self) -> int:
        due = self._due
        while due:
            time_s, n = due[0]
            if self._due_s[n] == time_s:
                return n
            heappop(due)
        return -1

    def _advance(self, n: int, coming_s: float) -> None:
        """Run a worker up to what comes next."""
        worker = self.workers[n]
        if self.feed.answers:
            heappop(self._due)
            self._due_s[n] = inf
            other = self._first_due()
            if other >= 0:
                coming_s = min(coming_s, self._due_s[other])
        if coming_s <= worker.now:
            coming_s = nextafter(worker.now, inf)
        worker.advance(coming_s, True)  # who only decodes goes no further
        self._settle(n)

    def _settle(self, n: int) -> None:
        """Count what a worker has finished, and say when it may finish more."""
        worker = self.workers[n]
        if worker.done:
            for request in worker.done:
                self.router.left(n)
                self.finished(request, n)
            worker.done.clear()
        self.router.moved(n)
        due_s = worker.next_finish_s()
        if due_s != self._due_s[n]:
            self._due_s[n] = due_s
            if due_s < inf:
                heappush(self._due, (due_s, n))

    def finished(self, request: int, worker: int) -> None:
        """A worker has answered a request, or given it up."""
        del worker
        if self.feed.answers:
            self.feed.finished(request, self.log.finish_s[request])
