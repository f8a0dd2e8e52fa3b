"""ServeJob: what decides the passes of one replica; Deployment: replicas or pools; and how a scenario becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.gpu import GpuSpec
from moesim.hwmodels.power_and_money import Price
from moesim.hwmodels.profile import Profile
from moesim.sim.layout.layout import BadLayout, Layout, check_layout
from moesim.sim.layout.slots import Placement, check_slots, placement_of
from moesim.sim.model.arch import ModelArch
from moesim.sim.question.lookup import LookUp, look_up, routing_assumed, routing_of
from moesim.sim.question.scenario import Scenario, ScenarioError
from moesim.sim.question.serving_sections import AdmissionAsk, PoolAsk, RouterAsk, ServeAsk, TierAsk
from moesim.sim.serve.drafts import Speculation, speculation_of
from moesim.sim.serve.offload import Offload, experts_in_host
from moesim.sim.serve.sampling import Sampling, sampling_of
from moesim.sim.serve.workload import Workload, workload_of
from moesim.sim.software.serving_engine import AskedEngine, Engine, engine_asked, engine_tuning
from moesim.sim.software.stack import Tuning
from moesim.traces.routing import Routing

SERVE_PRECISIONS = ("bf16", "fp16", "fp8", "fp8_block", "fp4", "nvfp4", "mxfp4", "int4")
_SAME_AS = {"awq": "int4", "gptq": "int4", "w4a16": "int4"}  # ways to make a checkpoint of 4-bit weights
WEIGHT_ONLY = "w8a16"
_BLOCK_SCALED_EXPERTS = 32  # assumed: FP8 checkpoints with that many experts scale 128 x 128 blocks (DeepSeek, Qwen3)


@dataclass(frozen=True, slots=True)
class Formats:
    """Number formats of weights by part, and of the KV cache."""

    attention: str  # projections, dense FFN and shared experts of MoE models included
    experts: str
    head: str
    kv: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """LoRA adapters that are served beside each other; sequences spread evenly over them."""

    count: int
    rank: int
    targets: str = "all"  # linear layers that have them: attention, or all


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeJob:
    """Everything that decides what one pass of one replica costs and what its GPUs hold."""

    arch: ModelArch
    cluster: Cluster
    layout: Layout  # of one replica; its dp is the attention data parallelism
    engine: Engine
    formats: Formats
    kernels: Profile = field(repr=False)  # fits that its passes are priced with
    routing: Routing = field(default_factory=Routing)
    speculation: Speculation | None = None
    offload: Offload | None = None
    adapters: Adapters | None = None
    sampling: Sampling | None = None
    two_batch: bool = False
    placement: Placement = field(default_factory=Placement)  # of experts on the ranks of one replica
    first_gpu: int = 0  # of the cluster, that this replica's ranks begin at
    joins: int = 0  # of a job that drafts: hidden states that its layer joins into one first
    drafts_checked: int = 0  # of such a job: drafts per sequence that it catches up with

    attention_dp: int = field(init=False)  # ranks (tensor groups) that hold requests of their own

    def __post_init__(self) -> None:
        object.__setattr__(self, "attention_dp", self.layout.dp)

    @property
    def expert_slots(self) -> int:
        """Expert copies beyond one each, over the whole replica."""
        return self.placement.spare_slots


def formats_of(precision: str, kv: str | None, arch: ModelArch, gpu: GpuSpec, engine: Engine) -> Formats:
    """Formats of a published checkpoint in this precision on this GPU. ScenarioError when there is no such thing."""
    precision = _SAME_AS.get(precision, precision)
    if precision not in SERVE_PRECISIONS:
        known = ", ".join((*SERVE_PRECISIONS, *_SAME_AS))
        raise ScenarioError(f"serve.precision={precision!r} is not known; use one of {known}")
    half = "bf16" if gpu.supports("bf16") else "fp16"
    many = arch.moe is not None and arch.moe.experts >= _BLOCK_SCALED_EXPERTS
    attention = experts = half
    if precision in ("fp8", "fp8_block"):
        blocks = many or arch.fp8_blocks or precision == "fp8_block"
        attention = experts = "fp8_block" if blocks else "fp8"
        if not gpu.supports(attention):  # 8-bit weights without an 8-bit tensor path: widened in the kernels
            attention = experts = WEIGHT_ONLY
    elif precision in ("fp4", "nvfp4", "mxfp4", "int4"):
        tried = {"int4": (), "mxfp4": ("mxfp4",)}.get(precision, ("nvfp4", "mxfp4"))
        native = [name for name in tried if gpu.supports(name)]
        if precision == "nvfp4" and native == ["mxfp4"]:
            raise ScenarioError(
                f"serve.precision=nvfp4: {gpu.name} multiplies MXFP4 and no NVFP4; use fp4, fp8 or bf16"
            )
        experts = native[0] if native else "int4"  # without a 4-bit tensor path: weight-only
        attention = half if arch.is_moe else experts  # MoE checkpoints quantise their experts only
    narrow = "bf16 or int4" if gpu.supports("int4") else "bf16"
    for name in (attention, experts):
        if not gpu.supports(name):
            raise ScenarioError(f"serve.precision={precision} has no tensor path on {gpu.name}; use {narrow}")
    cache = kv or engine.cache_dtype(gpu, precision, arch.moe.experts if arch.moe else 0)
    if cache == "fp8" and not gpu.supports("fp8"):
        cache = half
    return Formats(attention, experts, half, half if cache == "bf16" else cache)


@dataclass(frozen=True, slots=True)
class Deployment:
    """What serves: replicas of one job, or a prefill and a decode pool of several workers each."""

    job: ServeJob  # of a replica, or of a decode worker
    replicas: int
    prefill: ServeJob | None = None
    prefill_workers: int = 0
    router: RouterAsk = field(default_factory=RouterAsk)
    tiers: tuple[TierAsk, ...] = ()  # behind the GPUs' caches
    admission: AdmissionAsk = field(default_factory=AdmissionAsk)
    kv_blocks: int | None = None
    idle_gpus: int = 0  # of the cluster, beside the pools

    gpus: int = field(init=False)  # that serve: those of all replicas or of both pools
    paid_gpus: int = field(init=False)  # that cost money: those that serve, and those that idle beside pools

    def __post_init__(self) -> None:
        prompts = self.prefill_workers * self.prefill.layout.gpus if self.prefill else 0
        serving = self.replicas * self.job.layout.gpus + prompts
        object.__setattr__(self, "gpus", serving)
        object.__setattr__(self, "paid_gpus", serving + self.idle_gpus)


@dataclass(frozen=True, slots=True)
class ResolvedServe:
    """A deployment and its load, ready to run, and what had to be assumed to get there."""

    deployment: Deployment
    workload: Workload
    ask: ServeAsk
    profile: str
    price: Price | None
    assumptions: tuple[str, ...]

    def tuning(self, overrides: Mapping[str, float] | None = None) -> Tuning:
        """Constants of the passes: the profile's own before the engine's; `overrides` before both."""
        return engine_tuning({**self.deployment.job.kernels.constants, **(overrides or {})})


def replica_layout(arch: ModelArch, pool: PoolAsk) -> Layout:
    """Layout of one replica; experts not split by ep are split over the remaining ranks (etp)."""
    ranks = pool.tp * pool.attention_dp
    etp = pool.etp
    if arch.is_moe and etp == 1 and ranks % pool.ep == 0:
        etp = ranks // pool.ep
    elif not arch.is_moe and pool.attention_dp > 1:
        raise BadLayout(f"attention_dp={pool.attention_dp} needs experts; {arch.name} is dense: run more replicas")
    if arch.is_moe and pool.ep * etp != ranks:
        raise BadLayout(
            f"ep={pool.ep} x etp={etp} must be tp x attention_dp = {pool.tp} x {pool.attention_dp} = {ranks} GPUs"
        )
    gpus = ranks * pool.pp
    layout = Layout(gpus=gpus, tp=pool.tp, pp=pool.pp, ep=pool.ep, etp=etp, sequence_parallel=False, schedule="1f1b")
    return check_layout(layout, arch)


_PIPELINED = "pipeline: one batch in flight per stage, sequences spread evenly; stages follow each other in rank order"
_POOLED = (
    "pools: GPUs of prefill workers come first, those of decode workers after them; workers in one scale-up domain "
    "hand caches over by its links, others by the NICs of the attention rank that holds the cache"
)


def _check_gpus(scenario: Scenario, used: int) -> None:
    if used > scenario.cluster.gpus or scenario.cluster.gpus % used:
        raise BadLayout(
            f"the layout takes {used} GPUs, which does not divide cluster.gpus={scenario.cluster.gpus}; "
            f"use {used} or a multiple of it"
        )


def _pool_job(job: ServeJob, arch: ModelArch, pool: PoolAsk) -> ServeJob:
    return replace(job, layout=replica_layout(arch, pool))


def _deployment(scenario: Scenario, ask: ServeAsk, job: ServeJob) -> tuple[Deployment, list[str]]:
    if ask.pools is None:
        used = job.layout.gpus
        _check_gpus(scenario, used)
        said = [_PIPELINED] if job.layout.pp > 1 else []
        return Deployment(job, scenario.cluster.gpus // used, kv_blocks=ask.kv_blocks), said
    prefill, decode = (_pool_job(job, job.arch, pool) for pool in (ask.pools.prefill, ask.pools.decode))
    deployment = Deployment(
        decode, ask.pools.decode.workers, prefill, ask.pools.prefill.workers, kv_blocks=ask.kv_blocks
    )
    said = [_POOLED, *([_PIPELINED] if max(prefill.layout.pp, decode.layout.pp) > 1 else [])]
    idle = scenario.cluster.gpus - deployment.gpus
    if idle < 0:
        raise BadLayout(f"the pools take {deployment.gpus} GPUs, more than cluster.gpus={scenario.cluster.gpus}")
    said += [f"{idle:,} of {scenario.cluster.gpus:,} GPUs belong to no pool: idle, and paid for"] if idle else []
    unused = sorted({"tp", "pp", "ep", "etp"} & scenario.layout.model_fields_set)
    if unused and scenario.train is None:
        said.append(f"layout.{', layout.'.join(unused)}: not used, pools lay out their own workers")
    return replace(deployment, idle_gpus=idle), said


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
    seen = look_up(scenario)
    arch, cluster = seen.arch, seen.cluster
    asked = engine_asked(ask.engine)
    _check_args(asked, scenario)
    engine, from_engine = asked.engine.on(cluster.gpu, ask.speculative is not None)
    formats = formats_of(ask.precision, ask.kv_dtype, arch, cluster.gpu, engine)
    job, from_features = _job(scenario, ask, seen, engine, formats)
    workload, from_load = workload_of(ask.requests, arch, requests)
    deployment, from_pools = _deployment(scenario, ask, job)
    deployment = replace(deployment, router=ask.router, tiers=ask.kv_tiers, admission=ask.admission)
    for each in (deployment.job, deployment.prefill or deployment.job):
        check_slots(each.placement, arch, each.layout.ep)
    said = (
        *seen.assumptions,
        *asked.said,
        *_said(from_engine, engine, formats, ask.kv_dtype),
        *routing_assumed(scenario, arch),
        *from_features,
        *from_load,
        *from_pools,
    )
    return ResolvedServe(deployment, workload, ask, seen.profile, seen.price, said)


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
        placement=placement_of(scenario, arch),
    )
    return job, [*from_offload, *from_drafts, *from_adapters, *from_sampling]


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
    said.append(f"weights: attention {formats.attention}, experts {formats.experts}, head {formats.head}")
    if WEIGHT_ONLY in (formats.attention, formats.experts):
        said.append(
            "this GPU has no 8-bit tensor path: 8-bit weights are read and computed with in 16 bits (weight-only)"
        )
    return said
