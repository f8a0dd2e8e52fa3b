"""Run a deployment under its load: costs, caches and replicas are made here, and the right driver is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf

import numpy as np

from moesim.sim.question.serving_sections import AdmissionAsk, RouterAsk
from moesim.sim.serve.age import cold_s
from moesim.sim.serve.alone import run_closed, run_open
from moesim.sim.serve.dispatch import Dispatch
from moesim.sim.serve.feed import Feed
from moesim.sim.serve.front import Front
from moesim.sim.serve.handover import HandOver, Place
from moesim.sim.serve.host_memory import check_host_link, check_host_memory
from moesim.sim.serve.job import Deployment, ServeJob
from moesim.sim.serve.kv_cache import KvCache, token_bytes
from moesim.sim.serve.kv_tiers import TierMaker, check_tiers
from moesim.sim.serve.memory import ServeMemory, fitted_cache
from moesim.sim.serve.pipeline import PipelinedReplica
from moesim.sim.serve.pool_dispatch import Change, PoolDispatch, Pools
from moesim.sim.serve.prefix_cache import PrefixCache
from moesim.sim.serve.replica import Replica
from moesim.sim.serve.router import LeastLoaded, PowerOfTwo, PrefixAware, Router, Sticky
from moesim.sim.serve.stages import hops_of
from moesim.sim.serve.step import StepCosts
from moesim.sim.serve.step_parts import StepParts
from moesim.sim.serve.workload import RequestLog, Workload, request_log
from moesim.sim.software.stack import Tuning
from moesim.traces.rng import stream

_USUAL_BATCH = 32  # assumed: running sequences at which a router weighs prompts against answers
_HEAVIEST = 64.0  # assumed: of a prompt token against a running one


@dataclass(frozen=True, slots=True)
class Machine:
    """One job priced: its memory, its cache and what its passes cost."""

    job: ServeJob
    memory: ServeMemory
    cache: KvCache
    costs: StepCosts

    def replica(self, log: RequestLog, ready: bool = False) -> Replica:
        """A fresh replica at time zero."""
        job = self.job
        if job.layout.pp > 1:
            return PipelinedReplica(log, self.costs, job.engine, self.cache, job.layout.pp, job.attention_dp, ready)
        return Replica(log, self.costs, job.engine, self.cache, job.attention_dp, ready)


@dataclass(slots=True)
class ServeRun:
    """What a run left behind."""

    log: RequestLog
    machines: list[Machine]  # of each replica or decode worker; they differ where pipelines lie differently on nodes
    replicas: list[Replica]
    prefill_machines: list[Machine] = field(default_factory=list)  # of each prefill worker; without pools none
    prefill_replicas: list[Replica] = field(default_factory=list)
    stream_tokens: float = 1.0  # tokens that reach the client together at first
    wires: HandOver | None = None  # between the pools
    router: Router | None = None  # before the workers; None where each has requests of its own

    @property
    def machine(self) -> Machine:
        """Of the first replica or decode worker."""
        return self.machines[0]

    @property
    def workers(self) -> list[tuple[Machine, Replica]]:
        """All replicas, or the workers of both pools, each with its prices."""
        decode = zip(self.machines, self.replicas, strict=True)
        return [*decode, *zip(self.prefill_machines, self.prefill_replicas, strict=True)]


class PricedJobs:
    """Kernel prices of jobs seen before; good as long as no constant that kernels' prices read is changed."""

    def __init__(self) -> None:
        self._priced: dict[str, list[StepParts]] = {}  # a job that is spelled alike may have other kernels

    def parts_of(self, job: ServeJob, tuning: Tuning) -> StepParts:
        """Prices of this job's kernels."""
        parts = (
            job.cluster, job.layout, job.engine, job.formats, job.routing, job.speculation, job.offload, job.adapters,
            job.sampling, job.apart,
        )  # fmt: skip
        key = f"{job.arch.name} {len(job.arch.layers)} {parts} {job.two_batch} {job.placement} {hops_of(job)}"
        known = self._priced.setdefault(key, [])
        same = next((priced for priced in known if priced.job.kernels is job.kernels), None)
        if same is None:
            same = StepParts(job, tuning)
            known.append(same)
        return same


