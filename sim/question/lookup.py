"""Look-up: the model, the machines, the kernels and the price that a scenario names, found alike for every verb.

What a scenario says and its verb has no use for is refused here: an answer must not echo what it did not use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from moesim.hwmodels.cluster import Cluster, build_cluster, fabric_kinds, node_for_gpu, with_hosts_of
from moesim.hwmodels.facts import read_yaml
from moesim.hwmodels.gpu import load_gpu
from moesim.hwmodels.hardware import hardware_of
from moesim.hwmodels.machine import load_machine, machine_cluster
from moesim.hwmodels.measured_transfers import describe
from moesim.hwmodels.power_and_money import Price, price_of
from moesim.hwmodels.profile import Profile, is_profile_file, load_profile, profile_of
from moesim.hwmodels.torus import torus_note
from moesim.sim.model.arch import ModelArch
from moesim.sim.model.catalogue import load_model
from moesim.sim.model.unpriced import unpriced
from moesim.sim.question.scenario import Scenario, ScenarioError
from moesim.sim.question.sections import LayoutAsk, TrainAsk
from moesim.traces.routing import Routing, load_counts


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUp:
    """What a scenario's names stand for. `profile` is the name or file whose kernels are used."""

    arch: ModelArch
    cluster: Cluster
    profile: str
    kernels: Profile
    price: Price | None
    assumptions: tuple[str, ...]


def look_up(scenario: Scenario) -> LookUp:
    """Model, machines, kernels and price of a scenario. A Refusal for what does not exist, or could not be used."""
    check_used(scenario)
    arch = load_model(scenario.model)
    cluster, assumed = _cluster(scenario)
    profile = scenario.profile or cluster.gpu.name
    kernels, said = _kernels(scenario.profile, cluster)
    price = price_of(cluster.gpu, scenario.price_usd_per_gpu_hour)
    return LookUp(
        arch=arch,
        cluster=cluster,
        profile=profile,
        kernels=kernels,
        price=price,
        assumptions=(*assumed, *said, *arch.said, *unpriced(arch)),
    )


@cache
def usual_routing() -> Routing:
    """How tokens spread over experts where a scenario does not say: one process for training and for serving."""
    values = read_yaml(Path(__file__).parent / "routing.yaml")
    return Routing(kind="lognormal", **{name: record["value"] for name, record in values.items()})


def routing_of(scenario: Scenario) -> Routing:
    """How tokens spread over experts: what the scenario says, else the usual process. BadTrace for an unusable file."""
    ask = scenario.routing
    if ask is None:
        return usual_routing()
    if isinstance(ask, str):
        return Routing()
    if ask.counts is not None:
        load_counts(Path(ask.counts))
    return Routing(
        kind="lognormal" if ask.counts is None else "counts",
        sigma=ask.lognormal or 0.0,
        counts_file=ask.counts,
        **ask.model_dump(include={"group_sigma", "topic", "group_topic", "drift", "sampling", "seed"}),
    )


def routing_said(routing: Routing) -> str:
    """A routing process in one line, as every verb says it."""
    if routing.kind == "balanced":
        return "routing = balanced (every expert gets as much)"
    said = f"lognormal {routing.sigma:g}" if routing.kind == "lognormal" else f"counts of {routing.counts_file}"
    if routing.group_sigma:
        said += f" ({routing.group_sigma:g} between router groups)"
    if routing.has_topics:
        said += f", topics {routing.topic:g} ({routing.group_topic:g} between router groups)"
    if routing.drift < 1.0:
        said += f", drift {routing.drift:g} a step"
    return f"routing = {said}, {'drawn' if routing.sampling else 'as expected'} in every batch"


def routing_assumed(scenario: Scenario, arch: ModelArch) -> list[str]:
    """What is assumed about routing: nothing where the scenario says it; that it is of no use without experts."""
    if not arch.is_moe:
        said = scenario.routing not in (None, "balanced")
        return [f"routing: changes nothing, {arch.name} has no experts"] if said else []
    if scenario.routing is not None:
        return []
    return [f"{routing_said(usual_routing())} (not stated: a training batch mixes topics, a served load is of one)"]


def _own_machine(scenario: Scenario) -> Cluster | None:
    """The machine of a profile file where no other hardware is named."""
    ask, profile = scenario.cluster, scenario.profile
    if profile is None or not is_profile_file(profile) or ask.node or ask.gpu:
        return None
    return machine_cluster(load_machine(profile, ask.gpus), ask.gpus)


def _cluster(scenario: Scenario) -> tuple[Cluster, list[str]]:
    """The machines of a scenario, and what was assumed about them."""
    ask = scenario.cluster
    own = _own_machine(scenario)
    if own is not None:
        if ask.gpus_per_node is not None:
            raise ScenarioError(f"cluster.gpus_per_node: the machine of {scenario.profile} is one host; leave it out")
        return own, []
    hardware = hardware_of(ask.hardware)
    assumed = []
    node = ask.node
    if node is None:
        if ask.gpu is None:
            raise ScenarioError("cluster needs a node (for example dgx-h100) or a gpu (for example H100)")
        node = node_for_gpu(ask.gpu, hardware)
        if hardware.instance_called(ask.gpu) is None:
            assumed.append(f"cluster.node = {node} (usual node of {ask.gpu})")
    cluster = build_cluster(
        node, ask.gpus, ask.fabric, ask.nic_bytes_per_s, ask.oversubscription, hardware=hardware
    )  # fmt: skip
    if ask.gpu is not None and ask.node is not None and load_gpu(ask.gpu, hardware).name != cluster.gpu.name:
        raise ScenarioError(f"cluster.node={node} holds {cluster.gpu.name}, not {ask.gpu}; leave gpu or node out")
    assumed += hardware.assumed(("gpus", cluster.gpu.name), ("nodes", node), ("fabrics", cluster.fabric))
    if ask.gpus_per_node is not None:
        cluster = with_hosts_of(cluster, ask.gpus_per_node)
    if ask.host_memory_bytes is not None:
        cluster = replace(cluster, host_memory_bytes=ask.host_memory_bytes, host_memory_source="as asked")
    if cluster.domains > 1 and (ask.fabric is None or ask.fabric in fabric_kinds()):
        why = f"{cluster.fabric_kind}: node's NICs" if ask.fabric is None else f"the nearest {ask.fabric}"
        rate = f"{cluster.nic_bytes_per_s / 1e9:g} GB/s per GPU"
        assumed.append(f"cluster.fabric = {cluster.fabric}, {rate} ({why})")
    note = torus_note(cluster)
    return cluster, [*assumed, note] if note else assumed


