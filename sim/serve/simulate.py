"""Run a deployment under its load: costs, caches and replicas are made here, and the right driver is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

from moesim.hwmodels.cluster import link_bytes_per_s
from moesim.sim.serve.job import Deployment, ServeJob
from moesim.sim.serve.kv_cache import KvCache, token_bytes
from moesim.sim.serve.memory import ServeMemory, fitted_cache
from moesim.sim.serve.replica import Replica
from moesim.sim.serve.step import StepCosts
from moesim.sim.serve.step_parts import StepParts
from moesim.sim.serve.workload import RequestLog, Workload, request_log
from moesim.sim.software.stack import Tuning

_FOREVER = float("inf")


@dataclass(slots=True)
class Front:
    """The API server before the engine: a fixed time per request, time per prompt token, and a queue of one server."""

    request_s: float = 0.0
    token_s: float = 0.0
    server_s: float = 0.0
    _free_s: float = 0.0

    def enter(self, arrival_s: float, tokens: int) -> float:
        """When a request of that many prompt tokens reaches the engine; calls come in order of arrival."""
        if self.server_s:
            self._free_s = max(self._free_s, arrival_s) + self.server_s
            arrival_s = self._free_s
        return arrival_s + self.request_s + self.token_s * tokens


def run_open(log: RequestLog, replica: Replica, front: Front, requests: Sequence[int] | None = None) -> None:
    """Requests arrive when they arrive, whatever the replica does; ends when all are served."""
    which = range(len(log)) if requests is None else requests
    entered = [front.enter(log.arrival_s[i], log.prompt[i]) for i in which]
    for n in sorted(range(len(entered)), key=entered.__getitem__):
        replica.advance(entered[n])
        replica.submit(which[n], entered[n])
    replica.advance(_FOREVER)


def run_closed(log: RequestLog, replica: Replica, front: Front, clients: int, requests: Sequence[int]) -> None:
    """`clients` send the next request as soon as their last one is answered; all begin at once."""
    pending: list[tuple[float, int]] = []
    following = iter(requests)

    def send(time_s: float) -> None:
        request = next(following, None)
        if request is not None:
            log.arrival_s[request] = time_s
            heappush(pending, (front.enter(time_s, log.prompt[request]), request))

    for _ in range(clients):
        send(0.0)
    while pending or not replica.idle:
        until = pending[0][0] if pending else _FOREVER
        replica.done.clear()
        replica.advance(until, stop=True)
        for request in replica.done:
            send(log.finish_s[request])
        if pending and (replica.now >= pending[0][0] or replica.idle):
            time_s, request = heappop(pending)
            replica.submit(request, time_s)


def run_balanced(log: RequestLog, replicas: Sequence[Replica], front: Front) -> None:
    """An open loop whose router sends every request to the replica with the fewest unfinished ones."""
    entered = sorted((front.enter(log.arrival_s[i], log.prompt[i]), i) for i in range(len(log)))
    due = [(_FOREVER, n) for n in range(len(replicas))]  # no replica finishes anything before its time here
    loads = [0] * len(replicas)
    for time_s, request in entered:
        while due[0][0] <= time_s:
            _, n = heappop(due)
            replicas[n].advance(time_s)
            loads[n] = replicas[n].load
            heappush(due, (max(replicas[n].next_finish_s(), replicas[n].now), n))
        n = min(range(len(replicas)), key=loads.__getitem__)
        replicas[n].advance(time_s)
        replicas[n].submit(request, time_s)
        loads[n] = replicas[n].load
        due = [(t, m) for t, m in due if m != n]
        due.append((replicas[n].now, n))
        heapify(due)
    for replica in replicas:
        replica.advance(_FOREVER)


@dataclass(slots=True)
class Pools:
    """A disaggregated system: prompts are computed here, their caches sent there, tokens decoded there."""

    prefill: Sequence[Replica]  # with a log of their own in which every request has one output token
    decode: Sequence[Replica]
    transfer_s: Callable[[int], float]  # seconds to hand over the cache of a prompt of that many tokens


def run_pools(log: RequestLog, pools: Pools, front: Front, clients: int | None) -> None:
    """Both pools together, event by event; `clients` as in a closed loop, None: requests arrive by themselves."""
    events: list[tuple[float, int, int]] = []  # (time, 0 prompt | 1 cache has arrived, request)
    following = iter(range(len(log)))

    def send(time_s: float | None) -> None:
        request = next(following, None)
        if request is not None:
            if time_s is not None:
                log.arrival_s[request] = time_s
            heappush(events, (front.enter(log.arrival_s[request], log.prompt[request]), 0, request))

    for _ in range(len(log) if clients is None else clients):
        send(None if clients is None else 0.0)
    while True:
        coming = events[0][0] if events else _FOREVER
        first = min((r.now for r in pools.prefill if not r.idle), default=_FOREVER)
        last = min((r.now for r in pools.decode if not r.idle), default=_FOREVER)
        if coming == first == last == _FOREVER:
            return
        if coming <= min(first, last):
            time_s, stage, request = heappop(events)
            pool = pools.decode if stage else pools.prefill
            min(pool, key=lambda r: r.load).submit(request, time_s)
        elif first <= last:
            worker = min((r for r in pools.prefill if not r.idle), key=lambda r: r.now)
            worker.advance(worker.now + 1e-9)
            for request in worker.done:
                heappush(events, (worker.now + pools.transfer_s(log.prompt[request]), 1, request))
            worker.done.clear()
        else:
            worker = min((r for r in pools.decode if not r.idle), key=lambda r: r.now)
            others = min((r.next_finish_s() for r in pools.decode if r is not worker), default=_FOREVER)
            until = min(coming, first, others if clients is not None else _FOREVER)  # who finishes asks again
            worker.advance(max(until, worker.now + 1e-9), stop=True)
            for request in worker.done:
                if clients is not None:
                    send(log.finish_s[request])
            worker.done.clear()


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
        key = f"{job.arch.name} {len(job.arch.layers)} {parts} {job.two_batch} {job.placement}"
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
