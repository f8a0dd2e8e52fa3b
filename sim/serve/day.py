"""predict_day: a deployment through a day of traffic, with replicas that come and go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np

from moesim.sim.question.request_sections import MAX_REQUESTS, RequestsAsk
from moesim.sim.question.scenario import Asked, Scenario, ScenarioError, scenario_of
from moesim.sim.question.serving_sections import AutoscaleAsk
from moesim.sim.serve.capacity import drained_per_s
from moesim.sim.serve.cold_start import cold_start
from moesim.sim.serve.day_answer import DayAsked, DayPrediction, day_answer
from moesim.sim.serve.job import ResolvedServe
from moesim.sim.serve.kv_tiers import caching_said
from moesim.sim.serve.replica import Replica
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.scaling import Loss, Scaler, ScalingDispatch
from moesim.sim.serve.simulate import (
    PricedJobs,
    ServeRun,
    first_together,
    front_of,
    keep_prefixes,
    keeper_of,
    log_of,
    machines_of,
    router_of,
)
from moesim.sim.serve.workload import Workload, lengths, workload_of
from moesim.sim.software.stack import Tuning
from moesim.traces.day import Day, load_day
from moesim.traces.day_requests import DAY_S, HOUR_S, day_arrivals, expected_per_s
from moesim.traces.requests import Requests
from moesim.traces.rng import stream

_MOST = 4_000_000  # requests that are kept in less than a gibibyte
_DAYS = 31
_SHARED = ("sessions", "reuse")  # kinds of loads whose prompts share beginnings
Show = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class _Fleet:
    """What a day is run with."""

    resolved: ResolvedServe
    ask: AutoscaleAsk
    day: Day
    load: Workload
    tuning: Tuning
    priced: PricedJobs


def predict_day(
    scenario: Asked, traffic: str | Path | Day, *, days: int = 1, progress: Show | None = None
) -> DayPrediction:
    """Predict how a deployment serves whole days of traffic: replicas, latencies, service level and money by interval.

    scenario: a file's path, a mapping or a Scenario, with a serve section; its requests say how long prompts and
    answers are, its `autoscale` how many replicas there are: without, all that its cluster holds, all day.
    traffic: a CSV of hour,requests_per_s[,input_tokens,output_tokens], or 24 hours.
    days: how many such days follow each other. progress: called with what is done, minutes so far, minutes in all.

    Raises what `predict_serve` raises, BadTrace for an unreadable table.
    """
    scenario = scenario_of(scenario)
    day = load_day(traffic) if isinstance(traffic, (str, Path)) else traffic
    if scenario.serve is None:
        raise ScenarioError("the scenario has no serve section; add serve: {engine: vllm, requests: {...}}")
    if isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= _DAYS:
        raise ScenarioError(f"days={days!r} must be a whole number from 1 to {_DAYS}")
    if scenario.serve.pools is not None:
        raise ScenarioError("serve.pools: a day of traffic is served by replicas; leave pools out")
    fixed = scenario.serve.autoscale is None
    fleet = _fleet(scenario, day, days)
    scaler = _scaler(fleet)
    run, dispatch = _run(fleet, scaler, days, progress)
    asked = DayAsked(
        day, days, scaler, fixed, cold_start(fleet.resolved.deployment.job, fleet.ask.cold_start, fleet.tuning)
    )
    return day_answer(fleet.resolved, asked, run, dispatch.watch)


def _fleet(scenario: Scenario, day: Day, days: int) -> _Fleet:
    serve = scenario.serve
    assert serve is not None
    resolved = resolve_serve(scenario, scaled=True)
    said = tuple(line for line in resolved.assumptions if not line.startswith("requests.count"))  # the table says it
    resolved = replace(resolved, assumptions=said)
    replicas = resolved.deployment.replicas
    ask = serve.autoscale or AutoscaleAsk(least=replicas, most=replicas)
    each = resolved.deployment.job.gpus
    if ask.most * each > scenario.cluster.gpus:
        raise ScenarioError(
            f"serve.autoscale.most={ask.most} replicas of {each} GPUs are more than cluster.gpus="
            f"{scenario.cluster.gpus}; give fewer, or a cluster of {ask.most * each}"
        )
    load = _load(scenario, resolved, day, days)
    resolved = replace(resolved, assumptions=(*resolved.assumptions, *_sharing_said(resolved, load)))
    return _Fleet(resolved, ask, day, load, resolved.tuning(), PricedJobs())


def _load(scenario: Scenario, resolved: ResolvedServe, day: Day, days: int) -> Workload:
    """Arrivals of the table; lengths of the scenario's load, or of the table's hours."""
    assert scenario.serve is not None
    ask = scenario.serve.requests
    coming = days * HOUR_S * sum(hour.requests_per_s for hour in day)
    if coming > _MOST:  # before they are drawn
        raise ScenarioError(
            f"traffic of {coming:,.3g} requests is more than {_MOST:,}; scale the table down, and the replicas with it"
        )
    arrivals = day_arrivals(day, ask.seed, days)
    if not len(arrivals):
        raise ScenarioError("traffic so thin that no request came; give more requests per second")
    count = len(arrivals)
    if ask.kind in _SHARED:
        return _load_that_shares(ask, resolved, arrivals)
    if day[0].input_tokens is not None:
        inputs, outputs = _by_hour(day, arrivals, ask.seed)
    elif ask.kind in ("closed", "offline", "poisson", "gamma"):
        inputs, outputs = lengths(ask, count)
    else:
        base = resolved.workload.requests
        times = -(-count // len(base))
        inputs, outputs = (base.input_tokens * times)[:count], (base.output_tokens * times)[:count]
    return Workload(Requests(tuple(arrivals.tolist()), inputs, outputs, (0,) * count), seed=ask.seed)


def _load_that_shares(ask: RequestsAsk, resolved: ResolvedServe, arrivals: np.ndarray) -> Workload:
    """As many requests of conversations, or of prompts that share, as the table has; they begin when it says."""
    if len(arrivals) > MAX_REQUESTS:
        raise ScenarioError(
            f"traffic of {len(arrivals):,} requests of kind {ask.kind} is more than {MAX_REQUESTS:,}; scale it down"
        )
    steady = ask.model_copy(update={"count": len(arrivals), "rate_per_s": 1.0, "concurrency": None})
    r = workload_of(steady, resolved.deployment.job.arch)[0].requests
    begins = np.array([i for i in range(len(r)) if not r.after or r.after[i] < 0])
    times = np.array(r.arrival_s)
    share = times[begins] / (times[begins].max() * (1.0 + 1.0 / len(begins)))
    times[begins] = np.interp(share, np.linspace(0.0, 1.0, len(arrivals)), arrivals)
    return Workload(replace(r, arrival_s=tuple(times.tolist())), seed=ask.seed)


def _sharing_said(resolved: ResolvedServe, load: Workload) -> list[str]:
    """What a table of traffic leaves out of the scenario's load."""
    base, kind = resolved.workload.requests, resolved.ask.requests.kind
    said = caching_said(resolved.deployment, load)
    given = resolved.ask.requests.model_fields_set
    unused = [key for key in ("rate_per_s", "cv", "count") if key in given]
    if unused:
        said.append(f"requests.{', requests.'.join(unused)}: not used, traffic says how many come and when")
    if kind in _SHARED:
        return [
            *said,
            f"requests of kind {kind}: as many as the table has; they begin when it says, and are as long as drawn",
        ]
    if base.after or base.chains is not None or any(base.prefix):
        said.append(
            f"requests of kind {resolved.ask.requests.kind}: only how long they are counts, traffic says when they "
            "come; nothing is taken to be shared by prompts"
        )
    return said


