"""From a step to a whole training run: days, GPU-hours, dollars, energy and CO2, with failures and checkpoints.

Failures come at random (exponential, all GPUs alike); each costs the work since the last checkpoint, the restart and
the reload. The interval between checkpoints is Daly's (J. Daly, Future Generation Computer Systems 22, 2006); the
expected time of one interval is the renewal value, checked by simulating runs (tests/sim/train/test_run.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from math import exp, expm1, sqrt
from pathlib import Path
from typing import Any

from moesim.hwmodels.facts import did_you_mean, read_yaml
from moesim.hwmodels.power_and_money import at_the_meter, power_records
from moesim.sim.model.adapted import adapter_parameters
from moesim.sim.model.params import parameters
from moesim.sim.question.scenario import Asked, ScenarioError, number_asked
from moesim.sim.train.job import TrainJob
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prediction import Prediction

MOST_TOKENS = 1e18  # a thousand times what anybody has trained on
_FACTS = Path(__file__).parent / "run.yaml"
_HOUR, _DAY = 3600.0, 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a run depends on beyond its step; sources are in run.yaml and hwmodels/specs/power.yaml."""

    gpu_mtbf_hours: float
    restart_s: float
    storage_bytes_per_s_per_gpu: float
    checkpoint_blocking_share: float
    spare_share: float
    pue: float
    host_power_share: float
    co2_kg_per_kwh: float


@cache
def _records() -> dict[str, dict[str, Any]]:
    records: dict[str, dict[str, Any]] = read_yaml(_FACTS)
    return records | {name: power_records()[name] for name in ("pue", "host_power_share")}


def run_facts(changes: Mapping[str, float] | None = None) -> RunFacts:
    """The shipped facts with a user's own in their place. ScenarioError for names or values that cannot be."""
    values = {name: float(record["value"]) for name, record in _records().items()}
    for name, value in (changes or {}).items():
        if name not in values:
            raise ScenarioError(f"run.{name} is not known; {did_you_mean(name, list(values))}")
        least = 0.0 if name in ("restart_s", "spare_share", "host_power_share", "co2_kg_per_kwh") else 1e-9
        if not least <= value < float("inf"):
            raise ScenarioError(f"run.{name}={value} must be a number of at least {least:g}")
        values[name] = float(value)
    return RunFacts(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """A run over `tokens` tokens, all of the whole job; `to_dict()` adds `days`. Money is None without a price.

    Failures are exponential, checkpoints as far apart as loses least (Daly 2006), the time of an interval with failures
    is its renewal value. Intervals are those of the step: price, power and rate of failures are taken as known. Facts
    behind it (failures per GPU, restart, storage, spares, PUE): run.yaml, with sources.
    """

    tokens: float
    steps: int
    compute_s: float  # the steps alone
    wall_s: float  # with checkpoints, failures, restarts and work done twice
    goodput: float  # compute over wall, between 0 and 1
    gpus: int  # that train
    spare_gpus: int  # that wait for failures, and are paid
    mtbf_s: float  # between two failures of the whole job
    failures: float  # expected in wall_s
    checkpoint_bytes: float  # of the whole model: weights and optimizer; with LoRA of the adapters alone
    checkpoint_s: float  # that training waits for each one
    checkpoint_interval_s: float  # of work between two
    gpu_hours: float  # spares included
    usd_per_gpu_hour: float | None
    usd: float | None  # of all GPU-hours
    energy_mwh: float  # of the GPUs alone, spares included: as a step's joules
    facility_energy_mwh: float  # with their hosts and the building's cooling
    co2_tonnes: float  # of the facility's energy
    intervals: Mapping[
        str, Mapping[str, float]
    ]  # days, gpu_hours, usd, ...: p10, p50 (as predicted), p90 of the step's
    lost: Mapping[str, Mapping[str, float]]  # days and usd by which the run is shorter without it, as the step's lost_s

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self) | {"days": self.wall_s / _DAY}


