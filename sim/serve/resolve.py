"""resolve_serve: how a scenario becomes a deployment and its load, and what had to be assumed on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from moesim.sim.layout.layout import BadLayout
from moesim.sim.layout.slots import check_slots, placement_of
from moesim.sim.model.arch import ModelArch
from moesim.sim.question.lookup import LookUp, for_serving, look_up, routing_assumed, routing_of
from moesim.sim.question.scenario import Scenario, ScenarioError
from moesim.sim.question.serving_sections import AdmissionAsk, PoolAsk, ServeAsk
from moesim.sim.serve.apart import apart_of, check_goes_with
from moesim.sim.serve.block_split import check_blocks, of_blocks
from moesim.sim.serve.drafts import speculation_of
from moesim.sim.serve.job import (
    Adapters,
    Deployment,
    ResolvedServe,
    ServeJob,
    replica_layout,
)
from moesim.sim.serve.offload import experts_in_host
from moesim.sim.serve.pool_groups import pool_deployment
from moesim.sim.serve.sampling import sampling_of
from moesim.sim.serve.weight_formats import WEIGHT_ONLY, Formats, formats_asked
from moesim.sim.serve.workload import Workload, workload_of
from moesim.sim.software.serving_engine import AskedEngine, Engine, engine_asked

_PIPELINED = "pipeline: one batch in flight per stage, sequences spread evenly; stages follow each other in rank order"


def _check_gpus(scenario: Scenario, used: int) -> None:
    if used > scenario.cluster.gpus or scenario.cluster.gpus % used:
        raise BadLayout(
            f"the layout takes {used} GPUs, which does not divide cluster.gpus={scenario.cluster.gpus}; "
            f"use {used} or a multiple of it"
        )


MOST_REPLICAS = 100_000  # as of serve.autoscale and of pools: each of them is simulated


def _deployment(scenario: Scenario, ask: ServeAsk, job: ServeJob) -> tuple[Deployment, list[str]]:
    if ask.pools is None:
        used = job.gpus
        _check_gpus(scenario, used)
        replicas = scenario.cluster.gpus // used
        if replicas > MOST_REPLICAS:
            raise BadLayout(
                f"cluster.gpus={scenario.cluster.gpus} hold {replicas:,} replicas of {used} GPUs; at most "
                f"{MOST_REPLICAS:,} are simulated: ask about a part of them, with its share of the requests"
            )
        said = [_PIPELINED] if job.layout.pp > 1 else []
        return Deployment(job, replicas, kv_blocks=ask.kv_blocks), said
    deployment, said = pool_deployment(scenario, ask, ask.pools, job)
    if any(group.job.layout.pp > 1 for group in deployment.groups):
        said.append(_PIPELINED)
    unused = sorted({"tp", "pp", "ep", "etp"} & scenario.layout.model_fields_set)
    if unused and scenario.train is None:
        said.append(f"layout.{', layout.'.join(unused)}: not used, pools lay out their own workers")
    return deployment, said


def resolve_serve(scenario: Scenario, requests: str | Path | None = None, scaled: bool = False) -> ResolvedServe:
    """Everything looked up and checked; `requests` names a trace that replaces the scenario's requests.

    `scaled`: the number of replicas changes over a day, as serve.autoscale says.
    """
    ask = scenario.serve
    if ask is None:
        raise ScenarioError("the scenario has no serve section; add serve: {engine: vllm, requests: {...}}")
    if ask.autoscale is not None and not scaled:
        raise ScenarioError(
            "serve.autoscale needs traffic that changes: `moesim serve --traffic day.csv`; leave it out otherwise"
        )
    load = ask.requests
    if load.kind in ("poisson", "gamma") and load.rate_per_s is None and requests is None and not scaled:
        raise ScenarioError(f"serve.requests: kind {load.kind} needs rate_per_s (a day's table says it, --traffic)")
    shared = scenario.train is not None and ask.layout is None and ask.pools is None  # the layout is the training's
    scenario = for_serving(scenario)
    seen = look_up(scenario)
    arch, cluster = seen.arch, seen.cluster
    asked = engine_asked(ask.engine)
    _check_args(asked, scenario)
    engine, from_engine = asked.engine.on(cluster.gpu, ask.speculative is not None)
    formats, from_weights = formats_asked(ask, ask.kv_dtype, arch, cluster.gpu, engine)
    try:
        job, from_features = _job(scenario, ask, seen, engine, formats)
    except BadLayout as refusal:
        hint = "; layout is the training's here: say the replica's in serve.layout, {tp: 8}" if shared else ""
        raise BadLayout(f"{refusal}{hint}") from None
    workload, from_load = workload_of(ask.requests, arch, requests)
    deployment, from_pools = _deployment(scenario, ask, job)
    deployment = replace(deployment, router=ask.router, tiers=ask.kv_tiers, admission=ask.admission)
    for group in deployment.groups:
        check_blocks(group.job)
        if group.job.apart is None:
            check_slots(group.job.placement, arch, group.job.layout.ep)
    said = (
        *seen.assumptions,
        *asked.said,
        *from_weights,
        *_said(from_engine, engine, formats, ask.kv_dtype or _published(from_weights, formats)),
        *routing_assumed(scenario, arch),
        *from_features,
        *from_load,
        *from_pools,
        *_idle_slots(deployment),
        *_retries(ask.admission, workload),
    )
    return ResolvedServe(deployment, workload, ask, seen.profile, seen.price, said)


def _retries(admission: AdmissionAsk, load: Workload) -> list[str]:
    """When those who wait for answers go on after a rejection, where nobody says it."""
    if admission.queue_limit is None or "retry_after_s" in admission.model_fields_set:
        return []
    caused = load.clients or load.requests.after
    return [f"admission.retry_after_s = {admission.retry_after_s:g} (not stated)"] if caused else []


def _idle_slots(deployment: Deployment) -> list[str]:
    """Spare slots that can balance nothing, because every rank has all experts."""
    spare = deployment.job.placement.spare_slots
    if not spare or any(group.job.layout.ep > 1 for group in deployment.groups):
        return []
    return [f"spare expert slots: {spare} balance nothing with ep 1 (no rank has experts of its own), and cost memory"]


def _job(
    scenario: Scenario, ask: ServeAsk, seen: LookUp, engine: Engine, formats: Formats
) -> tuple[ServeJob, list[str]]:
    """The job of a replica or decode worker, and what was assumed of the features that its passes carry."""
    arch, lay = seen.arch, scenario.layout
    if lay.cp > 1 or lay.vpp > 1:
        raise BadLayout("cp and vpp are for training; a serving replica is laid out by tp, pp, ep, etp, attention_dp")
    pool = PoolAsk(tp=lay.tp, pp=lay.pp, ep=lay.ep, etp=lay.etp, attention_dp=ask.attention_dp)
    layout = replica_layout(arch, pool) if ask.pools is None else replica_layout(arch, ask.pools.decode)
    routing = routing_of(scenario)
    offload, from_offload = experts_in_host(ask.offload, arch, routing)
    speculation, from_drafts = speculation_of(ask.speculative, arch)
    adapters, from_adapters = _adapters(ask, arch)
    sampling, from_sampling = sampling_of(ask.sampling)
    apart, from_apart = apart_of(ask.experts_apart, arch)
    job = ServeJob(
        arch=arch,
        cluster=seen.cluster,
        layout=layout,
        engine=engine,
        formats=formats,
        kernels=seen.kernels,
        routing=routing,
        speculation=speculation,
        offload=offload,
        adapters=adapters,
        sampling=sampling,
        two_batch=ask.two_batch_overlap,
        published=of_blocks(ask),
        apart=apart,
        placement=placement_of(scenario, arch),
    )
    check_goes_with(job)
    return job, [*from_offload, *from_drafts, *from_adapters, *from_sampling, *from_apart]


def _adapters(ask: ServeAsk, arch: ModelArch) -> tuple[Adapters | None, list[str]]:
    lora = ask.adapters
    if lora is None:
        return None, []
    said = [] if lora.targets else ["adapters.targets = all (attention, dense blocks and shared experts)"]
    if arch.is_moe and lora.targets != "attention":
        said.append("adapters: routed experts carry none")
    return Adapters(count=lora.count, rank=lora.rank, targets=lora.targets or "all"), said


def _check_args(asked: AskedEngine, scenario: Scenario) -> None:
    """A command line and a layout that do not agree are two questions."""
    for key, degree in asked.layout.items():
        own = getattr(scenario.layout, key)
        if scenario.serve is not None and scenario.serve.pools is None and own != degree:
            raise ScenarioError(
                f"serve.engine.args say {key}={degree} and layout.{key} is {own}; write the same in both"
            )


def _published(said: list[str], formats: Formats) -> str | None:
    """The cache's format where the checkpoint has said it already."""
    return formats.kv if any(line.startswith("kv_dtype = ") for line in said) else None


