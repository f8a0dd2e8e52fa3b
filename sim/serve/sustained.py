"""The most of a load that a deployment serves within limits: as a rate that its requests may come at, or as clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, inf, sqrt
from typing import Any

import numpy as np

from moesim.sim.serve.accounts import QUEUED, label_of, latencies_of
from moesim.sim.serve.simulate import ServeRun
from moesim.sim.serve.slo import Slo
from moesim.sim.serve.warmup import warm_latencies, warm_up_of
from moesim.sim.serve.workload import Workload
from moesim.traces.requests import Requests

_DOUBLINGS, _HALVINGS = 12, 7  # of the search for the rate that a deployment sustains: far, then within 1 %
_SETTLED = 4.0  # the requests of a trial last this many times one request at the limits (assumed)
_SLOWEST = 10.0  # but limits that are that much looser than the load asked say nothing about it
_MOST = 20_000  # requests of a repeated load
_TRIALS = 7  # of the search for what would meet limits: within 4 % over three orders of magnitude
_TRIAL_REQUESTS = 4000  # at most, of one trial
_PER_CLIENT, _FEW_PER_CLIENT, _LEAST = 10, 4, 64  # requests of a trial
_ALONE = 0.25  # of a request's own time: who comes at that share of its rate hardly ever meets another

Serve = Callable[[Workload], ServeRun]


def sustained_per_s(serve: Serve, load: Workload, slo: Slo, most: float) -> float:
    """The largest rate of a load's requests at which the limits still hold, within 1 %; 0 where there is none.

    Never more than `most`, what drains a full queue: a short load could be served as one burst.
    """
    asked = load.rate_per_s
    if not asked or load.clients or load.requests.after:  # conversations take their time to be many
        return 0.0
    settle_s = _settle_s(load, slo, float(warm_latencies(serve(load), load).e2e_s.mean()))

    def held(rate_per_s: float) -> bool:
        return _held(serve, load, slo, rate_per_s / asked, settle_s)

    low, high = 0.0, asked
    for _ in range(_DOUBLINGS):
        if high > most or not held(high):
            break
        low, high = high, 2.0 * high
    for _ in range(0 if low else _DOUBLINGS):
        high *= 0.5
        if held(high):
            low, high = high, 2.0 * high
            break
    for _ in range(_HALVINGS if low else 0):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if middle <= most and held(middle) else (low, middle)
    return low


def lasts(serve: Serve, load: Workload, slo: Slo, now_s: float) -> bool:
    """Whether an open load would be served within limits if it went on; now_s: of a request, from first to last."""
    return _held(serve, load, slo, 1.0, _settle_s(load, slo, now_s))


def _settle_s(load: Workload, slo: Slo, now_s: float) -> float:
    """Seconds of arrivals until a load has come to a steady state, several times over."""
    outputs = load.requests.output_tokens
    at_limits_s = slo.ttft_s + slo.tpot_s * sum(outputs) / len(outputs)
    return _SETTLED * max(now_s, min(at_limits_s, _SLOWEST * now_s))


def _held(serve: Serve, load: Workload, slo: Slo, factor: float, settle_s: float) -> bool:
    """Whether the limits hold once the requests, coming `factor` times as fast, have come to a steady state."""
    trial = faster(load, factor, settle_s)
    span = trial.requests.arrival_s[-1] - trial.requests.arrival_s[0]
    skip = int(len(trial.requests) * min(0.5, settle_s / _SETTLED / span))
    return holds(serve(trial), trial, slo, skip)


def holds(run: ServeRun, load: Workload, slo: Slo, skip: int) -> bool:
    """Whether enough of the requests after the first `skip` met the limits, and the queue did not grow."""
    seen = latencies_of(run, skip)
    label = label_of(seen, load.rate_per_s, inf, bool(load.clients)) if len(seen.e2e_s) else ""
    return slo.attained(seen) >= slo.share and label not in QUEUED


def faster(load: Workload, factor: float, least_s: float) -> Workload:
    """The requests `factor` times as fast, again from the start until they last `least_s` seconds or are very many."""
    r = load.requests
    arrivals = (np.array(r.arrival_s) - r.arrival_s[0]) / factor
    span = float(arrivals[-1]) * len(r) / max(1, len(r) - 1)  # up to the first request of the next round
    rounds = max(1, min(_MOST // len(r), ceil(least_s / span)))
    times = np.concatenate([arrivals + n * span for n in range(rounds)])
    repeated = Requests(
        tuple(float(t) for t in times), r.input_tokens * rounds, r.output_tokens * rounds, r.prefix * rounds
    )
    return replace(load, requests=repeated)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that a load misses, and the most of it that would meet them: a rate, or clients of a closed loop."""

    attained_share: float  # of the warm requests, within both
    meets_at_requests_per_s: float | None
    meets_at_clients: int | None
    said: str  # what would meet them, or that nothing does

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "attained_share": self.attained_share,
            "meets_at_requests_per_s": self.meets_at_requests_per_s,
            "meets_at_clients": self.meets_at_clients,
        }


