"""Run a deployment under its load: costs, caches and replicas are made here, and the right driver is chosen."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moesim.hwmodels.cluster import link_bytes_per_s
from moesim.sim.serve.job import ServeJob
from moesim.sim.serve.kv_cache import KvCache, token_bytes
from moesim.sim.serve.loop import Front, Pools, run_balanced, run_closed, run_open, run_pools
from moesim.sim.serve.memory import ServeMemory, fitted_cache
from moesim.sim.serve.replica import Replica
from moesim.sim.serve.resolve import Deployment
from moesim.sim.serve.step import StepCosts
from moesim.sim.serve.step_parts import StepParts
from moesim.sim.serve.workload import RequestLog, Workload, request_log
from moesim.sim.software.stack import Tuning


@dataclass(frozen=True, slots=True)
class Machine:
    """One job priced: its memory, its cache and what its passes cost."""

    job: ServeJob
    memory: ServeMemory
    cache: KvCache
    costs: StepCosts

    def replica(self, log: RequestLog, ready: bool = False) -> Replica:
        """A fresh replica at time zero."""
        return Replica(log, self.costs, self.job.engine, self.cache, self.job.attention_dp * self.job.layout.pp, ready)


@dataclass(slots=True)
class ServeRun:
    """What a run left behind."""

    log: RequestLog
    machine: Machine  # of a replica or decode worker
    replicas: list[Replica]
    prefill_machine: Machine | None = None
    prefill_replicas: list[Replica] | None = None
    stream_tokens: float = 1.0  # tokens that reach the client together at first


class PricedJobs:
    """Kernel prices of jobs seen before; good as long as no constant that kernels' prices read is changed."""

    def __init__(self) -> None:
        self._priced: dict[str, list[StepParts]] = {}  # a job that is spelled alike may have other kernels

    def parts_of(self, job: ServeJob, tuning: Tuning) -> StepParts:
        """Prices of this job's kernels."""
        parts = (job.cluster, job.layout, job.engine, job.formats, job.routing, job.speculation, job.offload)
        key = f"{job.arch.name} {len(job.arch.layers)} {parts} {job.two_batch} {job.expert_slots}"
        known = self._priced.setdefault(key, [])
        same = next((priced for priced in known if priced.job.kernels is job.kernels), None)
        if same is None:
            same = StepParts(job, tuning)
            known.append(same)
        return same


def machine_of(
    job: ServeJob, workload: Workload, tuning: Tuning, blocks: int | None = None, priced: PricedJobs | None = None
) -> Machine:
    """Price a job for a load. DoesNotFit when the longest request has no room."""
    parts = (PricedJobs() if priced is None else priced).parts_of(job, tuning)
    memory, cache = fitted_cache(job, workload.longest, workload.mean_tokens, blocks)
    return Machine(job, memory, cache, StepCosts(parts, tuning, workload.contexts))


def front_of(job: ServeJob, tuning: Tuning) -> Front:
    """The API server of this engine."""
    engine = job.engine.name
    return Front(tuning.get("request_s", engine), tuning.get("prompt_token_s", engine), tuning.get("front_s", engine))


def log_of(workload: Workload) -> RequestLog:
    """An empty log of the load's requests."""
    r = workload.requests
    return request_log(r.arrival_s, r.input_tokens, r.output_tokens, r.prefix)


def simulate(deployment: Deployment, workload: Workload, tuning: Tuning, priced: PricedJobs | None = None) -> ServeRun:
    """The whole load served."""
    log = log_of(workload)
    count = len(log)
    machine = machine_of(deployment.job, workload, tuning, deployment.kv_blocks, priced)
    front = front_of(deployment.job, tuning)
    if deployment.prefill is not None:
        return _simulate_pools(deployment, workload, tuning, machine, front, priced)
    replicas = [machine.replica(log) for _ in range(deployment.replicas)]
    if deployment.router == "least_loaded" and len(replicas) > 1 and not workload.clients:
        run_balanced(log, replicas, front)
        return ServeRun(log, machine, replicas, stream_tokens=deployment.job.engine.stream_tokens)
    busy = min(len(replicas), workload.clients or len(replicas))  # a replica without a client gets no request
    for n, replica in enumerate(replicas[:busy]):
        mine = range(n, count, busy)
        share = workload.clients // busy + (n < workload.clients % busy)
        if workload.clients:
            run_closed(log, replica, replace(front), share, mine)
        else:
            run_open(log, replica, replace(front), mine)
    return ServeRun(log, machine, replicas, stream_tokens=deployment.job.engine.stream_tokens)


def _simulate_pools(
    deployment: Deployment, workload: Workload, tuning: Tuning, machine: Machine, front: Front,
    priced: PricedJobs | None,
) -> ServeRun:  # fmt: skip
    assert deployment.prefill is not None
    log = log_of(workload)
    prompts = log_of(workload)
    prompts.output = [1] * len(prompts)
    first = machine_of(deployment.prefill, workload, tuning, priced=priced)
    senders = [first.replica(prompts) for _ in range(deployment.prefill_workers)]
    receivers = [machine.replica(log, ready=True) for _ in range(deployment.replicas)]
    fixed, each = transfer_s(deployment, tuning)
    run_pools(log, Pools(senders, receivers, lambda tokens: fixed + each * tokens), front, workload.clients or None)
    engine = deployment.job.engine
    late = tuning.get("handover_tokens", engine.name, deployment.job.cluster.gpu.family)
    return ServeRun(log, machine, receivers, first, senders, max(late, float(engine.stream_tokens)))


def transfer_s(deployment: Deployment, tuning: Tuning) -> tuple[float, float]:
    """(fixed seconds, seconds per token) to hand a cache over: every sending rank uses its own NIC or link."""
    sender = deployment.prefill
    assert sender is not None
    engine = sender.engine.name
    share = tuning.get("kv_transfer_efficiency", engine)
    cluster = sender.cluster
    one_domain = deployment.gpus <= cluster.domain
    rate = link_bytes_per_s(cluster) if one_domain or cluster.nic_bytes_per_s <= 0 else cluster.nic_bytes_per_s
    return tuning.get("kv_transfer_s", engine), token_bytes(sender) / (rate * share)
