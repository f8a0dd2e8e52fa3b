"""What if, for serving: one thing about a deployment or its load changed at a time.

Open loops are compared by what they could serve at most (the queue never empty), closed ones by what they serve; the
latencies beside it are those of the asked load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwmodels.gpu import GpuSpec
from hwmodels.profile import Profile, load_profile
from sim.memory import DoesNotFit
from sim.plan.outcome import by_knob, in_order
from sim.scenario import Scenario, ScenarioError, load_scenario, parse_scenario
from sim.serve.accounts import decode_shares
from sim.serve.engine import engine_tuning
from sim.serve.figures_of_merit import spread
from sim.serve.job import SERVE_PRECISIONS, Formats, ServeJob, formats_of
from sim.serve.predict import capacity_per_s
from sim.serve.resolve import Deployment, ResolvedServe, resolve_serve
from sim.serve.simulate import PricedJobs, ServeRun, simulate
from traces.requests import Requests
from traces.routing import Routing

_SKEWS = (0.0, 0.5, 1.0)  # sigma of the popularity of experts (assumed: even, usual, a router with favourites)

Asked = tuple[ResolvedServe, Profile | None]


@dataclass(frozen=True, slots=True)
class ServeOutcome:
    """One change. `speed_factor`: tokens per second over those of the deployment as asked; 0 where it does not fit."""

    knob: str
    change: str
    ttft_s: float
    tpot_s: float
    speed_factor: float
    fits: bool
    usd_factor: float = 1.0

    @property
    def value_factor(self) -> float:
        """Tokens per dollar over those of the deployment as asked; what an upgrade adds to the price is not in it."""
        return self.speed_factor / self.usd_factor


@dataclass(frozen=True, slots=True)
class ServePart:
    """One part of the decode steps: its share of them, and the share of the data sheet's limits that it reaches."""

    part: str
    share: float
    floor_share: float  # of its seconds: FLOPs at peak, weights and caches at full HBM bandwidth; 0: no such floor

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeWhatIf:
    """The deployment as asked, every change, and how near its decode steps are to the data sheet."""

    ttft_s: float
    tpot_s: float
    tokens_per_s: float  # at most, of an open loop
    usd_per_hour: float | None  # of one GPU
    usd_per_million_tokens: float | None  # output
    outcomes: tuple[ServeOutcome, ...]
    parts: tuple[ServePart, ...]
    mean_batch: float

    @property
    def tokens_per_usd(self) -> float | None:
        """Output tokens, of the deployment as asked."""
        return None if self.usd_per_million_tokens is None else 1e6 / self.usd_per_million_tokens

    def by_knob(self) -> list[tuple[str, list[ServeOutcome]]]:
        """Outcomes of every knob together, the one that matters most first."""
        return by_knob(self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        value = self.tokens_per_usd
        plain = ("ttft_s", "tpot_s", "tokens_per_s", "usd_per_million_tokens", "mean_batch")
        return {
            **{name: getattr(self, name) for name in plain},
            "usd_per_gpu_hour": self.usd_per_hour,
            "outcomes": [
                {
                    "knob": o.knob, "change": o.change, "ttft_s": o.ttft_s, "tpot_s": o.tpot_s,
                    "tokens_per_s_factor": o.speed_factor, "fits": o.fits,
                    "tokens_per_usd": None if value is None else value * o.value_factor,
                }
                for o in self.outcomes
            ],
            "roofline": [p.to_dict() for p in self.parts],
        }  # fmt: skip


def _jobs(asked: ResolvedServe, change: Callable[[ServeJob], ServeJob]) -> ResolvedServe:
    """The same change to every job of a deployment."""
    d = asked.deployment
    other: Deployment = replace(d, job=change(d.job), prefill=change(d.prefill) if d.prefill else None)
    return replace(asked, deployment=other)


def _gpu(asked: ResolvedServe, change: Callable[[GpuSpec], GpuSpec]) -> ResolvedServe:
    return _jobs(asked, lambda job: replace(job, cluster=replace(job.cluster, gpu=change(job.cluster.gpu))))


def _flops(asked: ResolvedServe, factor: float) -> Asked:
    def faster(gpu: GpuSpec) -> GpuSpec:
        return replace(gpu, peak_flops_per_s={name: peak * factor for name, peak in gpu.peak_flops_per_s.items()})

    return _gpu(asked, faster), None


def _hbm(asked: ResolvedServe, factor: float) -> Asked:
    return _gpu(asked, lambda gpu: replace(gpu, hbm_bytes_per_s=gpu.hbm_bytes_per_s * factor)), None


def _hbm_size(asked: ResolvedServe, factor: float) -> Asked:
    def larger(gpu: GpuSpec) -> GpuSpec:
        return replace(gpu, hbm_bytes=gpu.hbm_bytes * factor, usable_bytes=gpu.usable_bytes * factor)

    return _gpu(asked, larger), None


def _link(asked: ResolvedServe, factor: float) -> Asked:
    return _gpu(asked, lambda gpu: replace(gpu, scale_up_bytes_per_s=gpu.scale_up_bytes_per_s * factor)), None


def _nic(asked: ResolvedServe, factor: float) -> Asked:
    def faster(job: ServeJob) -> ServeJob:
        return replace(job, cluster=replace(job.cluster, nic_bytes_per_s=job.cluster.nic_bytes_per_s * factor))

    return _jobs(asked, faster), None


def _latency(asked: ResolvedServe, factor: float) -> Asked:
    """Floors of collectives inside a domain, and the fabric's own latency."""
    profile = load_profile(asked.deployment.job.cluster.gpu.name)
    fit = profile.collectives
    slower = replace(
        fit, base_s=fit.base_s * factor, hop_s=fit.hop_s * factor, a2a_base_s=fit.a2a_base_s * factor,
        nvls_base_s=fit.nvls_base_s * factor,
    )  # fmt: skip

    def far(job: ServeJob) -> ServeJob:
        return replace(job, cluster=replace(job.cluster, fabric_latency_s=job.cluster.fabric_latency_s * factor))

    return _jobs(asked, far), replace(profile, collective_fit=slower)


HARDWARE: Mapping[str, Callable[[ResolvedServe, float], Asked]] = {
    "GPU FLOP/s": _flops,
    "HBM bandwidth": _hbm,
    "HBM size": _hbm_size,
    "NVLink bandwidth": _link,
    "NIC bandwidth": _nic,
    "network latency": _latency,
}


def _load(asked: ResolvedServe, factor: float) -> ResolvedServe:
    """More clients, or requests that come faster."""
    load = asked.workload
    r = load.requests
    if load.clients:
        return replace(asked, workload=replace(load, clients=max(1, round(load.clients * factor))))
    arrivals = tuple(float(t) for t in np.array(r.arrival_s) / factor)
    return replace(asked, workload=replace(load, requests=replace(r, arrival_s=arrivals)))


def _lengths(asked: ResolvedServe, inputs: float, outputs: float) -> ResolvedServe:
    r = asked.workload.requests
    other = Requests(
        r.arrival_s,
        tuple(max(1, round(t * inputs)) for t in r.input_tokens),
        tuple(max(1, round(t * outputs)) for t in r.output_tokens),
        tuple(round(t * inputs) for t in r.prefix),
    )
    return replace(asked, workload=replace(asked.workload, requests=other))


def _changes(asked: ResolvedServe, share: float) -> Iterator[tuple[str, str, Asked]]:
    job = asked.deployment.job
    for name, knob in HARDWARE.items():
        far, linked = asked.deployment.gpus > job.cluster.domain, asked.deployment.gpus > 1
        if (name == "NIC bandwidth" and not far) or (name in ("NVLink bandwidth", "network latency") and not linked):
            continue
        for factor in (1.0 - share, 1.0 + share):
            yield name, f"{factor - 1.0:+.0%}", knob(asked, factor)
    if asked.workload.clients or asked.workload.rate_per_s:
        title = "clients" if asked.workload.clients else "request rate"
        for factor in (0.5, 2.0):
            yield title, f"x{factor:g}", (_load(asked, factor), None)
    for factor in (0.5, 2.0):
        if asked.workload.longest * factor <= job.arch.max_context:
            yield "prompt length", f"x{factor:g}", (_lengths(asked, factor, 1.0), None)
    if job.arch.is_moe:
        yield from _skewed(asked)
    yield from _in_other_formats(asked)


def _skewed(asked: ResolvedServe) -> Iterator[tuple[str, str, Asked]]:
    for sigma in _SKEWS:
        routing = Routing() if sigma == 0.0 else Routing(kind="lognormal", sigma=sigma)
        if routing != asked.deployment.job.routing:
            name = "balanced" if sigma == 0.0 else f"lognormal {sigma:g}"
            yield "expert imbalance", name, (_routed(asked, routing), None)


def _in_other_formats(asked: ResolvedServe) -> Iterator[tuple[str, str, Asked]]:
    """Every precision whose formats the GPU has and no other has had."""
    job = asked.deployment.job
    seen = {job.formats}
    for precision in SERVE_PRECISIONS:
        try:
            found = formats_of(precision, asked.ask.kv_dtype, job.arch, job.cluster.gpu, job.engine)
        except ScenarioError:  # this GPU has no such path: no change to offer
            continue
        if found not in seen and precision != "fp16":
            seen.add(found)
            yield "precision", precision, (_formatted(asked, found), None)


def _formatted(asked: ResolvedServe, formats: Formats) -> ResolvedServe:
    return _jobs(asked, lambda job: replace(job, formats=formats))


def _routed(asked: ResolvedServe, routing: Routing) -> ResolvedServe:
    return _jobs(asked, lambda job: replace(job, routing=routing))


def _served(asked: ResolvedServe, profile: Profile | None) -> tuple[ServeRun, float]:
    """The run, and output tokens per second at most."""
    tuning, priced = engine_tuning(), PricedJobs(profile)
    run = simulate(asked.deployment, asked.workload, tuning, priced)
    outputs = float(np.mean(asked.workload.requests.output_tokens))
    return run, capacity_per_s(asked, run, tuning, priced) * outputs


def whatif_serve(scenario: Scenario | dict[str, Any] | str | Path, share: float = 0.2) -> ServeWhatIf:
    """Change one thing at a time, hardware by plus and minus `share`. ScenarioError for shares out of (0, 0.9]."""
    if not 0.0 < share <= 0.9:
        raise ScenarioError(f"share={share:g} must be above 0 and at most 0.9, for example 0.2 for plus and minus 20 %")
    if isinstance(scenario, (str, Path)):
        scenario = load_scenario(scenario)
    elif isinstance(scenario, dict):
        scenario = parse_scenario(scenario)
    asked = resolve_serve(scenario)
    run, rate = _served(asked, None)
    found, gpu = run.latencies(asked.workload.warmup), asked.deployment.job.cluster.gpu
    price = scenario.price_usd_per_gpu_hour or gpu.price_usd_per_hour
    ttft, tpot = spread(found.ttft_s).mean, spread(found.tpot_s).mean
    outcomes = [_outcome(knob, change, other, rate) for knob, change, other in _changes(asked, share)]
    if price is not None:
        for factor in (1.0 - share, 1.0 + share):
            outcomes.append(ServeOutcome("price", f"{factor - 1.0:+.0%}", ttft, tpot, 1.0, True, factor))
    steps = sum(sum(r.steps_at.values()) for r in run.replicas) or 1
    return ServeWhatIf(
        ttft_s=ttft,
        tpot_s=tpot,
        tokens_per_s=rate,
        usd_per_hour=price,
        usd_per_million_tokens=None if price is None else asked.deployment.gpus / rate / 3600.0 * price * 1e6,
        outcomes=in_order(outcomes),
        parts=tuple(_parts(run)),
        mean_batch=sum(b * k for r in run.replicas for b, k in r.steps_at.items()) / steps,
    )


def _outcome(knob: str, change: str, other: Asked, rate: float) -> ServeOutcome:
    try:
        run, own = _served(*other)
    except DoesNotFit:
        return ServeOutcome(knob, change, 0.0, 0.0, 0.0, False)
    found = run.latencies(other[0].workload.warmup)
    return ServeOutcome(knob, change, spread(found.ttft_s).mean, spread(found.tpot_s).mean, own / rate, True)


def _parts(run: ServeRun) -> list[ServePart]:
    """Decode steps of all replicas by part, and the floors under them."""
    seconds: dict[str, float] = {}
    floors: dict[str, float] = {}
    for replica in run.replicas:
        for part, spent in decode_shares(run.machine, replica).items():
            seconds[part] = seconds.get(part, 0.0) + spent
        mean = replica.cached_steps / max(1, sum(replica.steps_at.values()))
        for batch, steps in replica.steps_at.items():
            for part, floor in run.machine.costs.decode_floors(batch, mean).items():
                floors[part] = floors.get(part, 0.0) + steps * floor
    total = sum(seconds.values()) or 1.0
    found = [ServePart(p, s / total, min(1.0, floors.get(p, 0.0) / s) if s else 0.0) for p, s in seconds.items()]
    return sorted(found, key=lambda p: (-p.share, p.part))