def limits_of(serve: Serve, load: Workload, slo: Slo, attained_share: float) -> Limits:
    """What of a load that misses the limits would meet them; at most eight shorter runs tell."""
    if load.requests.after and load.rate_per_s:
        said = "what would meet them is not looked for: conversations take their time to be many; try other rates"
        return Limits(attained_share, None, None, said)
    if not load.clients and not load.rate_per_s:
        why = "requests are sent when others are answered" if load.requests.after else "all requests come at once"
        return Limits(attained_share, None, None, f"no rate to look for, {why}")
    alone = of_clients(load, 1)
    run = serve(alone)
    if not run.log.served or not _meets(run, alone, slo):
        return Limits(attained_share, None, None, "a single client misses them too")
    if load.clients:
        clients = _most_clients(serve, load, slo)
        return Limits(attained_share, None, clients, f"{clients:,} client{'s' if clients > 1 else ''} would meet them")
    low = _ALONE / float(latencies_of(run).e2e_s.mean())
    rate = _most_per_s(serve, load, slo, min(low, 0.5 * load.rate_per_s))
    if rate is None:
        return Limits(attained_share, None, None, f"{low:.3g} requests/s would miss them too")
    return Limits(attained_share, rate, None, f"{rate:.3g} requests/s would meet them")


def _meets(run: ServeRun, load: Workload, slo: Slo) -> bool:
    return bool(run.log.served) and holds(run, load, slo, warm_up_of(run, load).requests)


def _most_clients(serve: Serve, load: Workload, slo: Slo) -> int:
    """Clients of a loop that one client meets the limits of, and all together miss."""
    low, high = 1, load.clients
    for _ in range(_TRIALS):
        middle = round(sqrt(low * high))
        if middle in (low, high):
            middle = (low + high) // 2
        if high - low <= 1:
            break
        trial = of_clients(load, middle)
        low, high = (middle, high) if _meets(serve(trial), trial, slo) else (low, middle)
    return low


def _most_per_s(serve: Serve, load: Workload, slo: Slo, low: float) -> float | None:
    """The largest rate above `low`, which is not tried, that was found to meet the limits."""
    high, found = load.rate_per_s, None
    for _ in range(_TRIALS):
        middle = sqrt(low * high)
        trial = at_rate(load, middle)
        if _meets(serve(trial), trial, slo):
            low = found = middle
        else:
            high = middle
    return found


def of_clients(load: Workload, clients: int) -> Workload:
    """A closed loop of that many clients with the load's own lengths, again from the start where there are fewer."""
    r = load.requests
    count = max(_LEAST, min(_PER_CLIENT * clients, max(_FEW_PER_CLIENT * clients, _TRIAL_REQUESTS)))
    inputs, outputs, prefix = (
        tuple(column[i % len(r)] for i in range(count)) for column in (r.input_tokens, r.output_tokens, r.prefix)
    )
    return replace(load, requests=Requests((0.0,) * count, inputs, outputs, prefix), clients=clients)


def at_rate(load: Workload, rate_per_s: float) -> Workload:
    """The first requests of a load at another rate; who thinks before a request takes the same time for it."""
    r = load.requests.first(_TRIAL_REQUESTS)
    factor, alone = load.rate_per_s / rate_per_s, r.after or (-1,) * len(r)
    times = tuple(t * factor if before < 0 else t for t, before in zip(r.arrival_s, alone, strict=True))
    return replace(load, requests=replace(r, arrival_s=times))
