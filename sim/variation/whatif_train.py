"""What if: one thing about a training run changed at a time, and what the change is worth.

Every knob makes another job out of the one that was asked; all are simulated like it. Rates of tokens are compared, so
that batches of different size stay comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from moesim.hwmodels.power_and_money import gpu_hours, usd_per_gpu_hour, usd_per_million
from moesim.hwmodels.profile import NoFit, Profile
from moesim.sim.question.scenario import Asked, number_asked, scenario_of
from moesim.sim.question.sections import PRECISIONS
from moesim.sim.train.fitting import fits, step_fits
from moesim.sim.train.job import TrainJob, resolve
from moesim.sim.train.memory import step_memory
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import simulate_step
from moesim.sim.variation.outcome import by_knob, in_order
from moesim.sim.variation.roofline import PartOfRun, parts_of_run
from moesim.traces.routing import Routing

_SKEWS = (0.25, 0.5)  # sigma of the popularity of experts: an aux loss that works, and one that hardly does (assumed)

Changed = tuple[TrainJob, Profile]
Knob = Callable[[TrainJob, Profile, float], Changed]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One change, and what it does to tokens per second."""

    knob: str  # what is changed, for example "HBM bandwidth"
    change: str  # how, for example "+20%"
    step_time_s: float
    speed_factor: float  # tokens per second over those of the run as asked
    fits: bool  # whether memory is large enough
    usd_factor: float = 1.0  # dollars per GPU-hour over those of the run as asked

    @property
    def value_factor(self) -> float:
        """Tokens per dollar over those of the run as asked; what an upgrade adds to the price is not in it."""
        return self.speed_factor / self.usd_factor


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A training job with one thing changed at a time. Money is None where the GPU has no price."""

    step_time_s: float  # as asked
    tokens_per_s: float  # as asked, of all GPUs
    usd_per_million_tokens: float | None  # as asked
    usd_per_hour: float | None  # of one GPU
    outcomes: tuple[Outcome, ...]  # every change, the largest effect on tokens per dollar first
    parts: tuple[PartOfRun, ...]  # seconds of a step by category, mean rank, and the share of the nearest limit
    free_bytes: float  # memory that the fullest GPU has left; below zero: lacks
    notes: tuple[str, ...] = ()  # how the changes were found

    @property
    def tokens_per_usd(self) -> float | None:
        """Of the run as asked."""
        return None if self.usd_per_million_tokens is None else 1e6 / self.usd_per_million_tokens

    def by_knob(self) -> list[tuple[str, list[Outcome]]]:
        """Outcomes of every knob together, the one that matters most first."""
        return by_knob(self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "step_time_s": self.step_time_s,
            "tokens_per_s": self.tokens_per_s,
            "usd_per_million_tokens": self.usd_per_million_tokens,
            "usd_per_gpu_hour": self.usd_per_hour,
            "free_bytes": self.free_bytes,
            "notes": list(self.notes),
            "outcomes": [
                {
                    "knob": o.knob, "change": o.change, "step_time_s": o.step_time_s,
                    "tokens_per_s_factor": o.speed_factor, "fits": o.fits,
                    "tokens_per_usd": None if not self.tokens_per_usd else self.tokens_per_usd * o.value_factor,
                }
                for o in self.outcomes
            ],
            "roofline": [p.to_dict() for p in self.parts],
        }  # fmt: skip


def _gpu(job: TrainJob, **changes: Any) -> TrainJob:
    return replace(job, cluster=replace(job.cluster, gpu=replace(job.cluster.gpu, **changes)))


def _flops(job: TrainJob, profile: Profile, factor: float) -> Changed:
    peaks = {name: peak * factor for name, peak in job.cluster.gpu.peak_flops_per_s.items()}
    return _gpu(job, peak_flops_per_s=peaks), profile


def _hbm(job: TrainJob, profile: Profile, factor: float) -> Changed:
    return _gpu(job, hbm_bytes_per_s=job.cluster.gpu.hbm_bytes_per_s * factor), profile


def _link(job: TrainJob, profile: Profile, factor: float) -> Changed:
    return _gpu(job, scale_up_bytes_per_s=job.cluster.gpu.scale_up_bytes_per_s * factor), profile


def _nic(job: TrainJob, profile: Profile, factor: float) -> Changed:
    return replace(job, cluster=replace(job.cluster, nic_bytes_per_s=job.cluster.nic_bytes_per_s * factor)), profile


def _latency(job: TrainJob, profile: Profile, factor: float) -> Changed:
    """Floors of collectives inside a domain, and the fabric's own latency."""
    fit = profile.collectives
    slower = replace(
        fit, base_s=fit.base_s * factor, hop_s=fit.hop_s * factor, a2a_base_s=fit.a2a_base_s * factor,
        nvls_base_s=fit.nvls_base_s * factor,
    )  # fmt: skip
    cluster = replace(job.cluster, fabric_latency_s=job.cluster.fabric_latency_s * factor)
    return replace(job, cluster=cluster), replace(profile, collective_fit=slower)


