"""DayPrediction: what a day of traffic was like, interval by interval, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from moesim.hwmodels.interval import Sureness
from moesim.hwmodels.power_and_money import at_the_meter, busy_w, idle_w, usd
from moesim.sim.serve.accounts import Latencies, Spread, latencies_of, spread
from moesim.sim.serve.band import serve_sureness
from moesim.sim.serve.cache_account import cache_account
from moesim.sim.serve.cold_start import cold_start_said
from moesim.sim.serve.job import ResolvedServe
from moesim.sim.serve.scaling import Scaler, Watch
from moesim.sim.serve.simulate import ServeRun
from moesim.sim.serve.workload import REJECTED, TIMED_OUT
from moesim.traces.day import Day
from moesim.traces.day_requests import DAY_S

_SHARE = 0.9  # assumed: of an interval's requests that must be served within the limits, as in sim/serve/slo.py
_PARTS = 96  # of the time, for which the answer is told apart


@dataclass(frozen=True, slots=True)
class DayAsked:
    """The question as it was run."""

    day: Day
    days: int
    scaler: Scaler
    fixed: bool  # the number of replicas
    cold_start_s: dict[str, float]  # by part


@dataclass(frozen=True, slots=True, kw_only=True)
class DayPart:
    """One piece of the time: requests that came in it. Zeros where none came."""

    begin_s: float
    requests: int
    requests_per_s: float
    ready_replicas: float  # that took requests, mean
    paid_replicas: float  # that cost money, mean
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_mean_s: float
    attained_share: float  # of the requests, within both limits of serve.slo


@dataclass(frozen=True, slots=True, kw_only=True)
class DayPrediction:
    """A deployment through days of traffic. Latencies in seconds, as clients see them; money in US dollars."""

    ttft_s: Spread
    tpot_s: Spread
    requests: int  # that came
    rejected: int
    timed_out: int
    retried: int  # sent again because their replica was lost
    lost_replicas: int
    attained_share: float  # of all requests, within both limits
    replicas: tuple[int, int]  # fewest and most that took requests
    replica_hours: float  # paid
    fixed_replica_hours: float  # that as many replicas as were ready at the busiest time would cost all the time
    gpu_hours: float
    usd: float | None  # None where the GPU has no price
    fixed_usd: float | None
    usd_per_million_output_tokens: float | None
    # p10, p50 and p90 of gpu_hours, usd and usd_per_million_output_tokens, from how sure what one replica serves is;
    # empty for a number of replicas that is fixed: their hours are as asked
    intervals: Mapping[str, Mapping[str, float]]
    energy_joules: float  # at the meter
    cache: dict[str, Any]  # of prompts (sim/serve/cache_account.py); empty where requests do not say what they share
    overloaded_since_s: float | None  # from then on to the end, less than 90 % of any part's requests met the limits
    parts: tuple[DayPart, ...]
    cold_start_s: dict[str, float]
    assumptions: tuple[str, ...]
    resolved: ResolvedServe = field(repr=False)
    run: ServeRun = field(repr=False)
    watch: Watch = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        left = ("resolved", "run", "watch", "parts", "ttft_s", "tpot_s", "replicas", "assumptions")
        plain = {name: getattr(self, name) for name in self.__slots__ if name not in left}
        return {
            "model": self.resolved.deployment.job.arch.name,
            "cluster": self.resolved.deployment.job.cluster.name,
            **plain,
            "ttft_s": self.ttft_s.to_dict(),
            "tpot_s": self.tpot_s.to_dict(),
            "least_replicas": self.replicas[0],
            "most_replicas": self.replicas[1],
            "parts": [asdict(part) for part in self.parts],
            "assumptions": list(self.assumptions),
        }


def day_answer(resolved: ResolvedServe, asked: DayAsked, run: ServeRun, watch: Watch) -> DayPrediction:
    """The answer from a finished run."""
    log, slo, job = run.log, resolved.ask.slo, resolved.deployment.job
    seen = latencies_of(run)
    good = _good(seen, slo.ttft_s, slo.tpot_s)
    end_s = max(asked.days * DAY_S, max(log.finish_s))
    parts = _parts(np.array(log.arrival_s), seen, good, watch, asked.days * DAY_S)
    alive_s = [min(life.end_s, end_s) - life.begin_s for life in watch.lives]
    paid_h, ready = sum(alive_s) / 3600.0, _ready_counts(watch)
    fixed_h = ready[1] * end_s / 3600.0
    gpus, outputs = job.gpus, log.output_total
    price = resolved.price
    busy_s = sum(r.busy_s for r in run.replicas) * gpus
    joules = busy_w(job.cluster.gpu, "serving") * busy_s
    joules += idle_w(job.cluster.gpu) * max(0.0, paid_h * 3600.0 * gpus - busy_s)
    cost = None if price is None else usd(price, paid_h * gpus)
    each = None if cost is None or not outputs else cost / outputs * 1e6
    sure = serve_sureness(resolved.deployment, replace(resolved.workload, clients=0))["output_tokens_per_s"]
    hours = {} if asked.fixed else _hours_by_quantile(asked.scaler, watch, sure)
    of = {"gpu_hours": paid_h * gpus, "usd": cost, "usd_per_million_output_tokens": each}
    return DayPrediction(
        ttft_s=spread(seen.ttft_s),
        tpot_s=spread(seen.tpot_s),
        requests=len(log),
        rejected=log.status.count(REJECTED),
        timed_out=log.status.count(TIMED_OUT),
        retried=watch.retried,
        lost_replicas=watch.lost,
        attained_share=float(good.sum()) / len(log),
        replicas=ready,
        replica_hours=paid_h,
        fixed_replica_hours=fixed_h,
        gpu_hours=paid_h * gpus,
        usd=cost,
        fixed_usd=None if price is None else usd(price, fixed_h * gpus),
        usd_per_million_output_tokens=each,
        intervals={
            name: {quantile: value * share for quantile, share in hours.items()}
            for name, value in of.items()
            if value is not None and hours
        },
        energy_joules=at_the_meter(joules),
        cache=cache_account(run),
        overloaded_since_s=_overloaded_since(parts),
        parts=parts,
        cold_start_s=asked.cold_start_s,
        assumptions=(*_said(asked), *_sure_said(asked, sure), *resolved.assumptions),
        resolved=resolved,
        run=run,
        watch=watch,
    )


def _said(asked: DayAsked) -> list[str]:
    scaler = asked.scaler
    each = f"one replica serves {scaler.worker_per_s:.3g} requests/s with a full queue"
    if asked.fixed:
        return [f"replicas: {scaler.least} all the time (serve.autoscale is not stated); {each}"]
    on = "the traffic table" if scaler.forecast is not None else "the requests of the last interval"
    return [
        f"replicas: {scaler.least} to {scaler.most}, by {on}, each at {scaler.used_share:.0%} of its capacity; {each}",
        cold_start_said(asked.cold_start_s),
    ]


def _hours_by_quantile(scaler: Scaler, watch: Watch, sure: Sureness) -> dict[str, float]:
    """Replica-hours over those of the run where a replica serves more (p10 of the hours) or less (p90) than predicted.

    The replicas that the same rule would want for the requests that came, interval by interval.
    """

    def wanted(factor: float) -> int:
        other = replace(scaler, worker_per_s=scaler.worker_per_s * factor)
        return sum(other.wanted(each.time_s, each.came, 0) for each in watch.intervals)

    if not watch.intervals:
        return {}
    off, now = sure.p10_to_p90(1.0), wanted(1.0)
    return {name: wanted(off[other]) / now for name, other in (("p10", "p90"), ("p50", "p50"), ("p90", "p10"))}


def _sure_said(asked: DayAsked, sure: Sureness) -> list[str]:
    if asked.fixed:
        return [
            "GPU-hours and dollars: of replicas that are there all the time, as asked; how well they serve is not sure"
        ]
    return [
        f"p10 to p90: how far off output tokens/s of unseen sources were, class {sure.band}; replicas by the same rule "
        "for the same requests, cold starts, losses and waits in proportion"
    ]


def _good(seen: Latencies, ttft_s: float, tpot_s: float) -> Any:
    each = (seen.e2e_s - seen.ttft_s) / np.maximum(1.0, seen.tokens - 1.0)
    return (seen.ttft_s <= ttft_s) & (each <= tpot_s)


def _ready_counts(watch: Watch) -> tuple[int, int]:
    """Fewest and most replicas that took requests at any time."""
    moves = sorted(
        [(life.ready_s, 1) for life in watch.lives] + [(min(life.closed_s, life.end_s), -1) for life in watch.lives]
    )
    now, counts = 0, []
    last_s = 0.0
    for time_s, step in moves:
        if time_s > last_s and time_s < float("inf"):
            counts.append(now)
        last_s, now = time_s, now + step
        if time_s == float("inf"):
            break
    counts.append(sum(life.ready_s < float("inf") and life.closed_s == float("inf") for life in watch.lives))
    return min(counts), max(counts)


def _covered(begins: Any, ends: Any, lo: float, hi: float) -> float:
    """Mean number of spans that cover a stretch of time."""
    return float(np.clip(np.minimum(ends, hi) - np.maximum(begins, lo), 0.0, None).sum() / (hi - lo))


def _parts(came_s: Any, seen: Latencies, good: Any, watch: Watch, span_s: float) -> tuple[DayPart, ...]:
    edges = np.linspace(0.0, span_s, _PARTS + 1)
    order = np.argsort(seen.arrival_s, kind="stable")  # answers cause requests: these are not in order of arrival
    arrival_s, first, good = seen.arrival_s[order], seen.ttft_s[order], good[order]
    at, came = np.searchsorted(arrival_s, edges), np.diff(np.searchsorted(np.sort(came_s), edges))
    lives = np.array([(life.begin_s, life.ready_s, min(life.closed_s, life.end_s), life.end_s) for life in watch.lives])
    each = ((seen.e2e_s - seen.ttft_s) / np.maximum(1.0, seen.tokens - 1.0))[order]
    parts = []
    for n in range(_PARTS):
        of, lo, hi = slice(at[n], at[n + 1]), float(edges[n]), float(edges[n + 1])
        count, ttft = int(came[n]), first[of]  # all that came, and those that were answered
        p50, p99 = (float(v) for v in np.quantile(ttft, (0.5, 0.99))) if len(ttft) else (0.0, 0.0)
        parts.append(
            DayPart(
                begin_s=lo,
                requests=count,
                requests_per_s=count / (hi - lo),
                ready_replicas=_covered(lives[:, 1], lives[:, 2], lo, hi),
                paid_replicas=_covered(lives[:, 0], lives[:, 3], lo, hi),
                ttft_p50_s=p50,
                ttft_p99_s=p99,
                tpot_mean_s=float(each[of].mean()) if len(ttft) else 0.0,
                attained_share=float(good[of].sum()) / count if count else 0.0,
            )
        )
    return tuple(parts)


def _overloaded_since(parts: tuple[DayPart, ...]) -> float | None:
    """The beginning of the stretch up to the end in which every part missed the limits; None where the last did not."""
    since = None
    for part in reversed(parts):
        if not part.requests:
            continue
        if part.attained_share >= _SHARE:
            break
        since = part.begin_s
    return since
