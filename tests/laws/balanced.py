"""Workers behind a least-loaded router in an open loop, for tests."""

from __future__ import annotations

from collections.abc import Sequence

from moesim.sim.serve.dispatch import Dispatch
from moesim.sim.serve.feed import Feed
from moesim.sim.serve.front import Front
from moesim.sim.serve.replica import Replica
from moesim.sim.serve.router import LeastLoaded
from moesim.sim.serve.workload import RequestLog


def run_balanced(log: RequestLog, replicas: Sequence[Replica], front: Front) -> list[int]:
    """Serve all of them; requests that each replica finished."""
    served = [0] * len(replicas)

    class Counted(Dispatch):
        def finished(self, request: int, worker: int) -> None:
            served[worker] += 1
            super().finished(request, worker)

    Counted(log, replicas, front, LeastLoaded(replicas), Feed(log)).run()
    return served