def daly_interval_s(checkpoint_s: float, mtbf_s: float) -> float:
    """Seconds of work between checkpoints that waste least: Daly's higher-order estimate."""
    if checkpoint_s >= 2.0 * mtbf_s:
        return mtbf_s
    x = checkpoint_s / (2.0 * mtbf_s)
    return sqrt(2.0 * checkpoint_s * mtbf_s) * (1.0 + sqrt(x) / 3.0 + x / 9.0) - checkpoint_s


def expected_s(work_s: float, checkpoint_s: float, restart_s: float, mtbf_s: float) -> float:
    """Mean seconds until `work_s` and a checkpoint are done: every failure starts both again, restarts may fail too."""
    return mtbf_s * exp(restart_s / mtbf_s) * expm1((work_s + checkpoint_s) / mtbf_s)


@dataclass(frozen=True, slots=True)
class Interruptions:
    """What failures and checkpoints do to a job: seconds, and the share of the time that is left for training."""

    mtbf_s: float
    checkpoint_bytes: float
    write_s: float  # that training waits for
    interval_s: float
    share: float


def interruptions(job: TrainJob, step_s: float, facts: RunFacts) -> Interruptions:
    """Of a job whose step takes `step_s` seconds, with checkpoints at Daly's interval."""
    gpus = job.cluster.gpus
    trained = adapter_parameters(job.arch, job.lora_rank, job.lora_attention_only) if job.lora_rank else None
    size = (parameters(job.arch) if trained is None else trained) * (2.0 + job.stack.master_dtype_bytes)
    transfer_s = size / (facts.storage_bytes_per_s_per_gpu * gpus)
    write_s, mtbf_s = transfer_s * facts.checkpoint_blocking_share, facts.gpu_mtbf_hours * _HOUR / gpus
    interval_s = max(step_s, daly_interval_s(write_s, mtbf_s))
    restart_s = facts.restart_s + transfer_s
    share = interval_s / expected_s(interval_s, write_s, restart_s, mtbf_s)
    return Interruptions(mtbf_s, size, write_s, interval_s, share)


def training_run(
    prediction: Prediction, tokens: float, facts: RunFacts | None = None, price: float | None = None
) -> TrainingRun:
    """The whole run. `price`: dollars per GPU-hour in place of the prediction's. ScenarioError for no tokens."""
    tokens = number_asked("tokens", tokens, 0.0, MOST_TOKENS, "14.8e12")
    facts = facts or run_facts()
    rate = price or prediction.cost.get("usd_per_gpu_hour")
    usd_per_gpu_hour = None if rate is None else float(rate)
    steps = max(1, round(tokens / prediction.tokens_per_step))
    step_s, least_s = prediction.step_time_s, max(prediction.lower_bounds_s.values())
    ends = prediction.sureness.p10_to_p90(step_s, 0.0 if prediction.resolved.correction else least_s)
    spent = {name: _spent(prediction, seconds, steps, facts, usd_per_gpu_hour) for name, seconds in ends.items()}
    cut, gpus = interruptions(prediction.resolved.job, step_s, facts), prediction.resolved.job.cluster.gpus
    middle = spent["p50"]
    return TrainingRun(
        tokens=tokens,
        steps=steps,
        compute_s=steps * step_s,
        wall_s=middle.wall_s,
        goodput=cut.share,
        gpus=gpus,
        spare_gpus=round(gpus * facts.spare_share),
        mtbf_s=cut.mtbf_s,
        failures=middle.wall_s / cut.mtbf_s,
        checkpoint_bytes=cut.checkpoint_bytes,
        checkpoint_s=cut.write_s,
        checkpoint_interval_s=cut.interval_s,
        gpu_hours=middle.gpu_hours,
        usd_per_gpu_hour=usd_per_gpu_hour,
        usd=middle.usd,
        energy_mwh=middle.energy_mwh,
        facility_energy_mwh=middle.facility_energy_mwh,
        co2_tonnes=middle.co2_tonnes,
        intervals=_intervals(spent),
        lost={
            name: _won(middle, _spent(prediction, step_s - lost, steps, facts, usd_per_gpu_hour))
            for name, lost in prediction.lost_s.items()
        },
    )


