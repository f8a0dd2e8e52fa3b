"""Resolve a Scenario into a TrainJob: catalogue look-ups, defaults for what was not said, and a list of those."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwmodels.cluster import Cluster, build_cluster, node_for_gpu
from hwmodels.gpu import load_gpu
from sim.arch import ModelArch
from sim.arch_catalogue import load_model
from sim.job import TrainJob
from sim.layout import BadLayout, Layout, check_layout
from sim.release import release_age
from sim.scenario import PRECISIONS, LayoutAsk, Scenario, ScenarioError, TrainAsk
from sim.stack import Stack, load_stack
from traces.routing import Routing, load_counts

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
    assumptions: tuple[str, ...]


def resolve_cluster(scenario: Scenario) -> tuple[Cluster, list[str]]:
    """The cluster that is asked for, and what had to be assumed about it."""
    ask = scenario.cluster
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


def _stack(scenario: Scenario, cluster: Cluster) -> tuple[Stack, list[str]]:
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
    scale-up domains and there are virtual stages, releases before 26.02 excepted. Tokens travel once per rank and node
    except on x86 hosts before 26.02. From 26.06 on gated experts run as fused kernels in MXFP8 on Blackwell.
    """
    young, gated = age == "young", arch.moe is not None and arch.moe.gated
    crosses = layout.ep > 1 and layout.group("ep", cluster).domains > 1
    fusable = precision in ("mxfp8", "nvfp4") and cluster.gpu.generation == "blackwell"
    rules: dict[str, Any] = {
        "tp_overlap": not arch.is_moe,
        "ep_overlap": "hidden" if layout.vpp > 1 and crosses and not young else "none",
        "deduplicated_dispatch": not (young and cluster.host_cpu == "x86"),
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
    """Modules to run again in the backward, from the names a scenario may use."""
    modules: set[str] = set()
    for name in names:
        if name == "selective":
            modules |= _SELECTIVE
        elif name != "none":
            modules.add(name)
    return frozenset(modules)


def resolve(scenario: Scenario) -> Resolved:
    """Everything looked up and checked. ScenarioError, BadLayout, ArchError or FactError say what is wrong."""
    train = scenario.train
    if train is None:
        raise ScenarioError("the scenario has no train section; add train: {global_batch: ..., seq_len: ...}")
    arch = load_model(scenario.model)
    cluster, assumed = resolve_cluster(scenario)
    stack, from_stack = _stack(scenario, cluster)
    layout, from_layout = _layout(scenario.layout, arch, cluster.gpus, stack)
    age = release_age(scenario.release or "")
    stack, from_rules = decided(stack, arch, layout, cluster, train.precision, age)
    _check_batch(train, layout)
    if not cluster.gpu.supports(train.precision):
        have = ", ".join(p for p in PRECISIONS if cluster.gpu.supports(p))
        raise ScenarioError(f"precision={train.precision} has no tensor path on {cluster.gpu.name}; use one of {have}")
    profile = scenario.profile or cluster.gpu.name
    if load_gpu(profile).name != cluster.gpu.name:
        assumed.append(f"profile = {profile} (asked for): kernels measured on another GPU than {cluster.gpu.name}")
    if scenario.release is None:
        assumed.append("release = unknown (software of the published rows' middle age)")
    job = TrainJob(
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
    return Resolved(job, profile, tuple(assumed + from_layout + from_stack + from_rules))
