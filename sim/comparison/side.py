"""One column of a comparison: what a scenario's training and serving take, in figures that scenarios can share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from moesim.hwmodels.power_and_money import JOULES_PER_KWH, usd_per_gpu_hour
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.prediction import ServePrediction
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prediction import Prediction
from moesim.sim.train.whole_run import TrainingRun, training_run


@dataclass(frozen=True, slots=True, order=True)
class Cost:
    """Dollars of a million tokens, GPU-hours where there is no price; low and high of the prediction's interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSide:
    """A training step, per GPU and as a whole. Money is None where the GPU has no price."""

    gpus: int
    step_time_s: float
    low_s: float
    high_s: float
    tokens_per_step: float
    tokens_per_s: float
    tokens_per_s_per_gpu: float
    mfu: float
    memory_bytes: float  # of the fullest GPU
    usable_bytes: float
    usd_per_gpu_hour: float | None
    gpu_hours_per_million_tokens: float
    usd_per_million_tokens: float | None
    kwh_per_million_tokens: float  # of the GPUs alone
    bottleneck: str  # the category that takes most of the step
    bottleneck_share: float
    run: TrainingRun | None  # of as many tokens as were asked for

    @property
    def cost(self) -> Cost:
        """Of a million tokens, with its interval."""
        middle = self.usd_per_million_tokens or self.gpu_hours_per_million_tokens
        return Cost(middle, middle * self.low_s / self.step_time_s, middle * self.high_s / self.step_time_s)

    def gpus_for(self, tokens_per_s: float) -> int:
        """GPUs that train `tokens_per_s` at this rate per GPU: scaling without loss."""
        return ceil(round(tokens_per_s / self.tokens_per_s_per_gpu, 6))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSide:
    """A deployment under its load."""

    gpus: int
    replicas: int
    ttft_s: float
    ttft_p99_s: float
    tpot_s: float
    tpot_p99_s: float
    output_tokens_per_s: float
    low_tokens_per_s: float  # of the 90 % interval of output tokens
    high_tokens_per_s: float
    output_tokens_per_s_per_gpu: float
    requests_per_s: float
    capacity_requests_per_s: float
    label: str
    weights_bytes: float  # of one GPU
    kv_bytes: float  # of one GPU: what the load fills of the cache at its fullest
    usable_bytes: float
    usd_per_gpu_hour: float | None
    gpu_hours_per_million_tokens: float  # prompts and outputs alike, GPUs beside pools included, here and below
    usd_per_million_tokens: float | None
    usd_per_million_output_tokens: float | None  # of all that the GPUs cost, see hwmodels/power_and_money.py
    kwh_per_million_output_tokens: float  # of the GPUs alone
    bottleneck: str
    bottleneck_share: float

    @property
    def cost(self) -> Cost:
        """Of a million tokens, with its interval."""
        middle, rate = self.usd_per_million_tokens or self.gpu_hours_per_million_tokens, self.output_tokens_per_s
        return Cost(middle, middle * rate / self.high_tokens_per_s, middle * rate / self.low_tokens_per_s)

    @property
    def replica_gpus(self) -> int:
        """GPUs of the least that can serve."""
        return self.gpus // self.replicas

    def gpus_for(self, requests_per_s: float) -> int:
        """GPUs of as many whole replicas as that traffic needs."""
        each = self.capacity_requests_per_s / self.replicas
        return self.replica_gpus * max(1, ceil(round(requests_per_s / each, 6)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One scenario of a comparison. A section it lacks is None; one that was refused says why in `refusals`."""

    name: str
    model: str
    parameters: int
    active_parameters: int
    cluster: str
    train: TrainSide | None
    serve: ServeSide | None
    refusals: Mapping[str, str]
    notes: tuple[str, ...]  # what was changed or assumed to get here
    scenarios: Mapping[str, dict[str, Any]]  # by section: what it answers, as a scenario that runs

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def train_side(scenario: Mapping[str, Any], tokens: float | None) -> TrainSide | str:
    """The training section priced, or why it does not fit. Other refusals are raised."""
    try:
        p = predict_train(scenario, events=False)
    except DoesNotFit as refusal:
        return str(refusal)
    return _train_side(p, tokens)


def _train_side(p: Prediction, tokens: float | None) -> TrainSide:
    name, seconds = max(p.breakdown_s.items(), key=lambda kv: kv[1])
    usd = p.cost.get("usd_per_million_tokens")
    return TrainSide(
        gpus=p.resolved.job.cluster.gpus,
        step_time_s=p.step_time_s,
        low_s=p.low_s,
        high_s=p.high_s,
        tokens_per_step=p.tokens_per_step,
        tokens_per_s=p.tokens_per_s,
        tokens_per_s_per_gpu=p.tokens_per_s_per_gpu,
        mfu=p.mfu,
        memory_bytes=max(m.total for m in p.memory),
        usable_bytes=p.usable_bytes,
        usd_per_gpu_hour=usd_per_gpu_hour(p.resolved.price),
        gpu_hours_per_million_tokens=float(p.cost["gpu_hours_per_million_tokens"]),
        usd_per_million_tokens=None if usd is None else float(usd),
        kwh_per_million_tokens=float(p.cost["energy_joules_per_step"]) / p.tokens_per_step * 1e6 / JOULES_PER_KWH,
        bottleneck=name,
        bottleneck_share=seconds / p.step_time_s,
        run=training_run(p, tokens) if tokens else None,
    )


def serve_side(scenario: Mapping[str, Any]) -> ServeSide | str:
    """The serving section priced, or why it does not fit. Other refusals are raised."""
    try:
        p = predict_serve(scenario, meets=False)
    except DoesNotFit as refusal:
        return str(refusal)
    return _serve_side(p)


def _serve_side(p: ServePrediction) -> ServeSide:
    deployment, usd = p.resolved.deployment, p.cost.get("usd_per_million_tokens")
    of_outputs = p.cost.get("usd_per_million_output_tokens")
    rate = p.input_tokens_per_s + p.output_tokens_per_s
    busy = {name: share for name, share in p.utilisation.items() if name != "idle"}
    name = max(busy, key=lambda part: busy[part])
    return ServeSide(
        gpus=deployment.gpus,
        replicas=deployment.replicas if deployment.prefill is None else 1,
        ttft_s=p.ttft_s.mean,
        ttft_p99_s=p.ttft_s.p99,
        tpot_s=p.tpot_s.mean,
        tpot_p99_s=p.tpot_s.p99,
        output_tokens_per_s=p.output_tokens_per_s,
        low_tokens_per_s=p.intervals["output_tokens_per_s"].low,
        high_tokens_per_s=p.intervals["output_tokens_per_s"].high,
        output_tokens_per_s_per_gpu=p.output_tokens_per_s_per_gpu,
        requests_per_s=p.requests_per_s,
        capacity_requests_per_s=p.capacity_requests_per_s,
        label=p.label,
        weights_bytes=p.memory["weights"],
        kv_bytes=p.kv_use * p.memory["cache_bytes"],
        usable_bytes=deployment.job.cluster.gpu.usable_bytes,
        usd_per_gpu_hour=usd_per_gpu_hour(p.resolved.price),
        gpu_hours_per_million_tokens=deployment.paid_gpus / 3600.0 / rate * 1e6,
        usd_per_million_tokens=None if usd is None else float(usd),
        usd_per_million_output_tokens=None if of_outputs is None else float(of_outputs),
        kwh_per_million_output_tokens=float(p.cost["joules_per_output_token"]) * 1e6 / JOULES_PER_KWH,
        bottleneck=name,
        bottleneck_share=busy[name],
    )