def _said(taken: list[str], engine: Engine, formats: Formats, kv_dtype: str | None) -> list[str]:
    """What was not stated; `taken`: defaults that have a reason of their own."""
    values = {key: getattr(engine, key) for key in ("scheduling", "admission", "token_budget", "max_batch")}
    values["kv_fraction"] = f"what {engine.name} does not reserve" if engine.reserve else engine.kv_fraction
    plain = [
        f"{key} = {value} (default of {engine.name})"
        for key, value in values.items()
        if key not in engine.given and not any(line.startswith(f"{key} = ") for line in taken)
    ]
    said = [*taken, *plain]
    if engine.month is not None:
        when = f"{engine.month // 12}-{engine.month % 12 + 1:02d}"
        said.append(f"{engine.name} {engine.version} is of {when}: passes of large expert models age with it")
    if engine.cold_start:
        said.append("cold start: the first requests wait for kernels to be compiled and warmed up")
    if kv_dtype is None:
        said.append(f"kv_dtype = {formats.kv} (rule of {engine.name})")
    blocks = f", dense and shared blocks {formats.blocks}" if formats.blocks else ""
    said.append(f"weights: attention {formats.attention}{blocks}, experts {formats.experts}, head {formats.head}")
    if WEIGHT_ONLY in (formats.attention, formats.experts):
        said.append(
            "this GPU has no 8-bit tensor path: 8-bit weights are read and computed with in 16 bits (weight-only)"
        )
    return said