def _kernels(asked: str | None, cluster: Cluster) -> tuple[Profile, list[str]]:
    """Kernel fits: the GPU's own, those of another by name, or those of a profile file of the same GPU."""
    name = cluster.gpu.name
    if asked is None or asked == name or (not is_profile_file(asked) and load_gpu(asked).name == name):
        kernels = profile_of(cluster.gpu)
        lent = f"kernels of {kernels.gpu} = derived from {kernels.derived_from}: {kernels.derived_note}"
        return kernels, [lent] if kernels.derived_from else []
    if not is_profile_file(asked):
        return load_profile(asked), [f"profile = {asked} (asked for): kernels measured on another GPU than {name}"]
    measured = load_machine(asked, cluster.gpus)
    if measured.gpu != name:
        raise ScenarioError(
            f"profile {asked} was measured on {measured.gpu}, the scenario asks for {name}; "
            "leave cluster.node and cluster.gpu out, or calibrate there"
        )
    return measured, _said_of_file(asked, measured)


def _said_of_file(profile: str, kernels: Profile) -> list[str]:
    """What a profile file is of: a machine measured as a whole, or a shipped profile with parts of the user's own."""
    if kernels.device is not None:
        return [f"profile = {profile}: kernels measured on the machine itself"]
    parts = [*sorted(kernels.own_kernels), describe(kernels.transfers)]
    own = "; ".join(part for part in parts if part)
    if not own:
        return [f"profile = {profile}: kernels of a profile file of {kernels.gpu}"]
    return [f"profile = {profile}: from own logs or traces {own}; everything else as shipped"]


# what only training uses, and what would do instead in serving
_OF_TRAINING = {
    "stack": "name the engine in serve.engine",
    "release": "name the engine in serve.engine",
    "corrections": "name your own machine's measured kernels in profile",
    "slow": "it has no slow GPUs",
    "jitter": "it has no jitter",
    "links": "it has no degraded links",
}
_LAYOUT_OF_TRAINING = (
    "dp", "zero", "zero_group", "schedule", "sequence_parallel", "duplicates", "stage_layers",
)  # fmt: skip


def check_used(scenario: Scenario) -> None:
    """ScenarioError for keys of one verb that are set where there is nothing but the other."""
    if scenario.serve is None and scenario.placement is not None and scenario.placement.rebalance_every_steps:
        raise ScenarioError(
            "placement.rebalance_every_steps is about serving, and this scenario only trains: leave it out; "
            "placement.plan_age_steps says how old a plan is"
        )
    if scenario.train is not None or scenario.serve is None:
        return
    for key, instead in _OF_TRAINING.items():
        if getattr(scenario, key) is not None:
            raise ScenarioError(f"{key} is about training, and this scenario only serves: leave it out, {instead}")
    for key in _LAYOUT_OF_TRAINING:
        if key in scenario.layout.model_fields_set:
            raise ScenarioError(
                f"layout.{key} is about training, and this scenario only serves: leave it out; a replica is laid out "
                "by tp, pp, ep, etp and serve.attention_dp, and cluster.gpus says how many there are"
            )


def for_serving(scenario: Scenario) -> Scenario:
    """The scenario as serving sees it: the layout of its replicas is that of serve.layout, where there is one."""
    ask = scenario.serve
    if ask is None or ask.layout is None:
        return scenario
    layout = LayoutAsk(**ask.layout.model_dump(exclude_unset=True))
    serve = ask.model_copy(update={"layout": None})
    return scenario.model_copy(update={"layout": layout, "serve": serve})


def without_training(scenario: dict[str, object]) -> dict[str, object]:
    """A mapping with both sections as one that only serves: what only training uses is left out."""
    serve = scenario.get("serve")
    own = serve.get("layout") if isinstance(serve, dict) else None
    layout = own or scenario.get("layout") or {}
    assert isinstance(layout, dict)
    kept = {key: value for key, value in layout.items() if key not in _LAYOUT_OF_TRAINING}
    rest = {key: value for key, value in scenario.items() if key not in ("train", "layout", *_OF_TRAINING)}
    if own and isinstance(serve, dict):
        rest["serve"] = {key: value for key, value in serve.items() if key != "layout"}
    return rest | ({"layout": kept} if layout else {})


def training_of(scenario: Scenario) -> TrainAsk:
    """The training section. ScenarioError where there is none."""
    if scenario.train is None:
        raise ScenarioError("the scenario has no train section; add train: {global_batch: ..., seq_len: ...}")
    return scenario.train