def machine_of(
    job: ServeJob, workload: Workload, tuning: Tuning, blocks: int | None = None, priced: PricedJobs | None = None
) -> Machine:
    """Price a job for a load. DoesNotFit when the longest request has no room, or experts on a host have none."""
    check_host_link(job)
    check_host_memory(job, tuning)
    parts = (PricedJobs() if priced is None else priced).parts_of(job, tuning)
    memory, cache = fitted_cache(job, workload.longest, workload.mean_tokens, blocks)
    return Machine(job, memory, cache, StepCosts(parts, tuning, workload.contexts))


def front_of(job: ServeJob, tuning: Tuning) -> Front:
    """The API server of this engine."""
    engine = job.engine.name
    front = Front(tuning.get("request_s", engine), tuning.get("prompt_token_s", engine), tuning.get("front_s", engine))
    return replace(front, ready_s=cold_s(job, tuning)) if job.engine.cold_start else front


def log_of(workload: Workload, admission: AdmissionAsk | None = None) -> RequestLog:
    """An empty log of the load's requests, and who of them is urgent and who gives up."""
    r = workload.requests
    log = request_log(r.arrival_s, r.input_tokens, r.output_tokens, r.prefix)
    log.after = r.after
    if admission is not None:
        log.patience_s = inf if admission.timeout_s is None else admission.timeout_s
        log.again_s = admission.retry_after_s
        if len(admission.priority_shares) > 1:
            drawn = stream(workload.seed, "requests.priority").random(len(log))
            log.priority = np.searchsorted(np.cumsum(admission.priority_shares)[:-1], drawn, "right").tolist()
    return log


def machines_of(
    job: ServeJob, count: int, begin: int, workload: Workload, tuning: Tuning, blocks: int | None = None,
    priced: PricedJobs | None = None,
) -> list[Machine]:  # fmt: skip
    """Machines of `count` replicas whose GPUs follow each other from GPU `begin` of the cluster on.

    Pipelines that begin inside a scale-up domain send other hops over the NICs than those that begin with one.
    """
    made: dict[tuple[bool, ...], Machine] = {}
    machines = []
    for n in range(count):
        placed = replace(job, first_gpu=begin + n * job.gpus)
        hops = hops_of(placed)
        if hops not in made:
            made[hops] = machine_of(placed, workload, tuning, blocks, priced)
        machines.append(made[hops])
    return machines


def simulate(deployment: Deployment, workload: Workload, tuning: Tuning, priced: PricedJobs | None = None) -> ServeRun:
    """The whole load served."""
    log = log_of(workload, deployment.admission)
    front = front_of(deployment.job, tuning)
    if deployment.prefill is not None:
        return _simulate_pools(deployment, workload, tuning, front, priced)
    machines = machines_of(deployment.job, deployment.replicas, 0, workload, tuning, deployment.kv_blocks, priced)
    replicas = [machine.replica(log) for machine in machines]
    run = ServeRun(log, machines, replicas, stream_tokens=first_together(deployment.job, tuning))
    router = router_of(deployment.router, replicas, workload)
    keep_prefixes(keeper_of(deployment, workload, tuning, router), list(zip(machines, replicas, strict=True)))
    if not _each_alone(deployment, workload):
        run.router = router
        feed = Feed(log, workload.requests.after, workload.clients)
        Dispatch(log, replicas, front, router, feed, deployment.admission.queue_limit).run()
        return run
    count, busy = len(log), min(len(replicas), workload.clients or len(replicas))  # without a client, no request
    for n, replica in enumerate(replicas[:busy]):
        mine = range(n, count, busy)
        share = workload.clients // busy + (n < workload.clients % busy)
        if workload.clients:
            run_closed(log, replica, replace(front), share, mine)
        else:
            run_open(log, replica, replace(front), mine)
    return run


