"""TrainJob: everything that decides one training step, resolved; and how a scenario becomes one.

Look-ups, defaults for what was not said, a list of those, and what own runs of this deployment say of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.power_and_money import Price
from moesim.hwmodels.profile import Profile
from moesim.hwmodels.units import GIB
from moesim.sim.layers.masks import DEFAULT_FACTOR, EINSUM, masks_of
from moesim.sim.layers.recompute import check_words
from moesim.sim.layout.layout import BadLayout, Layout, check_layout
from moesim.sim.layout.pipeline import PAIRABLE
from moesim.sim.layout.slots import BLOCKS, Placement, placement_of
from moesim.sim.layout.uplinks import Uplinks, binding_uplinks, uplink_note
from moesim.sim.model.arch import ModelArch
from moesim.sim.question.lookup import look_up, routing_assumed, routing_of, training_of
from moesim.sim.question.scenario import Scenario, ScenarioError
from moesim.sim.question.sections import PRECISIONS, LayoutAsk, TrainAsk
from moesim.sim.software.dispatchers import borrowed
from moesim.sim.software.stack import Stack, Tuning, release_age, stack_asked
from moesim.sim.train.own_runs import Correction, OwnRuns, load_own_runs
from moesim.sim.train.unlike import ALIKE, Unlike, unlike_of
from moesim.traces.routing import Routing


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """Everything that decides one training step, resolved (no None left to guess)."""

    arch: ModelArch
    cluster: Cluster
    layout: Layout
    stack: Stack
    global_batch: int  # sequences per step
    micro_batch: int
    seq_len: int
    precision: str
    recompute: frozenset[str] = frozenset()
    routing: Routing = field(default_factory=Routing)
    placement: Placement = BLOCKS
    unlike: Unlike = ALIKE
    capacity_factor: float | None = None
    mtp: bool = True
    lora_rank: int = 0
    lora_attention_only: bool = False
    base_bytes: float = 2.0  # bytes per frozen weight (QLoRA: 0.5)
    offload_optimizer: bool = False
    offload_activations: float = 0.0  # share of the kept activations that moves to host memory
    release: str = ""  # software release "YY.MM", empty when unknown
    beside: Uplinks | None = None  # where other jobs are on the fabric: the uplinks of this one among theirs

    width_bytes: float = field(init=False)  # bytes of one weight or activation that is not quantised
    micro_batches: int = field(init=False)  # per data-parallel replica and step
    hides_exchanges: bool = field(init=False)  # behind another micro-batch's compute

    @property
    def offloads(self) -> bool:
        """True where something moves between GPUs and the memory of their hosts."""
        return self.offload_optimizer or self.offload_activations > 0.0

    @property
    def uplinks(self) -> Uplinks | None:
        """Of the leaves that its GPUs hang on; None where all transfers together cannot fill one."""
        return self.beside or binding_uplinks(self.layout, self.cluster)

    def __post_init__(self) -> None:
        object.__setattr__(self, "width_bytes", 4.0 if self.precision == "fp32" else 2.0)
        lay = self.layout
        hidden = lay.ep > 1 and (lay.schedule == "dualpipe" or self.stack.ep_overlap == "hidden")
        object.__setattr__(self, "hides_exchanges", hidden and lay.schedule in ("dualpipe", *PAIRABLE))
        object.__setattr__(self, "micro_batches", self.global_batch // (self.micro_batch * self.layout.dp))


def deployment_of(job: TrainJob) -> str:
    """What a correction is learned for: one model on one kind of GPU, with one stack in one precision."""
    return f"{job.arch.name} on {job.cluster.gpu.name}, {job.stack.name}, {job.precision}"


# bytes per frozen weight under LoRA; nf4 carries one scale per 64 weights, itself quantised (QLoRA)
_BASE_BYTES = {"bf16": 2.0, "fp8": 1.0, "nf4": 0.516}


MAX_SLOTS = 400_000  # forward passes of one pipeline and step; a few seconds of simulation


@dataclass(frozen=True, slots=True)
class Resolved:
    """A job ready to simulate, and what had to be assumed to get there."""

    job: TrainJob
    kernels: Profile
    price: Price | None
    assumptions: tuple[str, ...]
    correction: Correction | None = None  # of this very deployment, where the scenario names a file of them

    def tuning(self, overrides: Mapping[str, float] | None = None) -> Tuning:
        """Constants of the step: the profile's own before the stack's; `overrides` before both."""
        return Tuning({**self.kernels.constants, **(overrides or {})})


def own_runs_of(scenario: Scenario, job: TrainJob) -> OwnRuns | None:
    """Own runs of this deployment, where the scenario names a file that knows it; of any other they say nothing."""
    if scenario.corrections is None:
        return None
    return load_own_runs(scenario.corrections).get(deployment_of(job))


def own_runs_said(scenario: Scenario, job: TrainJob, own: OwnRuns | None) -> list[str]:
    """What is assumed of own runs, whatever the layout."""
    if scenario.corrections is None:
        return []
    name = deployment_of(job)
    if own is None:
        return [f"corrections: {scenario.corrections} knows no own runs of {name}: none applied"]
    return [f"corrections: from {len(own.runs)} own runs of {name}, by how near they are in layout and scale"]


def _layout(ask: LayoutAsk, arch: ModelArch, gpus: int, stack: Stack) -> tuple[Layout, list[str]]:
    assumed = []
    schedule = ask.schedule
    if schedule is None:
        schedule = (
            "dualpipe" if stack.ep_overlap == "dualpipe" and ask.pp > 1 else "interleaved" if ask.vpp > 1 else "1f1b"
        )
        if ask.pp > 1:
            assumed.append(f"layout.schedule = {schedule} (not stated)")
    layout = Layout(
        gpus=gpus,
        schedule=schedule,
        **ask.model_dump(exclude={"dp", "schedule"}),
    )
    check_layout(layout, arch)
    if ask.dp is not None and ask.dp != layout.dp:
        raise BadLayout(
            f"dp={ask.dp} does not fit: {gpus} GPUs / (tp={ask.tp} x cp={ask.cp} x pp={ask.pp}) = {layout.dp}; "
            f"leave dp out or use {ask.dp * ask.tp * ask.cp * ask.pp} GPUs"
        )
    return layout, assumed


def decided(
    stack: Stack, arch: ModelArch, layout: Layout, cluster: Cluster, precision: str, age: str
) -> tuple[Stack, list[str]]:
    """The stack with every setting that is "auto" decided from the job, and what was chosen.

    Rules of tuned recipes (compiled from NVIDIA Megatron-Bridge's performance configurations): dense models overlap
    tensor-parallel transfers, MoE models do not. Exchanges hide behind another micro-batch's compute where they cross
    scale-up domains and the schedule is interleaved 1F1B, releases before 26.02 excepted. Tokens travel by Hybrid-EP on
    NVL72, by DeepEP on x86 hosts, there by NCCL before 26.02; in plain PyTorch by NCCL. From 26.06 on gated experts run
    as fused kernels in MXFP8 on Blackwell.
    """
    plain = stack.constants_of == "torch-eager"
    young, gated = age == "young", arch.moe is not None and arch.moe.gated
    crosses = layout.ep > 1 and layout.group("ep", cluster).domains > 1
    fusable = precision in ("mxfp8", "nvfp4") and cluster.gpu.generation == "blackwell"
    kernels = "hybridep" if cluster.domain > 8 else "deepep"
    rules: dict[str, Any] = {
        "tp_overlap": not arch.is_moe,
        "ep_overlap": "hidden" if layout.schedule == "interleaved" and crosses and not young else "none",
        "dispatcher": "alltoall" if plain or (young and cluster.host_cpu == "x86") else kernels,
        "fused_experts": age == "late" and gated and fusable,
    }
    chosen = {key: value for key, value in rules.items() if getattr(stack, key) == "auto"}
    shown = ("tp_overlap",) if not arch.is_moe else tuple(rules)
    said = [f"{key} = {chosen[key]} (what auto means for this job)" for key in shown if key in chosen]
    return replace(stack, **chosen), said


def _check_batch(train: TrainAsk, layout: Layout) -> None:
    per_pass = train.micro_batch * layout.dp
    if train.global_batch % per_pass:
        lower = max(per_pass, train.global_batch // per_pass * per_pass)
        raise ScenarioError(
            f"global_batch={train.global_batch} is not a multiple of micro_batch x dp = {train.micro_batch} x "
            f"{layout.dp} "
            f"= {per_pass}; use {lower} or {lower + per_pass}"
        )
    slots = train.global_batch // per_pass * layout.chunks
    if slots > MAX_SLOTS:
        raise ScenarioError(
            f"global_batch={train.global_batch} gives {train.global_batch // per_pass:,} micro-batches on "
            f"{layout.chunks} "
            f"virtual stages; at most {MAX_SLOTS:,} forward passes per pipeline are simulated: raise micro_batch or dp"
        )
    if train.seq_len % layout.cp:
        raise ScenarioError(f"cp={layout.cp} does not divide seq_len={train.seq_len}")
    if layout.schedule == "dualpipe":
        count = train.global_batch // per_pass
        if count % 2 or count < 2 * layout.pp:
            raise ScenarioError(
                f"dualpipe needs an even number of micro-batches of at least {2 * layout.pp}; global_batch="
                f"{train.global_batch} gives {count}; use {2 * layout.pp * per_pass} or more, or schedule=1f1b"
            )


def recompute_modules(names: tuple[str, ...], arch: ModelArch, stack: Stack) -> frozenset[str]:
    """Modules to run again in the backward, from a scenario's names. ScenarioError when nothing would run again.

    "selective" is what the stack means by it: the core of attention (Korthikanti et al. 2022), or single operators;
    "light" is what costs little to run again.
    """
    modules: set[str] = set()
    for name in names:
        if name == "selective":
            modules.add(stack.selective)
        elif name == "light":
            modules |= _light(arch, stack)
        elif name != "none":
            modules.add(name)
    if modules == {"keep_collectives"}:
        raise ScenarioError("recompute: keep_collectives keeps transfers of what runs again; add full or a module")
    check_words(sorted(modules), arch)
    return frozenset(modules)


def _light(arch: ModelArch, stack: Stack) -> set[str]:
    """Parts that keep much and cost little to run again."""
    light = {"layernorm"}
    if arch.is_moe:
        light.add("moe_act")
    if arch.attention is not None and arch.attention.is_mla:
        light.add("mla_up_proj")
    if stack.attention_kernel == "unfused":
        light.add("core_attention")
    return light


def capacity_of(train: TrainAsk, micro_batch: int, arch: ModelArch, layout: Layout, stack: Stack) -> float | None:
    """Rows per expert over their mean: as asked; with masks their slots, which are whole rows of every group."""
    if stack.dispatcher != EINSUM or arch.moe is None:
        return train.capacity_factor
    tokens = max(1, micro_batch * train.seq_len // layout.cp // layout.dispatch_split)
    asked = train.capacity_factor or DEFAULT_FACTOR
    return masks_of(tokens, arch.moe.experts, arch.moe.top_k, asked, stack).factor(arch.moe.top_k)


def _without_use(train: TrainAsk, arch: ModelArch) -> list[str]:
    """What was asked for and changes nothing with this model."""
    said = []
    if train.mtp and "mtp" in train.model_fields_set and not arch.mtp_layers:
        said.append(f"mtp: changes nothing, {arch.name} has no prediction modules")
    if train.capacity_factor is not None and not arch.is_moe:
        said.append(f"capacity_factor: changes nothing, {arch.name} has no experts")
    if "full" in train.recompute and len(train.recompute) > 1:
        said.append("recompute = full: everything, whatever stands beside it")
    return said


def _capacity_said(train: TrainAsk, job: TrainJob) -> list[str]:
    """What is assumed of slots where masks decide them."""
    if job.stack.dispatcher != EINSUM or job.capacity_factor is None:
        return []
    asked = f"{train.capacity_factor:g}" if train.capacity_factor else f"{DEFAULT_FACTOR:g} (not stated)"
    return [f"capacity_factor = {asked}: {job.capacity_factor:.4g} in whole rows of every group that masks route"]


def train_job(
    scenario: Scenario, train: TrainAsk, arch: ModelArch, cluster: Cluster, layout: Layout, stack: Stack
) -> TrainJob:
    """The job of a training scenario on these machines, laid out like this."""
    return TrainJob(
        arch=arch,
        cluster=cluster,
        layout=layout,
        stack=stack,
        global_batch=train.global_batch,
        micro_batch=train.micro_batch,
        seq_len=train.seq_len,
        precision=train.precision,
        recompute=recompute_modules(train.recompute, arch, stack),
        routing=routing_of(scenario),
        placement=placement_of(scenario, arch),
        unlike=unlike_of(scenario, cluster),
        capacity_factor=capacity_of(train, train.micro_batch, arch, layout, stack),
        mtp=train.mtp,
        lora_rank=train.lora.rank if train.lora else 0,
        lora_attention_only=bool(train.lora and train.lora.targets == "attention"),
        base_bytes=_BASE_BYTES[train.lora.base_dtype] if train.lora else 2.0,
        offload_optimizer=train.offload_optimizer,
        offload_activations=train.offload_activations,
        release=scenario.release or "",
    )


def check_precision(train: TrainAsk, cluster: Cluster, kernels: Profile) -> None:
    """ScenarioError for a precision that the GPU has no tensor path for, or that nobody measured (fp32)."""
    if not cluster.gpu.supports(train.precision):
        able = (p for p in PRECISIONS if cluster.gpu.supports(p) and (p != "fp32" or p in kernels.gemms))
        have = ", ".join(able)
        raise ScenarioError(f"precision={train.precision} has no tensor path on {cluster.gpu.name}; use one of {have}")


def check_host_link(train: TrainAsk, cluster: Cluster) -> None:
    """ScenarioError for a job that keeps something in host memory on GPUs whose link there nobody knows."""
    asked = [f"offload_activations={train.offload_activations:g}"] if train.offload_activations else []
    asked += ["offload_optimizer"] if train.offload_optimizer else []
    if asked and cluster.gpu.host_link_bytes_per_s <= 0.0:
        raise ScenarioError(
            f"{asked[0]} cannot be timed: the data sheet of {cluster.gpu.name} says nothing of a link to the host's "
            "memory; leave it out, or take a GPU with PCIe"
        )


def resolve(scenario: Scenario) -> Resolved:
    """Everything looked up and checked. ScenarioError, BadLayout, ArchError or FactError say what is wrong."""
    train = training_of(scenario)
    seen = look_up(scenario)
    arch, cluster, assumed = seen.arch, seen.cluster, [*seen.assumptions]
    stack, from_stack = stack_asked(scenario.stack, cluster)
    layout, from_layout = _layout(scenario.layout, arch, cluster.gpus, stack)
    stack, from_rules = decided(stack, arch, layout, cluster, train.precision, release_age(scenario.release or ""))
    _check_batch(train, layout)
    check_precision(train, cluster, seen.kernels)
    check_host_link(train, cluster)
    if scenario.release is None:
        assumed.append("release = unknown (software of the published rows' middle age)")
    job = train_job(scenario, train, arch, cluster, layout, stack)
    if layout.ep > 1 and layout.group("ep", cluster).domains > 1 and borrowed(cluster.fabric_kind, stack.dispatcher):
        from_rules.append(borrowed(cluster.fabric_kind, stack.dispatcher))
    if stack.ep_overlap == "hidden" and arch.is_moe and not job.hides_exchanges:
        why = (
            "experts are on one rank"
            if layout.ep == 1
            else f"schedule {layout.schedule} runs no pairs of micro-batches"
        )
        from_rules.append(f"ep_overlap = hidden has no effect: {why}")
    if job.offloads:
        has = cluster.host_memory_bytes
        size = f"{has / GIB:,.0f} GiB a host ({cluster.host_memory_source})" if has else "not known: not checked"
        from_rules.append(f"cluster.host_memory_bytes = {size}")
    if job.lora_rank and arch.is_moe and not job.lora_attention_only:
        from_rules.append("lora.targets = all: attention, dense blocks and shared experts; routed experts carry none")
    from_rules += _without_use(train, arch)
    from_rules += _capacity_said(train, job)
    own = own_runs_of(scenario, job)
    correction, from_runs = own.at(job) if own else None, own_runs_said(scenario, job, own)
    if correction is not None:
        from_runs.append(f"corrections: step x {correction.factor:.3f}, {correction.near}")
    about_routing = routing_assumed(scenario, arch)
    note = uplink_note(layout, cluster)
    said = (*assumed, *([note] if note else []), *from_layout, *from_stack, *from_rules, *about_routing, *from_runs)
    return Resolved(job, seen.kernels, seen.price, said, correction)
