"""Drivers of one replica with requests of its own: those that come by themselves, and those of clients that wait."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from moesim.sim.serve.front import Front
from moesim.sim.serve.replica import Replica
from moesim.sim.serve.workload import RequestLog

_FOREVER = float("inf")


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
