"""Resolve a Scenario into a TrainJob: catalogue look-ups, defaults for what was not said, and a list of those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moesim.hwmodels.cluster import Cluster, build_cluster, node_for_gpu
from moesim.hwmodels.gpu import load_gpu
from moesim.hwmodels.machine import load_machine, machine_cluster
from moesim.hwmodels.profile import Profile, is_profile_file, load_profile
from moesim.sim.layout.layout import BadLayout, Layout, check_layout
from moesim.sim.model.arch import ModelArch
from moesim.sim.model.catalogue import load_model
from moesim.sim.question.scenario import PRECISIONS, LayoutAsk, Scenario, ScenarioError, TrainAsk
from moesim.sim.software.stack import Stack, Tuning, load_stack, release_age
from moesim.sim.train.corrections import Correction, deployment_of, load_corrections
from moesim.sim.train.job import TrainJob
from moesim.traces.routing import Routing, load_counts

# what "selective" means: keep everything but what attention can redo cheaply (Korthikanti et al. 2022)
_SELECTIVE = frozenset({"core_attention"})
# bytes per frozen weight under LoRA; nf4 carries one scale per 64 weights, itself quantised (QLoRA)
_BASE_BYTES = {"bf16": 2.0, "fp8": 1.0, "nf4": 0.516}


MAX_SLOTS = 400_000  # forward passes of one pipeline and step; a few seconds of simulation


@dataclass(frozen=True, slots=True)
class Resolved:
    """A job ready to simulate, and what had to be assumed to get there."""

    job: TrainJob
    profile: str
    kernels: Profile
    assumptions: tuple[str, ...]
    correction: Correction | None = None  # of this very deployment, where the scenario names a file of them

    def tuning(self, overrides: Mapping[str, float] | None = None) -> Tuning:
        """Constants of the step: the profile's own before the stack's; `overrides` before both."""
        return Tuning({**self.kernels.constants, **(overrides or {})})


def _own_machine(scenario: Scenario) -> Cluster | None:
    """The machine of a profile file where no other hardware is named."""
    ask, profile = scenario.cluster, scenario.profile
    if profile is None or not is_profile_file(profile) or ask.node or ask.gpu:
        return None
    return machine_cluster(load_machine(profile, ask.gpus), ask.gpus)


def kernels_of(profile: str, cluster: Cluster) -> tuple[Profile, list[str]]:
    """Kernel fits: the shipped ones of a GPU by name, or those of a profile file, which must be of the same GPU."""
    if not is_profile_file(profile):
        if load_gpu(profile).name == cluster.gpu.name:
            return load_profile(profile), []
        note = f"profile = {profile} (asked for): kernels measured on another GPU than {cluster.gpu.name}"
        return load_profile(profile), [note]
    found = load_machine(profile, cluster.gpus)
    if found.gpu != cluster.gpu.name:
        raise ScenarioError(
            f"profile {profile} was measured on {found.gpu}, the scenario asks for {cluster.gpu.name}; "
            "leave cluster.node and cluster.gpu out, or calibrate there"
        )
    return found, [f"profile = {profile}: kernels measured on the machine itself"]


def _correction(scenario: Scenario, job: TrainJob) -> tuple[Correction | None, list[str]]:
    """What own runs of this very deployment say; of any other they say nothing."""
    if scenario.corrections is None:
        return None, []
    name = deployment_of(job)
    found = load_corrections(scenario.corrections).get(name)
    if found is None:
        return None, [f"corrections: {scenario.corrections} knows no own runs of {name}: none applied"]
    return found, [f"corrections: step x {found.factor:.3f}, from {found.rows} own runs of {name}"]


def resolve_cluster(scenario: Scenario) -> tuple[Cluster, list[str]]:
    """The machines of a scenario, and what was assumed about them."""
    ask = scenario.cluster
    own = _own_machine(scenario)
    if own is not None:
        return own, []
    assumed = []
    node = ask.node
    if node is None:
        if ask.gpu is None:
            raise ScenarioError("cluster needs a node (for example dgx-h100) or a gpu (for example H100)")
        node = node_for_gpu(ask.gpu)
        assumed.append(f"cluster.node = {node} (usual node of {ask.gpu})")
    elif ask.gpu is not None and load_gpu(ask.gpu).name != build_cluster(node, 1).gpu.name:
        raise ScenarioError(
            f"cluster.node={node} holds {build_cluster(node, 1).gpu.name}, not {ask.gpu}; leave gpu or node out"
        )
    cluster = build_cluster(node, ask.gpus, ask.fabric, ask.nic_bytes_per_s, ask.oversubscription)
    if ask.fabric is None and cluster.domains > 1:
        assumed.append(
            f"cluster.fabric = {cluster.fabric}, {cluster.nic_bytes_per_s / 1e9:g} GB/s per GPU (node's NICs)"
        )
    return cluster, assumed


DEFAULT_STACK = "megatron-tuned"  # assumed when none is named


def stack_of(scenario: Scenario, cluster: Cluster) -> tuple[Stack, list[str]]:
    """The software of a scenario, settings that wait for the layout still "auto", and what was assumed about it."""
    ask = scenario.stack
    overrides: dict[str, Any] = {}
    if isinstance(ask, dict):
        overrides = dict(ask)
        name = str(overrides.pop("name", DEFAULT_STACK))
    else:
        name = ask or DEFAULT_STACK
    stack, assumed = load_stack(name, cluster, overrides)
    if ask is None:
        assumed.insert(0, f"stack = {name} (not stated)")
    return stack, assumed


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
    scale-up domains and there are virtual stages, releases before 26.02 excepted. Tokens travel by Hybrid-EP on NVL72,
    by DeepEP on x86 hosts, there by NCCL before 26.02; in plain PyTorch by NCCL. From 26.06 on gated experts run as
    fused kernels in MXFP8 on Blackwell.
    """
    plain = stack.constants_of == "torch-eager"
    young, gated = age == "young", arch.moe is not None and arch.moe.gated
    crosses = layout.ep > 1 and layout.group("ep", cluster).domains > 1
    fusable = precision in ("mxfp8", "nvfp4") and cluster.gpu.generation == "blackwell"
    kernels = "hybridep" if cluster.domain > 8 else "deepep"
    rules: dict[str, Any] = {
        "tp_overlap": not arch.is_moe,
        "ep_overlap": "hidden" if layout.vpp > 1 and crosses and not young else "none",
        "dispatcher": "alltoall" if plain or (young and cluster.host_cpu == "x86") else kernels,
        "fused_experts": age == "late" and gated and fusable,
    }
    chosen = {key: value for key, value in rules.items() if getattr(stack, key) == "auto"}
    shown = ("tp_overlap",) if not arch.is_moe else tuple(rules)
    said = [f"{key} = {chosen[key]} (what auto means for this job)" for key in shown if key in chosen]
    return replace(stack, **chosen), said


