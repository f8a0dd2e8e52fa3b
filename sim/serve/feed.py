"""Feed: when requests come. By themselves, when a client has its last answer, or when someone has thought about one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heappop, heappush

from moesim.sim.serve.workload import RequestLog

_FOREVER = float("inf")


class Feed:
    """Arrivals of a run in order of time; `finished` says when one is answered, or given up."""

    def __init__(self, log: RequestLog, after: Sequence[int] = (), clients: int = 0) -> None:
        """`after`: as in `Requests`; `clients`: of a closed loop, who send the next request of all when answered."""
        self.log = log
        self._think_s = log.arrival_s if not after else list(log.arrival_s)
        self._followers: dict[int, list[int]] = {}
        self._queue: list[tuple[float, int]] = []  # of those that were caused by an answer
        self._next: Iterator[int] | None = iter(range(len(log))) if clients else None
        self.answers = bool(after or clients)  # whether answers cause requests
        alone = range(len(log)) if not clients else range(0)
        if after:
            for request, before in enumerate(after):
                if before >= 0:
                    self._followers.setdefault(before, []).append(request)
            alone = [i for i in alone if after[i] < 0]  # type: ignore[assignment]  # both are sequences of numbers
        self._alone = iter(sorted(alone, key=log.arrival_s.__getitem__))
        self.next_s = _FOREVER  # when the next request arrives; infinite when none does before another answer
        self._coming, self._coming_s = -1, _FOREVER
        self._step()
        for _ in range(clients):
            self._send(0.0)

    def _send(self, time_s: float) -> None:
        request = next(self._next, -1) if self._next is not None else -1
        if request >= 0:
            self.log.arrival_s[request] = time_s
            self._push(time_s, request)

    def _step(self) -> None:
        """On to the next of those that come by themselves."""
        self._coming = next(self._alone, -1)
        self._coming_s = self.log.arrival_s[self._coming] if self._coming >= 0 else _FOREVER
        self.next_s = min(self._coming_s, self._queue[0][0]) if self._queue else self._coming_s

    def _push(self, time_s: float, request: int) -> None:
        heappush(self._queue, (time_s, request))
        self.next_s = min(self.next_s, time_s)

    def pop(self) -> tuple[float, int]:
        """(when, request) of the next arrival."""
        if self._coming >= 0 and (not self._queue or self._coming_s <= self._queue[0][0]):
            first = self._coming_s, self._coming
            self._step()
            return first
        first = heappop(self._queue)
        self.next_s = min(self._coming_s, self._queue[0][0]) if self._queue else self._coming_s
        return first

    def rejected(self, request: int, time_s: float) -> None:
        """Nobody takes a request: what its answer would have caused comes a while later."""
        self.finished(request, time_s + self.log.again_s)

    def finished(self, request: int, time_s: float) -> None:
        """A request is answered, or given up: who waits for it thinks, a client sends its next one."""
        if self._next is not None:
            self._send(time_s)
        for follower in self._followers.pop(request, ()):
            arrival_s = time_s + self._think_s[follower]
            self.log.arrival_s[follower] = arrival_s
            self._push(arrival_s, follower)
