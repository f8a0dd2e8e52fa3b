"""ScalingDispatch: workers that come and go behind a router: scaled on load or forecast, started cold, drained, lost.

Every `interval_s` the scaler looks at the requests that came since (or, with a forecast, that will come by the time a
new worker could help), and wants as many workers as keep each at `used_share` of what it serves with a full queue.
A new one takes requests after its cold start. One that is too many takes no more and leaves when it has answered all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappush
from math import ceil, inf

from moesim.sim.serve.dispatch import Dispatch
from moesim.sim.serve.feed import Feed
from moesim.sim.serve.front import Front
from moesim.sim.serve.replica import Replica
from moesim.sim.serve.router import Router
from moesim.sim.serve.workload import RequestLog

_TICK, _READY, _LOST, _RETRY = -1, -2, -3, -4  # what happens, where a request's number would stand


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaler:
    """When there are how many workers. Seconds and requests per second."""

    least: int
    most: int
    interval_s: float
    worker_per_s: float  # requests that one worker serves with a full queue
    used_share: float  # of that, at which a worker is meant to run
    cold_start_s: float
    keep_s: float  # workers that were wanted within that time are kept
    forecast: Callable[[float], float] | None = None  # requests per second expected at a time; None: on load

    def wanted(self, time_s: float, came: int, waiting: int) -> int:
        """Workers for `came` requests in the last interval and `waiting` that are behind."""
        rate = came / self.interval_s
        if self.forecast is not None:
            rate = max(self.forecast(time_s), self.forecast(time_s + self.cold_start_s + self.interval_s))
        rate += waiting / self.interval_s
        return max(self.least, min(self.most, ceil(rate / (self.worker_per_s * self.used_share) - 1e-9)))


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker that is lost at a time, with what it had not answered; another starts in its place."""

    at_s: float
    worker: int  # of those that take requests then, counted around
    together: int = 1  # and those that stand beside it on its host


@dataclass(slots=True)
class Life:
    """When one worker was paid for and when it took requests. Seconds; infinite until it happens."""

    begin_s: float
    ready_s: float
    closed_s: float = inf
    end_s: float = inf


@dataclass(slots=True)
class Interval:
    """Workers at the end of one interval, and what came in it."""

    time_s: float
    ready: int
    paid: int
    wanted: int
    came: int
    unfinished: int


@dataclass(slots=True)
class Watch:
    """What a scaler did: a life for each worker, a line for each interval."""

    lives: list[Life] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)
    lost: int = 0  # workers
    retried: int = 0  # requests