def _each_alone(deployment: Deployment, workload: Workload) -> bool:
    """Whether every replica has requests of its own, and shares nothing that others change."""
    shared = any(tier.kind != "host" for tier in deployment.tiers)
    by_turns = deployment.router.kind == "round_robin" and not shared and deployment.admission.queue_limit is None
    alone = deployment.replicas == 1 and deployment.admission.queue_limit is None
    return not workload.requests.after and (alone or by_turns)


def router_of(ask: RouterAsk, workers: Sequence[Replica], workload: Workload) -> Router:
    """The router that a scenario asks for; what knows prefixes needs requests that say what they share."""
    if ask.kind == "prefix" and workload.runs is not None:
        return PrefixAware(workers, workload.runs, ask.weight or prompt_weight(workers[0], workload), ask.lag_s)
    if ask.kind == "sticky":
        return Sticky(workers, workload.requests.after, workload.runs)
    if ask.kind == "power_of_two":
        return PowerOfTwo(workers, ask.seed)
    return Router(workers) if ask.kind == "round_robin" else LeastLoaded(workers)


def prompt_weight(worker: Replica, workload: Workload) -> float:
    """Seconds of a prompt token over those that a token in the cache adds to the passes until an answer ends."""
    tokens = worker.engine.token_budget
    prompt_s = worker.costs.mixed([(tokens, 0)], 0, 0.0) / tokens
    passes = 0.5 * sum(workload.requests.output_tokens) / len(workload.requests)
    held_s = worker.costs.decode(_USUAL_BATCH)[1] * max(1.0, passes)
    return min(_HEAVIEST, max(1.0, prompt_s / held_s)) if held_s > 0.0 else _HEAVIEST


Keeper = Callable[[int, Machine, int], PrefixCache | None]  # (worker, its prices, its first GPU): its cache of prompts


def keeper_of(deployment: Deployment, workload: Workload, tuning: Tuning, router: Router) -> Keeper:
    """Makes caches of prompts, where the requests say what they share and the engine keeps it; else none."""
    runs, job = workload.runs, deployment.job
    check_tiers(deployment.prefill or job, deployment.tiers, tuning)  # who computes prompts keeps them
    if runs is None or not job.engine.prefix_cache:
        return lambda n, machine, first_gpu: None
    maker = TierMaker(
        deployment.tiers, tuning.get("host_link_efficiency", job.engine.name) if deployment.tiers else 1.0
    )

    def made(n: int, machine: Machine, first_gpu: int) -> PrefixCache:
        placed = replace(machine.job, first_gpu=first_gpu)
        told = router.listener(n) if isinstance(router, PrefixAware) else None
        return PrefixCache(runs, machine.cache.block_tokens, maker.tiers_of(placed, machine.cache), told)

    return made


def keep_prefixes(keeper: Keeper, workers: Sequence[tuple[Machine, Replica]]) -> None:
    """Give every worker its cache; their GPUs follow each other."""
    begin = 0
    for n, (machine, replica) in enumerate(workers):
        replica.prefix = keeper(n, machine, begin)
        begin += machine.job.gpus


def first_together(job: ServeJob, tuning: Tuning) -> float:
    """Tokens' time until a client sees its first one: engines send groups, or hold prompts until every rank has one."""
    engine = job.engine
    held = tuning.get("rank_wait_tokens", engine.name) if job.attention_dp > 1 else 1.0
    return max(held, float(engine.stream_tokens))


