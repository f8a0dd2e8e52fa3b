"""ServeJob: what decides the passes of one replica; Deployment: replicas or pools of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.power_and_money import Price
from moesim.hwmodels.profile import Profile
from moesim.sim.layout.layout import BadLayout, Layout, check_layout
from moesim.sim.layout.slots import Placement
from moesim.sim.model.arch import ModelArch
from moesim.sim.question.serving_sections import AdmissionAsk, ChangeAsk, PoolAsk, RouterAsk, ServeAsk, TierAsk
from moesim.sim.serve.drafts import Speculation
from moesim.sim.serve.offload import Offload
from moesim.sim.serve.sampling import Sampling
from moesim.sim.serve.weight_formats import Formats
from moesim.sim.serve.workload import Workload
from moesim.sim.software.serving_engine import Engine, engine_tuning
from moesim.sim.software.stack import Tuning
from moesim.traces.routing import Routing


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """LoRA adapters that are served beside each other; sequences spread evenly over them."""

    count: int
    rank: int
    targets: str = "all"  # linear layers that have them: attention, or all


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """Routed experts on GPUs of their own, to and from which a replica's sequences go in so many batches."""

    gpus: int
    batches: int


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
    published: bool = False  # its weights are those of the published checkpoint, in the formats that this says
    apart: Apart | None = None  # experts that lie elsewhere: the layout is that of attention then
    placement: Placement = field(default_factory=Placement)  # of experts on the ranks of one replica
    first_gpu: int = 0  # of the cluster, that this replica's ranks begin at
    joins: int = 0  # of a job that drafts: hidden states that its layer joins into one first
    drafts_checked: int = 0  # of such a job: drafts per sequence that it catches up with

    attention_dp: int = field(init=False)  # ranks (tensor groups) that hold requests of their own

    def __post_init__(self) -> None:
        object.__setattr__(self, "attention_dp", self.layout.dp)

    @property
    def gpus(self) -> int:
        """Of one replica, those of experts that lie apart included."""
        return self.layout.gpus + (self.apart.gpus if self.apart is not None else 0)

    @property
    def expert_slots(self) -> int:
        """Expert copies beyond one each, over the whole replica."""
        return self.placement.spare_slots


@dataclass(frozen=True, slots=True)
class Group:
    """Workers that are alike: replicas, or one pool."""

    role: str  # serve (prompts and tokens), prefill or decode
    job: ServeJob
    workers: int
    own: bool = False  # machines of its own, beside those of the cluster
    price: Price | None = None  # of those

    @property
    def gpus(self) -> int:
        """Of all its workers."""
        return self.workers * self.job.gpus


@dataclass(frozen=True, slots=True)
class Deployment:
    """What serves: replicas of one job, or prefill and decode pools of several workers each."""

    job: ServeJob  # of a replica, or of a decode worker
    replicas: int
    prefill: ServeJob | None = None
    prefill_workers: int = 0
    pools: tuple[Group, ...] = ()  # all of them, where one is of other machines, or there are more than two
    local_tokens: int = 0  # prompts of which at most so many are to be computed stay on the decode worker
    changes: tuple[ChangeAsk, ...] = ()  # of the workers in each pool
    switch_s: float = 0.0
    router: RouterAsk = field(default_factory=RouterAsk)
    tiers: tuple[TierAsk, ...] = ()  # behind the GPUs' caches
    admission: AdmissionAsk = field(default_factory=AdmissionAsk)
    kv_blocks: int | None = None
    idle_gpus: int = 0  # of the cluster, beside the pools

    gpus: int = field(init=False)  # that serve: those of all replicas or of both pools
    paid_gpus: int = field(init=False)  # that cost money: those that serve, and those that idle beside pools

    def __post_init__(self) -> None:
        serving = sum(group.gpus for group in self.groups)
        object.__setattr__(self, "gpus", serving)
        object.__setattr__(self, "paid_gpus", serving + self.idle_gpus)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Workers by pool, prefill before decode; replicas are one group."""
        if self.pools:
            return self.pools
        if self.prefill is None:
            return (Group("serve", self.job, self.replicas),)
        return (Group("prefill", self.prefill, self.prefill_workers), Group("decode", self.job, self.replicas))


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
