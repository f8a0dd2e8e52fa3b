"""Pools of a scenario as groups of workers: each with its own layout, and where it says so machines and engine."""

from __future__ import annotations

from dataclasses import replace

from moesim.sim.layout.layout import BadLayout
from moesim.sim.question.lookup import look_up
from moesim.sim.question.scenario import Scenario, ScenarioError
from moesim.sim.question.sections import ClusterAsk
from moesim.sim.question.serving_sections import PoolAsk, PoolsAsk, ServeAsk
from moesim.sim.serve.job import Deployment, Group, ServeJob, replica_layout
from moesim.sim.serve.weight_formats import formats_asked
from moesim.sim.software.serving_engine import engine_asked

_POOLED = (
    "pools: GPUs of prefill workers come first, those of decode workers after them; workers in one scale-up domain "
    "hand caches over by its links, others by the NICs of the attention rank that holds the cache"
)


def pool_deployment(scenario: Scenario, ask: ServeAsk, pools: PoolsAsk, job: ServeJob) -> tuple[Deployment, list[str]]:
    """Prefill and decode workers, and what is said of them; `job`: a worker on the scenario's own cluster."""
    asked = [("prefill", pools.prefill), ("decode", pools.decode), *((pool.role, pool) for pool in pools.also)]
    asked.sort(key=lambda pair: pair[0] != "prefill")  # prefill first, otherwise as they are written
    groups, said = [], [_POOLED]
    if ask.router.kind == "round_robin":
        said.append("router: prompts go to the prefill worker with the fewest requests, pools have no round robin")
    for role, pool in asked:
        group, more = _group(scenario, ask, role, pool, job)
        groups.append(group)
        said += more
    prefill = next(group for group in groups if group.role == "prefill")
    decode = next(group for group in groups if group.role == "decode")
    plain = len(groups) == 2 and not any(group.own for group in groups)
    deployment = Deployment(
        decode.job, decode.workers, prefill.job, prefill.workers, () if plain else tuple(groups),
        pools.local_prefill_tokens, tuple(sorted(pools.changes, key=lambda change: change.at_s)), pools.switch_s,
        kv_blocks=ask.kv_blocks,
    )  # fmt: skip
    return _with_idle(scenario, deployment, groups, said)


def _with_idle(
    scenario: Scenario, deployment: Deployment, groups: list[Group], said: list[str]
) -> tuple[Deployment, list[str]]:
    taken = sum(group.gpus for group in groups if not group.own)
    idle = scenario.cluster.gpus - taken
    if idle < 0:
        raise BadLayout(f"the pools take {taken} GPUs, more than cluster.gpus={scenario.cluster.gpus}")
    if idle and not taken:
        raise ScenarioError(
            f"all pools name machines of their own: none of the {idle} GPUs of cluster is used; let the largest pool "
            "have them"
        )
    if idle:
        said.append(f"{idle:,} of {scenario.cluster.gpus:,} GPUs belong to no pool: idle, and paid for")
    if deployment.local_tokens:
        said.append(
            f"prompts of which at most {deployment.local_tokens:,} tokens are to be computed stay on the decode "
            "worker, which keeps none of them for others"
        )
    if deployment.changes:
        said.append(f"a worker that changes pools takes requests {deployment.switch_s:g} s after its last one")
    return replace(deployment, idle_gpus=idle), said


def _group(scenario: Scenario, ask: ServeAsk, role: str, pool: PoolAsk, job: ServeJob) -> tuple[Group, list[str]]:
    layout = replica_layout(job.arch, pool)
    own = pool.node is not None or pool.gpu is not None
    if pool.price_usd_per_gpu_hour is not None and not own:
        raise ScenarioError(
            f"serve.pools.{role}.price_usd_per_gpu_hour is of machines of its own: give node or gpu, or the scenario's "
            "price_usd_per_gpu_hour"
        )
    said: list[str] = []
    cluster, kernels, price = job.cluster, job.kernels, None
    if own:
        gpus = pool.workers * layout.gpus
        machines = ClusterAsk(
            hardware=scenario.cluster.hardware, node=pool.node, gpu=pool.gpu, gpus=gpus, fabric=scenario.cluster.fabric
        )
        changes = {"cluster": machines, "profile": None, "price_usd_per_gpu_hour": pool.price_usd_per_gpu_hour}
        seen = look_up(scenario.model_copy(update=changes))
        cluster, kernels, price = seen.cluster, seen.kernels, seen.price
        said = [f"{role} pool of {gpus} {cluster.gpu.name}: {line}" for line in seen.assumptions]
    if own or pool.engine is not None or pool.kv_dtype is not None:
        taken = engine_asked(pool.engine if pool.engine is not None else ask.engine)
        engine, from_engine = taken.engine.on(cluster.gpu, ask.speculative is not None)
        formats, from_weights = formats_asked(ask, pool.kv_dtype or ask.kv_dtype, job.arch, cluster.gpu, engine)
        said += [f"{role} pool: {line}" for line in (*taken.said, *from_engine, *from_weights)]
        said.append(f"{role} pool: weights {formats.attention}, experts {formats.experts}, cache {formats.kv}")
        job = replace(job, cluster=cluster, kernels=kernels, engine=engine, formats=formats)
    apart = job.apart if role == "decode" else None  # prompts keep attention and experts together
    return Group(role, replace(job, layout=layout, apart=apart), pool.workers, own, price), said
