"""What a million tokens take in GPU-hours at any point of a search: a scenario, its settings changed, on hardware of
other bandwidth. The simulator itself answers; only very long steps are continued from shorter ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from moesim.hwmodels.cluster import Cluster
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import scenario_of
from moesim.sim.serve.accounts import span_s
from moesim.sim.serve.capacity import drained_per_s
from moesim.sim.serve.job import Deployment
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.simulate import PricedJobs, simulate
from moesim.sim.train.fitting import step_fits
from moesim.sim.train.job import recompute_modules, resolve
from moesim.sim.train.long_step import long_step
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import simulate_step


@dataclass(frozen=True, slots=True)
class Hardware:
    """Bandwidths as multiples of the data sheet's."""

    hbm: float = 1.0
    nic: float = 1.0

    def of(self, cluster: Cluster) -> Cluster:
        """The cluster with these bandwidths."""
        gpu = replace(cluster.gpu, hbm_bytes_per_s=cluster.gpu.hbm_bytes_per_s * self.hbm)
        return replace(cluster, gpu=gpu, nic_bytes_per_s=cluster.nic_bytes_per_s * self.nic)


AS_IS = Hardware()


def train_hours(scenario: Mapping[str, Any], hardware: Hardware = AS_IS) -> float:
    """GPU-hours of a million tokens of training, with as little more recomputed as it needs to fit.

    A Refusal where the point cannot be.
    """
    resolved = resolve(scenario_of(scenario))
    job = replace(resolved.job, cluster=hardware.of(resolved.job.cluster))
    light = job.recompute | recompute_modules(("light",), job.arch, job.stack)
    for modules in (job.recompute, light, frozenset({"full"})):
        tried = replace(job, recompute=modules)
        prices = StepPrices(tried, resolved.kernels, resolved.tuning(), drawn=False)
        if step_fits(prices):
            return job.cluster.gpus * step_s(prices) / 3600.0 / (job.global_batch * job.seq_len) * 1e6
    raise DoesNotFit(f"does not fit at micro_batch={job.micro_batch}, seq_len={job.seq_len}")


def step_s(prices: StepPrices) -> float:
    """Seconds of a step; one of many more micro-batches than stages is continued from two shorter ones."""
    return long_step(prices, partial(simulate_step, events=False)).step_time_s


def serve_hours(scenario: Mapping[str, Any], hardware: Hardware = AS_IS) -> float:
    """GPU-hours of a million tokens served, prompts and outputs alike: by a closed loop's clients, else from a queue
    that is never empty. A Refusal where the point cannot be.
    """
    resolved = resolve_serve(scenario_of(scenario))
    deployment, load = _on(resolved.deployment, hardware), resolved.workload
    if not load.clients:
        r = load.requests
        tokens = (sum(r.input_tokens) + sum(r.output_tokens)) / len(r)
        rate = drained_per_s(deployment, load, resolved.tuning(), PricedJobs())
        return deployment.paid_gpus / (rate * tokens) / 3600.0 * 1e6
    run = simulate(deployment, load, resolved.tuning())
    served = run.log.prompt_total + run.log.output_total
    return deployment.paid_gpus * span_s(run) / 3600.0 / served * 1e6


def _on(deployment: Deployment, hardware: Hardware) -> Deployment:
    job = replace(deployment.job, cluster=hardware.of(deployment.job.cluster))
    prefill = deployment.prefill and replace(deployment.prefill, cluster=hardware.of(deployment.prefill.cluster))
    return replace(deployment, job=job, prefill=prefill)


def saturating(scenario: Mapping[str, Any]) -> dict[str, Any]:
    """The serving scenario under a load that never lets it wait: its own lengths, all requests queued.

    Closed loops stay as they are: their clients are the batch.
    """
    load = scenario["serve"]["requests"]
    if load.get("kind") in ("closed", "offline"):
        return dict(scenario)
    requests = resolve_serve(scenario_of(scenario)).workload.requests
    count = min(len(requests), 500)
    queued = {
        "kind": "offline",
        "count": count,
        "input_tokens": round(sum(requests.input_tokens) / len(requests)),
        "output_tokens": round(sum(requests.output_tokens) / len(requests)),
    }
    return {**scenario, "serve": {**scenario["serve"], "requests": queued}}
