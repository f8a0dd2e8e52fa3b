"""Accounts of a run: which part of the time went where, dollars and joules per token."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.hwmodels.gpu import GpuSpec
from moesim.hwmodels.power_and_money import (
    Price,
    at_the_meter,
    busy_w,
    energy_note,
    gpu_hours,
    idle_w,
    usd_per_million,
    usd_per_million_output_tokens,
)
from moesim.sim.serve.job import Deployment
from moesim.sim.serve.replica import Replica
from moesim.sim.serve.simulate import Machine, ServeRun
from moesim.sim.serve.workload import SERVED, RequestLog

Floats = npt.NDArray[np.float64]
_LATE = 0.2  # assumed: an open loop whose last tenth waits that share of the run longer than its first is backlogged


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and quantiles (50, 90, 99 %) of one latency over the requests that count, seconds; zeros where none does."""

    mean: float
    p50: float
    p90: float
    p99: float

    def to_dict(self) -> dict[str, float]:
        """Ready for JSON."""
        return {"mean": self.mean, "p50": self.p50, "p90": self.p90, "p99": self.p99}


def spread(values: Floats) -> Spread:
    """Mean and quantiles of at least one value; zeros for none."""
    if not len(values):
        return Spread(0.0, 0.0, 0.0, 0.0)
    p50, p90, p99 = (float(v) for v in np.quantile(values, (0.5, 0.9, 0.99)))
    return Spread(float(values.mean()), p50, p90, p99)


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds of every request that counts, in order of arrival. tpot_s leaves out requests of a single token."""

    arrival_s: Floats
    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats
    tokens: Floats  # output tokens of each
    turned_away: int = 0  # requests beside those: rejected, or given up


def latencies(log: RequestLog, skip: int = 0, stream_tokens: float = 1.0) -> Latencies:
    """Latencies of answered requests as clients see them, without the first `skip` of all requests.

    An engine that sends tokens in groups delays the first: tokens of a request come at even distances.
    """
    arrival, first = np.array(log.arrival_s)[skip:], np.array(log.first_s)[skip:]
    finish, output = np.array(log.finish_s)[skip:], np.array(log.output, dtype=np.float64)[skip:]
    if log.served < len(log):
        answered = np.frombuffer(log.status, dtype=np.uint8)[skip:] == SERVED
        arrival, first, finish, output = (column[answered] for column in (arrival, first, finish, output))
    away = max(0, len(log) - skip) - len(arrival)
    several = output > 1
    waited = np.minimum(stream_tokens, output) - 1.0
    first = first + (finish - first) * waited / np.maximum(1.0, output - 1.0)
    tpot = (finish[several] - first[several]) / (output[several] - 1.0)
    return Latencies(arrival, first - arrival, tpot, finish - arrival, output, away)


def latencies_of(run: ServeRun, skip: int = 0) -> Latencies:
    """Latencies of a run as its clients see them, without its first `skip` requests."""
    return latencies(run.log, skip, run.stream_tokens)


def goodput_per_s(run: ServeRun, attained_share: float) -> float:
    """Requests per second within the limits: all that came, by the share of the warm ones that met both."""
    return attained_share * len(run.log) / max(span_s(run), 1e-12)


def steady_tokens_per_s(run: ServeRun, skip: int = 0) -> float | None:
    """Output tokens per second while requests still come: of those that end after the first warm arrival.

    None where all come at once: nothing ends before the last has come.
    """
    arrival, finish = np.array(run.log.arrival_s), np.array(run.log.finish_s)
    served = np.frombuffer(bytes(run.log.status), dtype=np.uint8) == SERVED
    begin, end = float(arrival[skip:].min()), float(arrival.max())
    inside = served & (finish > begin) & (finish <= end)
    if end <= begin or not inside.any():
        return None
    return float(np.array(run.log.output)[inside].sum()) / (end - begin)


STABLE, BACKLOGGED, OVERLOADED, MISSES = "stable", "backlogged", "overloaded", "misses its limits"
BEGINNING = "only the beginning"  # conversations that are too few to say any of it
QUEUED = (BACKLOGGED, OVERLOADED)  # labels of a queue that grows


def label_of(
    timings: Latencies,
    rate_per_s: float,
    capacity_per_s: float,
    closed: bool,
    misses: bool = False,
    beginning: bool = False,
) -> str:
    """overloaded (more comes than can ever be served), backlogged (the queue grew during the run), misses its limits or
    stable. `misses`: fewer requests than asked are within limits that were stated; a closed loop can only miss them.
    `beginning`: what was served shows how conversations begin: users who all begin at once decide nothing; at a rate,
    fewer come than will, so that only limits that are missed already are.
    """
    calm = MISSES if misses else STABLE
    if beginning and not (misses and rate_per_s > 0.0):
        calm = BEGINNING
    if closed or rate_per_s <= 0.0:
        return calm
    if rate_per_s > capacity_per_s:
        return OVERLOADED
    if not len(timings.ttft_s):
        return calm
    tenth = max(1, len(timings.ttft_s) // 10)
    span = float(timings.arrival_s[-1] - timings.arrival_s[0])
    grown = float(timings.ttft_s[-tenth:].mean() - timings.ttft_s[:tenth].mean())
    return BACKLOGGED if span > 0 and grown > _LATE * span else calm


def span_s(run: ServeRun) -> float:
    """Seconds from the first arrival to the last token."""
    return max(run.log.finish_s) - min(run.log.arrival_s)


def decode_shares(machine: Machine, replica: Replica) -> dict[str, float]:
    """Seconds of the decode passes of a replica by part."""
    total: dict[str, float] = {}
    for batch, steps in replica.steps_at.items():
        cached = replica.cached_steps / max(1, sum(replica.steps_at.values()))
        for part, seconds in machine.costs.decode_parts(batch, cached).items():
            total[part] = total.get(part, 0.0) + steps * seconds
    return total


def utilisation(run: ServeRun) -> dict[str, float]:
    """Share of the wall time of all replicas by part; what carries prompts is one part, idle the rest."""
    span, pools = span_s(run), run.workers
    whole = span * len(pools)
    shares: dict[str, float] = {}
    for machine, replica in pools:
        parts = decode_shares(machine, replica)
        scale = (replica.busy_s - replica.prefill_busy_s) / (sum(parts.values()) or 1.0)
        parts = {name: seconds * scale for name, seconds in parts.items()} | {"prefill": replica.prefill_busy_s}
        for name, seconds in parts.items():
            shares[name] = shares.get(name, 0.0) + seconds / whole
    shares = dict(sorted(shares.items(), key=lambda item: -item[1]))
    return shares | {"idle": max(0.0, 1.0 - sum(shares.values()))}


def costs_of(run: ServeRun, deployment: Deployment, price: Price | None) -> dict[str, float | str]:
    """Dollars and joules of a run. Workers of pools weigh as much as they have GPUs; GPUs beside the pools idle.

    Of the split by passes, prompts pay for those that carry them, outputs for the rest; all other figures are of all.
    """
    gpu, span = run.machine.job.cluster.gpu, span_s(run)
    prompts, outputs = float(run.log.prompt_total), float(run.log.output_total)
    price = price_of_all(deployment, price)
    busy, with_prompts = _busy_gpu_s(run)
    joules = _joules(run, deployment, span)
    hours = gpu_hours(deployment.paid_gpus, span)
    cost: dict[str, float | str] = {
        "gpu_hours": hours,
        "energy_joules": joules,
        "facility_energy_joules": at_the_meter(joules),
        "joules_per_output_token": joules / outputs,
        "facility_joules_per_output_token": at_the_meter(joules) / outputs,
        "energy_note": energy_note(gpu, "serving"),
    }
    if price is not None:
        share = min(1.0, with_prompts / (busy or 1.0))
        each = {
            "usd_per_million_tokens": usd_per_million(price, hours, prompts + outputs),
            "usd_per_million_output_tokens": usd_per_million_output_tokens(price, hours, outputs),
            "prompt_steps_usd_per_million_input_tokens": usd_per_million(price, hours * share, prompts),
            "other_steps_usd_per_million_output_tokens": usd_per_million(price, hours * (1.0 - share), outputs),
        }
        cost |= {"usd_per_gpu_hour": price.usd_per_gpu_hour, "price_source": price.source}
        cost |= {name: value for name, value in each.items() if value is not None}
    return cost


def _busy_gpu_s(run: ServeRun) -> tuple[float, float]:
    """GPU-seconds of all passes, and of those that carry prompts, of workers by their GPUs."""
    busy = sum(machine.job.gpus * r.busy_s for machine, r in run.workers)
    return busy, sum(machine.job.gpus * r.prefill_busy_s for machine, r in run.workers)


def price_of_all(deployment: Deployment, price: Price | None) -> Price | None:
    """`price` of the cluster's GPUs; where pools have machines of their own, the mean over all GPUs that are paid."""
    own = [group for group in deployment.groups if group.own]
    if price is None or not own or any(group.price is None for group in own):
        return price if not own else None
    rest = deployment.paid_gpus - sum(group.gpus for group in own)
    dollars = rest * price.usd_per_gpu_hour
    texts = [f"{rest} GPUs at {price.usd_per_gpu_hour:g} ({price.source})"]
    for group in own:
        assert group.price is not None  # asked above
        dollars += group.gpus * group.price.usd_per_gpu_hour
        texts.append(f"{group.gpus} at {group.price.usd_per_gpu_hour:g} ({group.price.source})")
    return replace(price, usd_per_gpu_hour=dollars / deployment.paid_gpus, source="mean of " + ", ".join(texts))


def _joules(run: ServeRun, deployment: Deployment, span: float) -> float:
    """Of the GPUs alone: busy ones and waiting ones draw different power, and so do unlike ones."""
    busy_s: dict[str, float] = {}
    gpus: dict[str, GpuSpec] = {}
    for machine, replica in run.workers:
        gpu = machine.job.cluster.gpu
        gpus[gpu.name] = gpu
        busy_s[gpu.name] = busy_s.get(gpu.name, 0.0) + machine.job.gpus * replica.busy_s
    paid: dict[str, float] = {}
    for group in deployment.groups:
        name = group.job.cluster.gpu.name
        paid[name] = paid.get(name, 0.0) + group.gpus
    main = next((g.job.cluster.gpu.name for g in deployment.groups if not g.own), deployment.job.cluster.gpu.name)
    paid[main] = paid.get(main, 0.0) + deployment.idle_gpus
    joules = 0.0
    for name, gpu in gpus.items():
        busy = min(paid[name] * span, busy_s[name])
        joules += busy_w(gpu, "serving") * busy + idle_w(gpu) * (paid[name] * span - busy)
    return joules
