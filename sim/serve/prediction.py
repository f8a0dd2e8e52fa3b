"""ServePrediction: the answer to a serving question, with what it was made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from moesim.sim.serve.accounts import Spread
from moesim.sim.serve.resolve import ResolvedServe
from moesim.sim.serve.simulate import ServeRun


@dataclass(frozen=True, slots=True)
class Range:
    """Low and high of a 90 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServePrediction:
    """Latencies in seconds, rates per second of the whole deployment unless the name says per GPU."""

    ttft_s: Spread
    tpot_s: Spread
    e2e_s: Spread
    intervals: dict[str, Range]  # of ttft_s and tpot_s (means) and output_tokens_per_s
    band: str
    requests: int
    requests_per_s: float
    input_tokens_per_s: float
    output_tokens_per_s: float
    output_tokens_per_s_per_gpu: float
    goodput_per_s: float
    label: str
    capacity_requests_per_s: float
    kv_blocks: int  # of one replica
    kv_use: float  # largest share of the blocks in use
    preemptions: int
    mean_batch: float
    utilisation: dict[str, float]  # share of the wall time by part, all replicas; "idle" is the rest
    exposed_communication: float
    memory: dict[str, float]
    cost: dict[str, float | str]
    sources: dict[str, float]
    assumptions: tuple[str, ...]
    resolved: ResolvedServe = field(repr=False)
    run: ServeRun = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        plain = (
            "band", "requests", "requests_per_s", "input_tokens_per_s", "output_tokens_per_s",
            "output_tokens_per_s_per_gpu", "goodput_per_s", "label", "capacity_requests_per_s", "kv_blocks", "kv_use",
            "preemptions", "mean_batch", "utilisation", "exposed_communication", "memory", "cost", "sources",
        )  # fmt: skip
        deployment = self.resolved.deployment
        return {
            "model": deployment.job.arch.name,
            "cluster": deployment.job.cluster.name,
            "engine": deployment.job.engine.name,
            "profile": self.resolved.profile,
            "gpus": deployment.gpus,
            "idle_gpus": deployment.idle_gpus,
            "replicas": deployment.replicas,
            "ttft_s": self.ttft_s.to_dict(),
            "tpot_s": self.tpot_s.to_dict(),
            "e2e_s": self.e2e_s.to_dict(),
            "intervals": {name: {"low": r.low, "high": r.high} for name, r in self.intervals.items()},
            **{name: getattr(self, name) for name in plain},
            "over_time": self.over_time(),
            "assumptions": list(self.assumptions),
        }

    def over_time(self) -> dict[str, list[float]]:
        """Running sequences, cached tokens and queue of the first replica, at most a few hundred points."""
        samples = self.run.replicas[0].samples
        step = max(1, len(samples) // 256)
        columns = zip(*samples[::step], strict=True) if samples else ((), (), (), ())
        names = ("time_s", "running", "cached_tokens", "waiting")
        return {name: [float(v) for v in column] for name, column in zip(names, columns, strict=True)}