class ScalingDispatch(Dispatch):
    """One run of workers whose number changes."""

    def __init__(
        self, log: RequestLog, workers: list[Replica], front: Front, router: Router, scaler: Scaler,
        made: Callable[[int], Replica],
    ) -> None:  # fmt: skip
        """`workers`: the first ones, ready at time zero; `made`: a new one, of that number."""
        super().__init__(log, workers, front, router, Feed(log, log.after))
        self.watch, self.scaler, self._made = Watch([Life(0.0, 0.0) for _ in workers]), scaler, made
        self._came, self._begin_s = 0, self.feed.next_s
        self._recent: deque[tuple[float, int]] = deque()  # (time, workers wanted), ever fewer: the first is the most
        self._paid: list[Life] = list(self.watch.lives)  # those that may still be paid for
        self._at: list[dict[int, None]] = [{} for _ in workers]  # unfinished requests of each
        self._starting = 0
        self._held: list[int] = []  # requests that came while no worker took any
        self.told: Callable[[float], None] | None = None  # hears the time at every interval
        heappush(self._entering, (self._begin_s + scaler.interval_s, _TICK, 0))

    def lose(self, losses: Sequence[Loss], retry_s: float) -> None:
        """Workers that will be lost, and how long their requests take to be noticed and sent again."""
        self._retry_s, self._losses = retry_s, losses
        for n, loss in enumerate(losses):
            heappush(self._entering, (loss.at_s, _LOST, n))

    def timer(self, time_s: float, kind: int, n: int) -> None:
        """Something that was set for this time."""
        if kind == _TICK:
            self._tick(time_s)
        elif kind == _READY:
            self._starting -= 1
            self._open(n, time_s)
        elif kind == _LOST:
            self._lose(n, time_s)
        else:  # a request is sent again, by its client: it has waited since it came
            self.route(n, time_s)

    def arrive(self, request: int, time_s: float) -> None:
        """Count it, and send it on."""
        self._came += 1
        super().arrive(request, time_s)

    def route(self, request: int, time_s: float) -> None:
        """Send a request to a worker; while all are lost it waits for the first that starts, in order."""
        if self.router.open:
            super().route(request, time_s)
        elif len(self._held) < self.most:
            self._held.append(request)
        else:
            self.reject(request, time_s)

    def sent(self, request: int, worker: int) -> None:
        """Who has it, for the case that it is lost."""
        self._at[worker][request] = None

    def finished(self, request: int, worker: int) -> None:
        """One less of a worker; a worker that drains may leave."""
        del self._at[worker][request]
        super().finished(request, worker)
        life = self.watch.lives[worker]
        if life.closed_s < inf and not self._at[worker]:
            life.end_s = max(life.closed_s, self.log.finish_s[request])

    # ---- scaling

    def _tick(self, time_s: float) -> None:
        scaler, open_ = self.scaler, self.router.open
        unfinished = sum(self.router.loads[n] for n in open_)
        behind = sum(len(self.workers[n].waiting) for n in open_) + len(self._held)
        wanted = scaler.wanted(time_s, self._came, behind)
        recent = self._recent
        while recent and recent[-1][1] <= wanted:
            recent.pop()
        recent.append((time_s, wanted))
        while recent[0][0] <= time_s - scaler.keep_s and len(recent) > 1:
            recent.popleft()
        kept = recent[0][1]
        for _ in range(wanted - len(open_) - self._starting):
            self._start(time_s)
        for _ in range(len(open_) + self._starting - kept):
            if len(open_) <= max(1, scaler.least):
                break
            self._close(time_s)
        self._paid = [life for life in self._paid if time_s < life.end_s]
        paid = len(self._paid)
        self.watch.intervals.append(Interval(time_s, len(open_), paid, wanted, self._came, unfinished))
        self._came = 0
        if self.told is not None:
            self.told(time_s)
        if self.feed.next_s < inf or unfinished or self._held or any(self._at):
            heappush(self._entering, (time_s + scaler.interval_s, _TICK, 0))

    def _start(self, time_s: float) -> None:
        self._starting += 1
        n = len(self.workers)
        self.workers.append(self._made(n))
        self.joined()
        self._at.append({})
        self.watch.lives.append(Life(time_s, time_s + self.scaler.cold_start_s))
        self._paid.append(self.watch.lives[-1])
        self.router.loads.append(0)
        self.router.coming_tokens.append(0)
        heappush(self._entering, (time_s + self.scaler.cold_start_s, _READY, n))

    def _open(self, n: int, time_s: float) -> None:
        self.workers[n].now = time_s
        self.router.joined(n)
        held, self._held = self._held, []
        for request in held:
            self.route(request, time_s)

    def _close(self, time_s: float) -> None:
        """The worker with the least to do, the youngest of those, takes no more requests."""
        n = min(self.router.open, key=lambda m: (self.router.loads[m], -m))
        self.router.closed(n)
        life = self.watch.lives[n]
        life.closed_s = time_s
        if not self._at[n]:
            life.end_s = time_s

    def _lose(self, which: int, time_s: float) -> None:
        """A worker is lost, with those on its host. Without one that takes requests there is nothing to lose."""
        loss, open_ = self._losses[which], sorted(self.router.open)
        if not open_:
            return
        host = open_[loss.worker % len(open_)] // loss.together
        for n in open_:
            if n // loss.together == host:
                self._lose_one(n, time_s)

    def _lose_one(self, n: int, time_s: float) -> None:
        self.workers[n].advance(time_s)
        self._settle(n)
        self.router.closed(n)
        self.watch.lives[n].closed_s = self.watch.lives[n].end_s = time_s
        self.watch.lost += 1
        self.drop(n)
        for request in self._at[n]:
            self.log.first_s[request] = 0.0
            self.log.hit[request] = 0
            heappush(self._entering, (time_s + self._retry_s, _RETRY, request))
        self.watch.retried += len(self._at[n])
        self._at[n] = {}
        if len(self.router.open) + self._starting < self.scaler.most:
            self._start(time_s)
