"""Pools at work: prompts are computed by some workers, their caches handed over, tokens decoded by others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from moesim.sim.serve.handover import HandOver
from moesim.sim.serve.replica import Replica
from moesim.sim.serve.workload import RequestLog

_FOREVER = float("inf")


@dataclass(slots=True)
class Pools:
    """A disaggregated system: prompts are computed here, their caches sent there, tokens decoded there."""

    prefill: Sequence[Replica]  # with a log of their own in which every request has one output token
    decode: Sequence[Replica]
    wires: HandOver


def run_pools(log: RequestLog, pools: Pools, enter: Callable[[float, int], float], clients: int | None) -> None:
    """Both pools together, event by event; `clients` as in a closed loop, None: requests arrive by themselves.

    enter: when a request that arrives at a time with so many prompt tokens reaches the engine.
    """
    events: list[tuple[float, int, int, int, int]] = []  # (time, kind of event, request, from worker, to worker)
    following = iter(range(len(log)))

    def send(time_s: float | None) -> None:
        request = next(following, None)
        if request is not None:
            if time_s is not None:
                log.arrival_s[request] = time_s
            heappush(events, (enter(log.arrival_s[request], log.prompt[request]), _PROMPT, request, 0, 0))

    for _ in range(len(log) if clients is None else clients):
        send(None if clients is None else 0.0)
    prefill, decode = pools.prefill, pools.decode
    while True:
        (first, sender), (last, receiver) = _soonest(prefill), _soonest(decode)
        coming = _pass_on(log, pools, events, min(first, last))
        if coming is None:  # somebody was woken
            continue
        if coming == first == last == _FOREVER:
            return
        if first <= last:
            for time_s, request, to in _computed(pools, prefill[sender]):
                heappush(events, (time_s, _CACHE, request, sender, to))
        else:
            worker = decode[receiver]
            others = [] if clients is None else [r for r in decode if r is not worker]  # who finishes asks again
            until = min([coming, first, *(r.next_finish_s() for r in others)])
            worker.advance(max(until, worker.due_s + 1e-9), stop=True)
            for request in worker.done if clients is not None else ():
                send(log.finish_s[request])
            worker.done.clear()


_PROMPT, _CACHE = 0, 1  # a prompt has come; the first byte of a cache leaves


def _soonest(replicas: Sequence[Replica]) -> tuple[float, int]:
    """When the next turn of any of them begins, and whose it is."""
    soonest, which = _FOREVER, 0
    for n, replica in enumerate(replicas):
        if not replica.idle and replica.due_s < soonest:
            soonest, which = replica.due_s, n
    return soonest, which


def _computed(pools: Pools, worker: Replica) -> list[tuple[float, int, int]]:
    """A turn of a prefill worker: (when the first byte leaves, request, decode worker) of each prompt that is done."""
    decode, wires = pools.decode, pools.wires
    worker.advance(worker.due_s + 1e-9)
    sent = []
    for request in worker.done:
        to = min(range(len(decode)), key=lambda n: decode[n].load + wires.coming.get(n, 0))
        wires.promise(to)
        sent.append((worker.log.finish_s[request] + wires.fixed_s, request, to))
    worker.done.clear()
    return sent


def _pass_on(
    log: RequestLog, pools: Pools, events: list[tuple[float, int, int, int, int]], until: float
) -> float | None:
    """Prompts that come, caches that leave and caches that arrive up to `until`, in order.

    When the next one is due; None when an idle worker was woken: then it may be the first to do something.
    """
    wires = pools.wires
    while True:
        event_s, arrival_s = events[0][0] if events else _FOREVER, wires.next_s
        coming = min(event_s, arrival_s)
        if coming > until or coming == _FOREVER:
            return coming
        woken = False
        if arrival_s <= event_s:
            time_s, ended = wires.finish()
            for request, n in ended:
                woken |= pools.decode[n].idle
                pools.decode[n].submit(request, time_s)
        elif events[0][1] == _CACHE:
            while events and events[0][:2] == (event_s, _CACHE):  # those of one pass leave together
                _, _, request, sender, receiver = heappop(events)
                wires.start(request, sender, receiver, log.prompt[request], event_s)
        else:
            time_s, _, request, _, _ = heappop(events)
            worker = min(pools.prefill, key=lambda r: r.load)
            woken = worker.idle
            worker.submit(request, time_s)
        if woken:
            return None