def resolve_routing(scenario: Scenario) -> Routing:
    """How tokens spread over experts."""
    ask = scenario.routing
    if isinstance(ask, str):
        return Routing()
    if ask.counts is not None:
        load_counts(Path(ask.counts))
        return Routing(kind="counts", counts_file=ask.counts)
    return Routing(kind="lognormal", sigma=ask.lognormal or 0.0, seed=ask.seed)


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


def recompute_modules(names: tuple[str, ...]) -> frozenset[str]:
    """Modules to run again in the backward, from a scenario's names. ScenarioError when nothing runs again."""
    modules: set[str] = set()
    for name in names:
        if name == "selective":
            modules |= _SELECTIVE
        elif name != "none":
            modules.add(name)
    if modules == {"keep_collectives"}:
        raise ScenarioError("recompute: keep_collectives keeps transfers of what runs again; add full or a module")
    return frozenset(modules)


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
        recompute=recompute_modules(train.recompute),
        routing=resolve_routing(scenario),
        capacity_factor=train.capacity_factor,
        mtp=train.mtp,
        lora_rank=train.lora.rank if train.lora else 0,
        lora_attention_only=bool(train.lora and train.lora.targets == "attention"),
        base_bytes=_BASE_BYTES[train.lora.base_dtype] if train.lora else 2.0,
        offload_optimizer=train.offload_optimizer,
        offload_activations=train.offload_activations,
        release=scenario.release or "",
    )


def training_of(scenario: Scenario) -> TrainAsk:
    """The training section. ScenarioError where there is none."""
    if scenario.train is None:
        raise ScenarioError("the scenario has no train section; add train: {global_batch: ..., seq_len: ...}")
    return scenario.train


def check_precision(train: TrainAsk, cluster: Cluster, kernels: Profile) -> None:
    """ScenarioError for a precision that the GPU has no tensor path for, or that nobody measured (fp32)."""
    if not cluster.gpu.supports(train.precision):
        able = (p for p in PRECISIONS if cluster.gpu.supports(p) and (p != "fp32" or p in kernels.gemms))
        have = ", ".join(able)
        raise ScenarioError(f"precision={train.precision} has no tensor path on {cluster.gpu.name}; use one of {have}")


def resolve(scenario: Scenario) -> Resolved:
    """Everything looked up and checked. ScenarioError, BadLayout, ArchError or FactError say what is wrong."""
    train = training_of(scenario)
    arch = load_model(scenario.model)
    cluster, assumed = resolve_cluster(scenario)
    stack, from_stack = stack_of(scenario, cluster)
    layout, from_layout = _layout(scenario.layout, arch, cluster.gpus, stack)
    stack, from_rules = decided(stack, arch, layout, cluster, train.precision, release_age(scenario.release or ""))
    _check_batch(train, layout)
    profile = scenario.profile or cluster.gpu.name
    kernels, from_profile = kernels_of(profile, cluster)
    assumed += from_profile
    check_precision(train, cluster, kernels)
    if scenario.release is None:
        assumed.append("release = unknown (software of the published rows' middle age)")
    job = train_job(scenario, train, arch, cluster, layout, stack)
    correction, from_runs = _correction(scenario, job)
    said = (*assumed, *from_layout, *from_stack, *from_rules, *from_runs)
    return Resolved(job, profile, kernels, said, correction)
