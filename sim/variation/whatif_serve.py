"""What if, for serving: one thing about a deployment or its load changed at a time.

Open loops are compared by what they could serve at most (the queue never empty), closed ones by what they serve; the
latencies beside it are those of the asked load. What is a change of scenario keys is that scenario's own answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from moesim.hwmodels.power_and_money import gpu_hours, usd_per_gpu_hour, usd_per_million_output_tokens
from moesim.hwmodels.profile import NoFit
from moesim.refusal import Refusal
from moesim.sim.question.lookup import for_serving
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import Asked, Scenario, number_asked, parse_scenario, scenario_of
from moesim.sim.serve.accounts import decode_shares, latencies_of, spread
from moesim.sim.serve.job import Deployment, ResolvedServe
from moesim.sim.serve.kept import Kept
from moesim.sim.serve.predict import capacity_per_s, predict_serve
from moesim.sim.serve.prediction import ServePrediction
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.simulate import PricedJobs, ServeRun, simulate
from moesim.sim.serve.sure import sure_run
from moesim.sim.serve.warmup import warm_up_of
from moesim.sim.serve.workload import Workload
from moesim.sim.variation.knobs_serve import hardware_changes, load_changes
from moesim.sim.variation.outcome import Tally, by_knob, in_order
from moesim.sim.variation.settings import Reach, Setting, asked_with
from moesim.sim.variation.settings_serve import serve_settings
from moesim.sim.variation.settings_train import price_settings
from moesim.sim.variation.sweep import Progress


@dataclass(frozen=True, slots=True)
class ServeOutcome:
    """One change, and what it does to latencies and to tokens per second; seconds are 0 where it does not fit."""

    knob: str  # what is changed, for example "HBM bandwidth"
    change: str  # how, for example "+20%"
    ttft_s: float  # means under the asked load
    tpot_s: float
    speed_factor: float  # output tokens per second over those of the deployment as asked; 0 where it does not fit
    fits: bool  # whether memory is large enough
    usd_factor: float = 1.0  # dollars per GPU-hour over those of the deployment as asked
    group: Reach = "hardware"  # what users can change, would have to buy, or would be another question
    keys: Mapping[str, Any] | None = None  # of the scenario that say it; None: not a scenario key

    @property
    def value_factor(self) -> float:
        """Tokens per dollar over those of the deployment as asked; what an upgrade adds to the price is not in it."""
        return self.speed_factor / self.usd_factor


@dataclass(frozen=True, slots=True)
class ServePart:
    """One part of the decode passes: its share of them, and the share of the data sheet's limits that it reaches."""

    part: str
    share: float
    floor_share: float  # of its seconds: FLOPs at peak, weights and caches at full HBM bandwidth; 0: no such floor

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeWhatIf:
    """A deployment with one thing changed at a time. Money is None where the GPU has no price."""

    ttft_s: float  # means under the load as asked
    tpot_s: float
    tokens_per_s: float  # output tokens of all replicas: what an open loop could serve at most, a closed one serves
    usd_per_hour: float | None  # of one GPU
    usd_per_million_output_tokens_at_most: float | None  # at that rate
    outcomes: tuple[ServeOutcome, ...]  # every change, the largest effect on tokens per dollar first
    parts: tuple[ServePart, ...]  # of the decode passes: shares, and how near they are to the data sheet
    mean_batch: float  # decoding sequences per decode pass of a replica
    asked: Scenario | None = field(default=None, repr=False)  # of which the changes are

    @property
    def tokens_per_usd(self) -> float | None:
        """Output tokens, of the deployment as asked."""
        usd = self.usd_per_million_output_tokens_at_most
        return None if usd is None else 1e6 / usd

    def by_knob(self) -> list[tuple[str, list[ServeOutcome]]]:
        """Outcomes of every knob together, the one that matters most first."""
        return by_knob(self.outcomes)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        value = self.tokens_per_usd
        plain = ("ttft_s", "tpot_s", "tokens_per_s", "usd_per_million_output_tokens_at_most", "mean_batch")
        return {
            **{name: getattr(self, name) for name in plain},
            "usd_per_gpu_hour": self.usd_per_hour,
            "outcomes": [
                {
                    "knob": o.knob, "change": o.change, "ttft_s": o.ttft_s, "tpot_s": o.tpot_s,
                    "tokens_per_s_factor": o.speed_factor, "fits": o.fits, "group": o.group,
                    "keys": None if o.keys is None else dict(o.keys),
                    "tokens_per_usd": None if value is None else value * o.value_factor,
                }
                for o in self.outcomes
            ],
            "roofline": [p.to_dict() for p in self.parts],
        }  # fmt: skip


def _served(asked: ResolvedServe) -> tuple[ServeRun, float]:
    """The run, and output tokens per second at most."""
    prices = Kept().of(asked)
    run = simulate(asked.deployment, asked.workload, prices.tuning, prices.priced)
    outputs = float(np.mean(asked.workload.requests.output_tokens))
    return run, capacity_per_s(asked.workload, run, prices) * outputs