def _simulate_pools(
    deployment: Deployment, workload: Workload, tuning: Tuning, front: Front, priced: PricedJobs | None
) -> ServeRun:
    log = log_of(workload, deployment.admission)
    prompts = log_of(workload, deployment.admission)
    prompts.output = [1] * len(prompts)
    groups = PoolMachines(deployment, workload, tuning, priced)
    senders = [machine.replica(prompts) for machine in groups.prefill]
    receivers = [machine.replica(log, ready=True) for machine in groups.decode]
    wires = wires_of(deployment, groups, tuning)
    if deployment.router.kind == "round_robin":  # pools have none: the shortest queue
        router: Router = LeastLoaded(senders, groups.prefill_weights)
    else:
        router = router_of(deployment.router, senders, workload)
    keeper = keeper_of(deployment, workload, tuning, router)
    keep_prefixes(keeper, list(zip(groups.prefill, senders, strict=True)))
    pools = Pools(senders, receivers, wires, deployment.local_tokens, changes_of(deployment), groups.decode_weights)
    run = ServeRun(log, list(groups.decode), receivers, list(groups.prefill), senders, wires=wires, router=router)

    def added(pool: int, before: int) -> None:
        """A worker of one pool serves in the other from now on, on the GPUs that it has."""
        if pool == 0:
            run.prefill_machines.append(groups.prefill[0])
            senders.append(groups.prefill[0].replica(prompts))
            place = wires.receivers[before]
            senders[-1].prefix = keeper(len(senders) - 1, groups.prefill[0], place.first_gpu)
            wires.senders.append(replace(place, token_bytes=wires.senders[0].token_bytes))
        else:
            run.machines.append(groups.decode[0])
            receivers.append(groups.decode[0].replica(log, ready=True))
            wires.receivers.append(replace(wires.senders[before], token_bytes=wires.receivers[0].token_bytes))

    pools.added = added
    feed = Feed(log, workload.requests.after, workload.clients)
    PoolDispatch(log, pools, front, router, feed, deployment.admission.queue_limit).run()
    log.hit = prompts.hit
    engine = deployment.job.engine
    late = tuning.get("handover_tokens", engine.name, deployment.job.cluster.gpu.family)
    run.stream_tokens = max(late, float(engine.stream_tokens))
    return run


def changes_of(deployment: Deployment) -> list[Change]:
    """How many workers leave prefill for decode at each change; negative where they come from there."""
    now, changes = deployment.prefill_workers, []
    for change in deployment.changes:
        changes.append(Change(change.at_s, now - change.prefill, deployment.switch_s))
        now = change.prefill
    return changes


class PoolMachines:
    """The workers of all pools priced, each where its GPUs lie; and how fast each is, where pools are unlike."""

    def __init__(self, deployment: Deployment, workload: Workload, tuning: Tuning, priced: PricedJobs | None) -> None:
        self.prefill: list[Machine] = []
        self.decode: list[Machine] = []
        self.prefill_places: list[Place] = []
        self.decode_places: list[Place] = []
        begin = 0
        for group in deployment.groups:
            first = 0 if group.own else begin
            blocks = deployment.kv_blocks if group.role == "decode" else None
            made = machines_of(group.job, group.workers, first, workload, tuning, blocks, priced)
            (self.prefill if group.role == "prefill" else self.decode).extend(made)
            size = group.job.gpus
            (self.prefill_places if group.role == "prefill" else self.decode_places).extend(
                Place(group.job.cluster, first + n * size, size, group.job.attention_dp, token_bytes(group.job))
                for n in range(group.workers)
            )
            begin += 0 if group.own else group.gpus
        alike = not deployment.pools
        tokens = deployment.job.engine.token_budget
        self.prefill_weights = [] if alike else [1.0 / m.costs.mixed([(tokens, 0)], 0, 0.0) for m in self.prefill]
        self.decode_weights = [] if alike else [_pace(machine, workload) for machine in self.decode]


def _pace(machine: Machine, workload: Workload) -> float:
    """Tokens per second of a decode worker with a few requests on each rank."""
    batch = 8 * machine.job.attention_dp
    a, b = machine.costs.decode(batch)
    return batch / (a + b * batch * workload.mean_tokens)


def wires_of(deployment: Deployment, groups: PoolMachines, tuning: Tuning) -> HandOver:
    """The wires between the pools, with nothing on them."""
    assert deployment.prefill is not None
    engine = deployment.prefill.engine.name
    return HandOver(
        senders=groups.prefill_places,
        receivers=groups.decode_places,
        fixed_s=tuning.get("kv_transfer_s", engine),
        rate_efficiency=tuning.get("kv_transfer_efficiency", engine),
    )