def _hbm_size(job: TrainJob, profile: Profile, factor: float) -> Changed:
    gpu = job.cluster.gpu
    return _gpu(job, hbm_bytes=gpu.hbm_bytes * factor, usable_bytes=gpu.usable_bytes * factor), profile


HARDWARE: Mapping[str, Knob] = {
    "GPU FLOP/s": _flops,
    "HBM bandwidth": _hbm,
    "HBM size": _hbm_size,
    "NVLink bandwidth": _link,
    "NIC bandwidth": _nic,
    "network latency": _latency,
}


def _changes(job: TrainJob, profile: Profile, share: float) -> Iterator[tuple[str, str, Changed]]:
    for name, knob in HARDWARE.items():
        if name == "NIC bandwidth" and job.cluster.domains == 1:
            continue
        for factor in (1.0 - share, 1.0 + share):
            yield name, f"{factor - 1.0:+.0%}", knob(job, profile, factor)
    per_pass = job.micro_batch * job.layout.dp
    for factor in (0.5, 2.0):
        batch = int(job.global_batch * factor)
        even = batch // per_pass % 2 == 0 and batch // per_pass >= 2 * job.layout.pp
        if batch >= per_pass and batch % per_pass == 0 and (job.layout.schedule != "dualpipe" or even):
            yield "global batch", f"x{factor:g}", (replace(job, global_batch=batch), profile)
    if job.arch.is_moe:
        yield from _skewed(job, profile)
    if job.recompute:
        yield "recompute", "nothing", (replace(job, recompute=frozenset()), profile)
    for precision in PRECISIONS:
        if precision not in (job.precision, "fp16", "fp32", "fp8_block") and job.cluster.gpu.supports(precision):
            yield "precision", precision, (replace(job, precision=precision), profile)


def _skewed(job: TrainJob, profile: Profile) -> Iterator[tuple[str, str, Changed]]:
    for sigma in _SKEWS:
        routing = Routing(kind="lognormal", sigma=sigma)
        if job.routing != routing:
            yield "expert imbalance", f"lognormal {sigma:g}", (replace(job, routing=routing), profile)
    if job.routing.kind != "balanced":
        yield "expert imbalance", "balanced", (replace(job, routing=Routing()), profile)


_ESTIMATED = (
    "the step as asked has every rank's rows drawn; changes are its ratios between runs in which one rank, with the "
    "rows that the busiest is expected to have, stands for all"
)


def _alike_s(prices: StepPrices) -> float:
    return simulate_step(prices, events=False).step_time_s


def whatif_train(scenario: Asked, share: float = 0.2) -> WhatIf:
    """Change one thing at a time, hardware by plus and minus `share`. ScenarioError for shares out of (0, 0.9]."""
    share = number_asked("share", share, 0.0, 0.9, "0.2 for plus and minus 20 %")
    scenario = scenario_of(scenario)
    resolved = resolve(scenario)
    job, profile = resolved.job, resolved.kernels
    asked = StepPrices(job, profile, resolved.tuning())
    usable = job.cluster.gpu.usable_bytes
    held = step_memory(asked)
    own = resolved.correction.factor if resolved.correction else 1.0  # what own runs say of it, whatever is changed
    step_s = own * simulate_step(asked, events=False).step_time_s
    # changes are compared on one rank that stands for all: a ratio needs no draw, and many would take minutes
    alike_s = _alike_s(StepPrices(job, profile, resolved.tuning(), drawn=False))
    rate = job.global_batch * job.seq_len / step_s
    outcomes = []
    for knob, change, (other, kernels) in _changes(job, profile, share):
        try:
            prices = StepPrices(other, kernels, resolved.tuning(), drawn=False)
            seconds = step_s * _alike_s(prices) / alike_s
        except NoFit:  # a precision that the kernels were not measured in: no change to offer
            continue
        factor = other.global_batch * other.seq_len / seconds / rate
        outcomes.append(Outcome(knob, change, seconds, factor, step_fits(prices)))
    if resolved.price is not None:
        room = fits(asked, held)
        outcomes += [Outcome("price", f"{f - 1.0:+.0%}", step_s, 1.0, room, f) for f in (1.0 - share, 1.0 + share)]
    return WhatIf(
        step_time_s=step_s,
        tokens_per_s=rate,
        usd_per_million_tokens=usd_per_million(resolved.price, gpu_hours(job.cluster.gpus, 1.0), rate),
        usd_per_hour=usd_per_gpu_hour(resolved.price),
        outcomes=in_order(outcomes),
        parts=tuple(parts_of_run(asked)),
        free_bytes=usable - max(m.total for m in held),
        notes=(_ESTIMATED,) if asked.varies else (),
    )