def _by_hour(day: Day, arrivals: np.ndarray, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Exponential lengths with the means of each hour."""
    hour = (arrivals // 3600.0).astype(np.int64) % len(day)
    drawn = stream(seed, "requests.day.lengths").standard_exponential((2, len(arrivals)))
    means = np.array([[h.input_tokens or 1, h.output_tokens or 1] for h in day], dtype=np.float64).T
    rows = np.maximum(1, np.rint(drawn * means[:, hour])).astype(np.int64)
    return tuple(rows[0].tolist()), tuple(rows[1].tolist())


def _scaler(fleet: _Fleet) -> Scaler:
    ask, deployment = fleet.ask, fleet.resolved.deployment
    few = Workload(_some(fleet.load.requests, 4000))
    each = drained_per_s(replace(deployment, replicas=1), few, fleet.tuning, fleet.priced)
    parts = cold_start(deployment.job, ask.cold_start, fleet.tuning)
    day = fleet.day
    return Scaler(
        least=ask.least,
        most=ask.most,
        interval_s=ask.interval_s,
        worker_per_s=each,
        used_share=ask.used_share,
        cold_start_s=sum(parts.values()),
        keep_s=ask.keep_s,
        forecast=(lambda time_s: expected_per_s(day, time_s)) if ask.by == "predicted" else None,
    )


def _some(r: Requests, count: int) -> Requests:
    step = max(1, len(r) // count)
    columns = (r.arrival_s, r.input_tokens, r.output_tokens, r.prefix)
    return Requests(*(column[::step] for column in columns))  # type: ignore[arg-type]  # floats first, then whole numbers


def _run(fleet: _Fleet, scaler: Scaler, days: int, progress: Show | None) -> tuple[ServeRun, ScalingDispatch]:
    deployment, load = fleet.resolved.deployment, fleet.load
    log = log_of(load, deployment.admission)
    machine = machines_of(deployment.job, 1, 0, load, fleet.tuning, deployment.kv_blocks, fleet.priced)[0]
    began = max(
        1,
        min(
            scaler.most,
            max(scaler.least, ceil(expected_per_s(fleet.day, 0.0) / (scaler.worker_per_s * scaler.used_share))),
        ),
    )
    workers: list[Replica] = [machine.replica(log) for _ in range(began)]
    router = router_of(deployment.router, workers, load)

    keeper = keeper_of(deployment, load, fleet.tuning, router)

    def made(n: int) -> Replica:
        worker = machine.replica(log)
        worker.prefix = keeper(n, machine, n * machine.job.gpus)
        return worker

    keep_prefixes(keeper, [(machine, w) for w in workers])
    dispatch = ScalingDispatch(
        log, workers, front_of(deployment.job, fleet.tuning), router, scaler, made
    )  # fmt: skip
    if deployment.admission.queue_limit is not None:
        dispatch.most = deployment.admission.queue_limit
    dispatch.lose(_losses(fleet, days), fleet.ask.retry_s)
    if progress is not None:
        minutes = days * 24 * 60
        dispatch.told = lambda time_s: progress("minutes of the day", min(minutes, int(time_s / 60.0)), minutes)
    dispatch.run()
    run = ServeRun(
        log,
        [machine] * len(workers),
        workers,
        stream_tokens=first_together(deployment.job, fleet.tuning),
        router=router,
    )
    return run, dispatch


def _losses(fleet: _Fleet, days: int) -> list[Loss]:
    """Replicas and hosts that are lost, at times without memory, drawn from the load's seed."""
    job = fleet.resolved.deployment.job
    beside = max(1, job.cluster.gpus_per_host // job.gpus)
    losses = []
    for name, per_day, together in (
        ("replicas", fleet.ask.failures_per_day, 1), ("hosts", fleet.ask.node_failures_per_day, beside)
    ):  # fmt: skip
        rng = stream(fleet.load.seed, f"day.failures.{name}")
        count = int(rng.poisson(per_day * days))
        times, which = np.sort(rng.random(count)) * DAY_S * days, rng.integers(0, 1 << 30, count)
        losses += [Loss(float(t), int(n), together) for t, n in zip(times, which, strict=True)]
    return sorted(losses, key=lambda loss: loss.at_s)
