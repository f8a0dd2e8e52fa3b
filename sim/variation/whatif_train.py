"""What if: one thing about a training run changed at a time, and what the change is worth.

Hardware makes another job out of the one that was asked. What users can change is a change of scenario keys: the other
scenario is resolved and run like any other, so that it can be written down and gives the same number. Rates of tokens
are compared, so that batches of different size stay comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from moesim.hwmodels.power_and_money import Price, gpu_hours, usd_per_gpu_hour, usd_per_million
from moesim.hwmodels.profile import Profile
from moesim.refusal import Refusal
from moesim.sim.question.scenario import Asked, Scenario, number_asked, parse_scenario, scenario_of
from moesim.sim.train.fitting import fits, step_fits
from moesim.sim.train.job import Resolved, TrainJob, resolve
from moesim.sim.train.memory import step_memory
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import simulate_step
from moesim.sim.variation.outcome import Tally, by_knob, in_order
from moesim.sim.variation.roofline import PartOfRun, parts_of_run
from moesim.sim.variation.settings import Reach, Setting, asked_with
from moesim.sim.variation.settings_train import price_settings, train_settings
from moesim.sim.variation.sweep import Progress

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
    group: Reach = "hardware"  # what users can change, would have to buy, or would be another question
    keys: Mapping[str, Any] | None = None  # of the scenario that say it; None: not a scenario key
    estimated: bool = False  # a ratio between runs in which one rank stands for all, not a run as it is

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
    asked: Scenario | None = field(default=None, repr=False)  # of which the changes are

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
                    "tokens_per_s_factor": o.speed_factor, "fits": o.fits, "group": o.group,
                    "keys": None if o.keys is None else dict(o.keys), "estimated": o.estimated,
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


def _hardware(job: TrainJob, profile: Profile, share: float) -> Iterator[tuple[str, str, Changed]]:
    for name, knob in HARDWARE.items():
        if name == "NIC bandwidth" and job.cluster.domains == 1:
            continue
        for factor in (1.0 - share, 1.0 + share):
            yield name, f"{factor - 1.0:+.0%}", knob(job, profile, factor)


_DRAWN = (
    "the step as asked has every rank's rows drawn; changes marked as estimated (hardware, and all where a step draws "
    "many rows) are its ratios between runs in which one rank, with the rows that the busiest is expected to have, "
    "stands for all"
)
_ALL_RUN = "; --out runs what can be changed as it is"
_MOST_ROWS = 100_000  # drawn per step, up to which every change is run as it is: about half a second each


def _alike_s(prices: StepPrices) -> float:
    return simulate_step(prices, events=False).step_time_s


@dataclass(frozen=True, slots=True)
class _Asked:
    """The run as asked, which changes are compared with."""

    scenario: Scenario
    resolved: Resolved
    step_s: float
    alike_s: float | None  # with one rank that stands for all, where changes of it are estimated; else None
    seen: list[tuple[TrainJob, Price | None]]  # that are answered: what is the same run in other words is no change

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.resolved.job.global_batch * self.resolved.job.seq_len / self.step_s

    def factor(self, job: TrainJob, step_s: float) -> float:
        """Tokens per second of another job over those of this one."""
        return job.global_batch * job.seq_len / step_s / self.rate

    def with_setting(self, setting: Setting) -> Outcome | None:
        """The run with other keys; None for what cannot be, what changes nothing, and kernels nobody measured."""
        try:
            other = resolve(parse_scenario(asked_with(self.scenario, setting.keys)))
            if (other.job, other.price) in self.seen:
                return None
            self.seen.append((other.job, other.price))
            prices = StepPrices(other.job, other.kernels, other.tuning(), drawn=self.alike_s is None)
            seconds = _alike_s(prices)
            held = step_memory(prices)
        except Refusal:  # the scenario cannot be: no change to offer
            return None
        own = self.resolved.correction
        strange = own is not None and other.correction is None  # own runs know the asked deployment, not this one
        if self.alike_s is not None:
            seconds *= self.step_s / self.alike_s
        elif own is not None:  # the change must not gain what own runs say of both
            seconds *= (other.correction or own).factor
        return Outcome(
            setting.knob, setting.change, seconds, self.factor(other.job, seconds), fits(prices, held),
            group=setting.group, keys=None if strange else setting.keys, estimated=strange or self.alike_s is not None,
        )  # fmt: skip


def _rows(job: TrainJob) -> int:
    """Of experts that one step draws: of every rank, micro-batch and layer."""
    return job.micro_batches * job.arch.moe_layers * (job.layout.gpus // job.layout.pp)


def whatif_train(scenario: Asked, share: float = 0.2, exact: bool = False, progress: Progress | None = None) -> WhatIf:
    """Change one thing at a time, hardware by plus and minus `share`. ScenarioError for shares out of (0, 0.9].

    exact: run every change of scenario keys as it is, also where a step draws so many rows that it takes seconds.
    """
    share = number_asked("share", share, 0.0, 0.9, "0.2 for plus and minus 20 %")
    scenario = scenario_of(scenario)
    resolved = resolve(scenario)
    job, profile = resolved.job, resolved.kernels
    as_asked = StepPrices(job, profile, resolved.tuning())
    held = step_memory(as_asked)
    own = resolved.correction.factor if resolved.correction else 1.0  # what own runs say of it, whatever is changed
    step_s = own * simulate_step(as_asked, events=False).step_time_s
    # hardware is compared on one rank that stands for all: a ratio needs no draw
    alike_s = _alike_s(StepPrices(job, profile, resolved.tuning(), drawn=False))
    estimated = as_asked.varies and not exact and _rows(job) > _MOST_ROWS
    asked = _Asked(scenario, resolved, step_s, alike_s if estimated else None, [(job, resolved.price)])
    outcomes = []
    hardware, settings = list(_hardware(job, profile, share)), list(train_settings(resolved))
    tally = Tally(progress, len(hardware) + len(settings))
    for knob, change, (other, kernels) in tally.of(hardware):
        prices = StepPrices(other, kernels, resolved.tuning(), drawn=False)
        seconds = step_s * _alike_s(prices) / alike_s
        factor = asked.factor(other, seconds)
        outcomes.append(Outcome(knob, change, seconds, factor, step_fits(prices), estimated=as_asked.varies))
    outcomes += [o for setting in tally.of(settings) if (o := asked.with_setting(setting)) is not None]
    room, rent = fits(as_asked, held), usd_per_gpu_hour(resolved.price)
    for setting, factor in price_settings(rent, share):
        outcomes.append(Outcome(setting.knob, setting.change, step_s, 1.0, room, factor, setting.group, setting.keys))
    return WhatIf(
        step_time_s=step_s,
        tokens_per_s=asked.rate,
        usd_per_million_tokens=usd_per_million(resolved.price, gpu_hours(job.cluster.gpus, 1.0), asked.rate),
        usd_per_hour=rent,
        outcomes=in_order(outcomes),
        parts=tuple(parts_of_run(as_asked)),
        free_bytes=job.cluster.gpu.usable_bytes - max(m.total for m in held),
        notes=(_DRAWN + (_ALL_RUN if estimated else ""),) if as_asked.varies else (),
        asked=scenario,
    )
