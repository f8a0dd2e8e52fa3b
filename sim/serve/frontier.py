"""The throughput-interactivity frontier: the same deployment and lengths under closed loops of ever more clients."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moesim.sim.question.serving_sections import AdmissionAsk
from moesim.sim.serve.accounts import span_s, spread
from moesim.sim.serve.job import ResolvedServe
from moesim.sim.serve.simulate import PricedJobs, simulate
from moesim.sim.serve.warmup import warm_latencies
from moesim.sim.serve.workload import Workload
from moesim.traces.requests import Requests

CLIENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_PER_CLIENT = 4


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """One load: how fast a user reads, and how much a GPU writes."""

    clients: int
    ttft_s: float
    tpot_s: float
    output_tokens_per_s_per_gpu: float


def frontier(resolved: ResolvedServe, clients: tuple[int, ...] = CLIENTS) -> tuple[FrontierPoint, ...]:
    """A point per number of clients; lengths are those of the resolved load, again from the start when they run out.

    Nobody is turned away: a point is of as many clients as it says.
    """
    tuning, priced = resolved.tuning(), PricedJobs()
    deployment, asked = replace(resolved.deployment, admission=AdmissionAsk()), resolved.workload.requests
    points = []
    for count in clients:
        n = max(_PER_CLIENT * count, 8)
        inputs, outputs = (tuple(column[i % len(asked)] for i in range(n)) for column in _lengths(asked))
        load = Workload(Requests((0.0,) * n, inputs, outputs, (0,) * n), count, resolved.workload.warmup)
        run = simulate(deployment, load, tuning, priced)
        seen = warm_latencies(run, load)
        tpot = spread(seen.tpot_s).mean
        if tpot <= 0.0:  # single tokens have no pace
            continue
        rate = run.log.output_total / span_s(run) / deployment.gpus
        points.append(FrontierPoint(count, float(seen.ttft_s.mean()), tpot, rate))
    return tuple(points)


def _lengths(requests: Requests) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return requests.input_tokens, requests.output_tokens
