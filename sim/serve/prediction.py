"""ServePrediction: the answer to a serving question, with what it was made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from moesim.hwmodels.interval import Sureness
from moesim.sim.serve.accounts import Spread
from moesim.sim.serve.expert_view import ServedExperts
from moesim.sim.serve.job import ResolvedServe
from moesim.sim.serve.simulate import ServeRun
from moesim.sim.serve.sure import Percentile
from moesim.sim.serve.sustained import Limits


@dataclass(frozen=True, slots=True)
class Range:
    """Low and high of a 90 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServePrediction:
    """A deployment under a load: latencies in seconds, rates per second of all replicas unless the name says per GPU.

    Latencies, the share within the limits and the label are of the requests after the warm-up, as clients see them;
    rates, money and utilisation are of the whole run, start and end included, but for the steady rate.

    `cost` holds gpu_hours, energy_joules, joules_per_output_token (the GPUs alone), facility_energy_joules,
    facility_joules_per_output_token (at the meter) and energy_note; where the GPU has a price also usd_per_gpu_hour,
    price_source, usd_per_million_tokens (prompts and outputs alike), usd_per_million_output_tokens (all that the GPUs
    cost over the outputs), and the same split by passes: prompt_steps_usd_per_million_input_tokens,
    other_steps_usd_per_million_output_tokens. GPUs that idle beside pools are paid.

    `handover` holds, of caches that pools hand over: seconds (mean, from the end of the prompt to the last byte),
    network_wait_s (of those, what other caches on the same wires cost), busiest_nic and busiest_nic_share (of the
    run, that the busiest port of any worker was full).
    """

    ttft_s: Spread  # from arrival to the first token
    tpot_s: Spread  # between two tokens after the first; requests of one token left out
    e2e_s: Spread  # from arrival to the last token
    intervals: dict[str, Range]  # 90 %, of ttft_s and tpot_s (means) and output_tokens_per_s
    sureness: dict[str, Sureness]  # of each: the class whose errors gave it, what makes it wide, what would narrow it
    requests: int
    warmup_requests: int  # the first of them, that latencies leave out
    percentiles: dict[str, Percentile]  # asked with requests.sure_of, of ttft_s and tpot_s; else empty
    requests_per_s: float
    input_tokens_per_s: float
    output_tokens_per_s: float
    output_tokens_per_s_per_gpu: float  # of the GPUs that serve
    steady_output_tokens_per_s: float | None  # while the service is warm and requests come; None: never, or all at once
    goodput_per_s: float  # requests within both limits of serve.slo
    attained_share: float  # of the warm requests, within both; who was rejected or gave up was not
    # stable, misses its limits, backlogged (the queue grew) or overloaded (more comes than can be served); "only the
    # beginning": of conversations that are too few to decide it
    label: str
    capacity_requests_per_s: float  # with a queue that is never empty
    kv_blocks: int  # of one replica
    kv_tokens: int  # that they hold: what engines print when they start
    kv_use: float  # largest share of the blocks in use
    preemptions: int
    mean_batch: float  # decoding sequences per decode pass of a replica
    utilisation: dict[str, float]  # share of the wall time by part, mean over replicas; "idle" is the rest, sums to 1
    exposed_communication: float  # of those shares: tp_comm, ep_comm and pp_comm
    cache: dict[str, Any]  # of prompts (sim/serve/cache_account.py); empty where requests do not say what they share
    admission: dict[str, Any]  # requests that were rejected, that gave up; by class
    handover: dict[str, float | str]  # of pools, see above; empty without
    memory: dict[str, float]  # bytes of the fullest GPU: weights, adapters, work, cache_bytes (for keys and values)
    cost: dict[str, float | str]
    cost_intervals: dict[
        str, dict[str, float]
    ]  # p10, p50, p90 of dollars per million tokens (sim/serve/cost_interval.py)
    sources: dict[str, float]  # share of the priced kernels by evidence; sums to 1
    assumptions: tuple[str, ...]  # what the scenario did not say, and constants that were not measured
    resolved: ResolvedServe = field(repr=False)  # the deployment and its load with everything decided
    run: ServeRun = field(repr=False)  # what happened to every request, and every replica's counters
    experts: ServedExperts | None = field(default=None, repr=False, compare=False)  # None: dense, or ep = 1
    limits: Limits | None = None  # what would meet the limits, where the label is that this load misses them

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        plain = (
            "requests", "warmup_requests", "requests_per_s", "input_tokens_per_s", "output_tokens_per_s",
            "output_tokens_per_s_per_gpu", "steady_output_tokens_per_s", "goodput_per_s", "attained_share", "label",
            "capacity_requests_per_s", "kv_blocks", "kv_tokens", "kv_use", "preemptions", "mean_batch", "utilisation",
            "exposed_communication", "cache", "admission", "handover", "memory", "cost", "cost_intervals", "sources",
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
            "intervals": {
                name: {"low": r.low, "high": r.high, **self.sureness[name].to_dict()}
                for name, r in self.intervals.items()
            },
            **{name: getattr(self, name) for name in plain},
            "percentiles": {name: of.to_dict() for name, of in self.percentiles.items()},
            "limits": None if self.limits is None else self.limits.to_dict(),
            "experts": None if self.experts is None else self.experts.to_dict(),
            "over_time": self.over_time(),
            "assumptions": list(self.assumptions),
        }

    def over_time(self) -> dict[str, list[float]]:
        """Running sequences, cached tokens and queue of the first replica, at most a few hundred points."""
        samples = self.run.replicas[0].samples.rows
        step = max(1, len(samples) // 256)
        columns = zip(*samples[::step], strict=True) if samples else ((), (), (), ())
        names = ("time_s", "running", "cached_tokens", "waiting")
        return {name: [float(v) for v in column] for name, column in zip(names, columns, strict=True)}