@dataclass(frozen=True, slots=True)
class _Spent:
    """What a run takes when its step takes as long as asked."""

    wall_s: float
    gpu_hours: float
    usd: float | None
    energy_mwh: float
    facility_energy_mwh: float
    co2_tonnes: float


def _spent(
    prediction: Prediction, step_s: float, steps: int, facts: RunFacts, usd_per_gpu_hour: float | None
) -> _Spent:
    """Everything that grows with the time of a step, failures and checkpoints with it."""
    job = prediction.resolved.job
    wall_s = steps * step_s / interruptions(job, step_s, facts).share
    paid = job.cluster.gpus + round(job.cluster.gpus * facts.spare_share)
    hours = paid * wall_s / _HOUR
    gpu_w = float(prediction.cost["energy_joules_per_step"]) / prediction.step_time_s / job.cluster.gpus
    watts = gpu_w * paid
    facility_mwh = at_the_meter(watts, facts.host_power_share, facts.pue) * wall_s / _HOUR / 1e6
    return _Spent(
        wall_s=wall_s,
        gpu_hours=hours,
        usd=None if usd_per_gpu_hour is None else hours * usd_per_gpu_hour,
        energy_mwh=watts * wall_s / _HOUR / 1e6,
        facility_energy_mwh=facility_mwh,
        co2_tonnes=facility_mwh * facts.co2_kg_per_kwh,
    )


def _won(as_it_is: _Spent, without: _Spent) -> dict[str, float]:
    """Days, and dollars where there is a price, by which a run is the shorter of the two."""
    won = {"days": (as_it_is.wall_s - without.wall_s) / _DAY}
    if as_it_is.usd is not None and without.usd is not None:
        won["usd"] = as_it_is.usd - without.usd
    return won


def _intervals(spent: Mapping[str, _Spent]) -> dict[str, dict[str, float]]:
    """Of every quantity, by the quantile of the step; money is left out without a price."""
    found = {"days": {name: each.wall_s / _DAY for name, each in spent.items()}}
    for name in ("gpu_hours", "usd", "energy_mwh", "facility_energy_mwh", "co2_tonnes"):
        values = {quantile: getattr(each, name) for quantile, each in spent.items()}
        if None not in values.values():
            found[name] = values
    return found


def sources() -> dict[str, str]:
    """Where every fact of a run comes from."""
    return {f.name: f"{_records()[f.name]['kind']}: {_records()[f.name]['source']}" for f in fields(RunFacts)}


def run(scenario: Asked | Prediction, tokens: float, *, price_usd_per_gpu_hour: float | None = None) -> TrainingRun:
    """A whole training run: days, dollars, energy, failures, checkpoints and spares, from one step.

    scenario: a file's path, a mapping, a Scenario, or the Prediction of its step.
    tokens: how many the run trains on, for example 14.8e12.
    price_usd_per_gpu_hour: dollars per GPU-hour in place of the scenario's, or of the catalogue's.

    Times in seconds, energies in MWh (the GPUs alone, and at the meter), money in US dollars. Checkpoints are written
    as often as loses least at the assumed rate of failures (Young and Daly). Raises ScenarioError for no tokens, other
    kinds of Refusal as predict_train does.
    """
    tokens = number_asked("tokens", tokens, 0.0, MOST_TOKENS, "14.8e12")
    if price_usd_per_gpu_hour is not None:
        number_asked("price_usd_per_gpu_hour", price_usd_per_gpu_hour, 0.0, 10_000.0, "2.5")
    step = scenario if isinstance(scenario, Prediction) else predict_train(scenario)
    return training_run(step, tokens, price=price_usd_per_gpu_hour)
