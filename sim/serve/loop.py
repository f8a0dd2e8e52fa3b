"""Drivers: who sends requests when, and which replica gets them; queue, clock and batch are the replica's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from moesim.sim.serve.replica import Replica
from moesim.sim.serve.workload import RequestLog

_FOREVER = float("inf")


@dataclass(slots=True)
class Front:
    """The API server before the engine: a fixed time per request, time per prompt token, and a queue of one server."""

    request_s: float = 0.0
    token_s: float = 0.0
    server_s: float = 0.0
    _free_s: float = 0.0

    def enter(self, arrival_s: float, tokens: int) -> float:
        """When a request of that many prompt tokens reaches the engine; calls come in order of arrival."""
        if self.server_s:
            self._free_s = max(self._free_s, arrival_s) + self.server_s
            arrival_s = self._free_s
        return arrival_s + self.request_s + self.token_s * tokens


def run_open(log: RequestLog, replica: Replica, front: Front, requests: Sequence[int] | None = None) -> None:
    """Requests arrive when they arrive, whatever the replica does; ends when all are served."""
    which = range(len(log)) if requests is None else requests
    entered = [front.enter(log.arrival_s[i], log.prompt[i]) for i in which]
    for n in sorted(range(len(entered)), key=entered.__getitem__):
        replica.advance(entered[n])
        replica.submit(which[n], entered[n])
    replica.advance(_FOREVER)


def run_closed(log: RequestLog, replica: Replica, front: Front, clients: int, requests: Sequence[int]) -> None:
    """`clients` send the next request as soon as their last one is answered; all begin at once."""
    pending: list[tuple[float, int]] = []
    following = iter(requests)

    def send(time_s: float) -> None:
        request = next(following, None)
        if request is not None:
            log.arrival_s[request] = time_s
            heappush(pending, (front.enter(time_s, log.prompt[request]), request))

    for _ in range(clients):
        send(0.0)
    while pending or not replica.idle:
        until = pending[0][0] if pending else _FOREVER
        replica.done.clear()
        replica.advance(until, stop=True)
        for request in replica.done:
            send(log.finish_s[request])
        if pending and (replica.now >= pending[0][0] or replica.idle):
            time_s, request = heappop(pending)
            replica.submit(request, time_s)


def run_balanced(log: RequestLog, replicas: Sequence[Replica], front: Front) -> None:
    """An open loop whose router sends every request to the replica with the fewest unfinished ones."""
    entered = sorted((front.enter(log.arrival_s[i], log.prompt[i]), i) for i in range(len(log)))
    due = [(_FOREVER, n) for n in range(len(replicas))]  # no replica finishes anything before its time here
    loads = [0] * len(replicas)
    for time_s, request in entered:
        while due[0][0] <= time_s:
            _, n = heappop(due)
            replicas[n].advance(time_s)
            loads[n] = replicas[n].load
            heappush(due, (max(replicas[n].next_finish_s(), replicas[n].now), n))
        n = min(range(len(replicas)), key=loads.__getitem__)
        replicas[n].advance(time_s)
        replicas[n].submit(request, time_s)
        loads[n] = replicas[n].load
        due = [(t, m) for t, m in due if m != n]
        due.append((replicas[n].now, n))
        heapify(due)
    for replica in replicas:
        replica.advance(_FOREVER)


@dataclass(slots=True)
class Pools:
    """A disaggregated system: prompts are computed here, their caches sent there, tokens decoded there."""

    prefill: Sequence[Replica]  # with a log of their own in which every request has one output token
    decode: Sequence[Replica]
    transfer_s: Callable[[int], float]  # seconds to hand over the cache of a prompt of that many tokens


def run_pools(log: RequestLog, pools: Pools, front: Front, clients: int | None) -> None:
    """Both pools together, event by event; `clients` as in a closed loop, None: requests arrive by themselves."""
    events: list[tuple[float, int, int]] = []  # (time, 0 prompt | 1 cache has arrived, request)
    following = iter(range(len(log)))

    def send(time_s: float | None) -> None:
        request = next(following, None)
        if request is not None:
            if time_s is not None:
                log.arrival_s[request] = time_s
            heappush(events, (front.enter(log.arrival_s[request], log.prompt[request]), 0, request))

    for _ in range(len(log) if clients is None else clients):
        send(None if clients is None else 0.0)
    while True:
        coming = events[0][0] if events else _FOREVER
        first = min((r.now for r in pools.prefill if not r.idle), default=_FOREVER)
        last = min((r.now for r in pools.decode if not r.idle), default=_FOREVER)
        if coming == first == last == _FOREVER:
            return
        if coming <= min(first, last):
            time_s, stage, request = heappop(events)
            pool = pools.decode if stage else pools.prefill
            min(pool, key=lambda r: r.load).submit(request, time_s)
        elif first <= last:
            worker = min((r for r in pools.prefill if not r.idle), key=lambda r: r.now)
            worker.advance(worker.now + 1e-9)
            for request in worker.done:
                heappush(events, (worker.now + pools.transfer_s(log.prompt[request]), 1, request))
            worker.done.clear()
        else:
            worker = min((r for r in pools.decode if not r.idle), key=lambda r: r.now)
            others = min((r.next_finish_s() for r in pools.decode if r is not worker), default=_FOREVER)
            until = min(coming, first, others if clients is not None else _FOREVER)  # who finishes asks again
            worker.advance(max(until, worker.now + 1e-9), stop=True)
            for request in worker.done:
                if clients is not None:
                    send(log.finish_s[request])
            worker.done.clear()