def whatif_serve(scenario: Asked, share: float = 0.2, progress: Progress | None = None) -> ServeWhatIf:
    """Change one thing at a time, hardware by plus and minus `share`. ScenarioError for shares out of (0, 0.9]."""
    share = number_asked("share", share, 0.0, 0.9, "0.2 for plus and minus 20 %")
    scenario = for_serving(scenario_of(scenario))
    asked = resolved = resolve_serve(scenario)
    if asked.ask.requests.sure_of is not None:  # as many requests as make the answer sure, for every change alike
        asked, _ = sure_run(asked, asked.tuning(), PricedJobs())
    run, rate = _served(asked)
    start = warm_up_of(run, asked.workload).requests  # of every change too: other requests would be another question
    latencies, price = latencies_of(run, start), asked.price
    ttft, tpot = spread(latencies.ttft_s).mean, spread(latencies.tpot_s).mean
    hardware, load, settings = (
        list(hardware_changes(asked, share)), list(load_changes(asked)), list(serve_settings(asked)),
    )  # fmt: skip
    tally = Tally(progress, len(hardware) + len(load) + len(settings))
    outcomes = [
        o for knob, change, other in tally.of(hardware) if (o := _outcome(knob, change, other, rate, start)) is not None
    ]
    outcomes += [
        replace(o, group="question")
        for knob, change, other in tally.of(load)
        if (o := _outcome(knob, change, other, rate, start)) is not None
    ]
    seen = [(resolved.deployment, resolved.workload)]
    outcomes += [o for setting in tally.of(settings) if (o := _as_asked(scenario, seen, setting, rate)) is not None]
    for setting, factor in price_settings(usd_per_gpu_hour(price), share):
        outcomes.append(
            ServeOutcome(setting.knob, setting.change, ttft, tpot, 1.0, True, factor, setting.group, setting.keys)
        )
    steps = sum(sum(r.steps_at.values()) for r in run.replicas) or 1
    return ServeWhatIf(
        ttft_s=ttft,
        tpot_s=tpot,
        tokens_per_s=rate,
        usd_per_hour=usd_per_gpu_hour(price),
        usd_per_million_output_tokens_at_most=usd_per_million_output_tokens(
            price, gpu_hours(asked.deployment.paid_gpus, 1.0), rate
        ),
        outcomes=in_order(outcomes),
        parts=tuple(_parts(run)),
        mean_batch=sum(b * k for r in run.replicas for b, k in r.steps_at.items()) / steps,
        asked=scenario,
    )


def _outcome(knob: str, change: str, other: ResolvedServe, rate: float, start: int) -> ServeOutcome | None:
    """None for a precision that the kernels were not measured in: no change to offer."""
    try:
        run, own = _served(other)
    except DoesNotFit:
        return ServeOutcome(knob, change, 0.0, 0.0, 0.0, False)
    except NoFit:
        return None
    latencies = latencies_of(run, min(start, len(run.log) // 2))
    return ServeOutcome(knob, change, spread(latencies.ttft_s).mean, spread(latencies.tpot_s).mean, own / rate, True)


Seen = list[tuple[Deployment, Workload]]


def _as_asked(scenario: Scenario, seen: Seen, setting: Setting, rate: float) -> ServeOutcome | None:
    """The scenario with other keys, served like any other; None for what cannot be, and for what was `seen`."""
    mapping = asked_with(scenario, setting.keys)
    try:
        other = resolve_serve(parse_scenario(mapping))
        if (other.deployment, other.workload) in seen:
            return None
        seen.append((other.deployment, other.workload))
        p = predict_serve(mapping, meets=False)
    except DoesNotFit:
        return ServeOutcome(
            setting.knob, setting.change, 0.0, 0.0, 0.0, False, group=setting.group, keys=setting.keys
        )  # fmt: skip
    except Refusal:  # the scenario cannot be: no change to offer
        return None
    own = tokens_at_most(p)
    return ServeOutcome(
        setting.knob, setting.change, p.ttft_s.mean, p.tpot_s.mean, own / rate, True, group=setting.group,
        keys=setting.keys,
    )  # fmt: skip


def tokens_at_most(p: ServePrediction) -> float:
    """Output tokens per second of what a prediction could serve at most, of requests as long as its own."""
    return p.capacity_requests_per_s * float(np.mean(p.resolved.workload.requests.output_tokens))


def _parts(run: ServeRun) -> list[ServePart]:
    """Decode passes of all replicas by part, and the floors under them."""
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
    parts = [ServePart(p, s / total, min(1.0, floors.get(p, 0.0) / s) if s else 0.0) for p, s in seconds.items()]
    return sorted(parts, key=lambda p: (-p.share, p.part))
