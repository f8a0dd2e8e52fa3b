"""Dense twins of a mixture of experts, by what is held equal: active or total parameters, memory, or quality."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from moesim.hwmodels.facts import did_you_mean
from moesim.hwmodels.units import GIB
from moesim.sim.comparison.fitting import fitting_serve, fitting_train, train_memory_bytes
from moesim.sim.comparison.scaling import DenseEqual, dense_equal
from moesim.sim.comparison.twin import dense_of_size, dense_twin, twin_scenario
from moesim.sim.layout.layout import BadLayout
from moesim.sim.model.arch import ArchError, ModelArch
from moesim.sim.model.catalogue import load_model
from moesim.sim.model.params import active_parameters, parameters
from moesim.sim.question.lookup import without_training
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import ScenarioError, scenario_of
from moesim.sim.serve.kv_cache import kv_cache
from moesim.sim.serve.memory import serve_memory
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.resolve import resolve_serve

KINDS = ("iso-active", "iso-total", "iso-memory", "iso-quality")
MOVED = "layout: "  # begins a note about a layout that was changed to fit
_MEMORY_STEPS = 24  # halvings of the interval of sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """A dense twin, a scenario that fits per section, and how it came about. What fits nowhere is in `refusals`."""

    name: str
    model: Any
    sections: Mapping[str, dict[str, Any]]
    refusals: Mapping[str, str]
    notes: tuple[str, ...]
    quality: DenseEqual | None
    as_asked: Mapping[str, dict[str, Any]]  # every section, laid out like the mixture whether it fits or not


def check_kind(kind: str) -> str:
    """The kind itself. ScenarioError for one that does not exist."""
    if kind not in KINDS:
        raise ScenarioError(f"twin={kind!r} is not known; {did_you_mean(kind, list(KINDS))}")
    return kind


def twin_of(kind: str, scenario: Mapping[str, Any], tokens: float | None = None) -> Twin:
    """The dense twin of a scenario's model in the same question. ScenarioError for a dense model."""
    check_kind(kind)
    arch = load_model(scenario["model"])
    if not arch.is_moe:
        raise ScenarioError(f"{arch.name} is dense: it has no experts to replace; leave twin out, or give an MoE model")
    quality = dense_equal(arch, tokens) if kind == "iso-quality" else None
    size, notes = _size(kind, scenario, arch, quality)
    name = f"{arch.name} {kind} twin"
    twin = dense_twin(arch) if kind == "iso-active" else dense_of_size(arch, size, name.replace(" ", "-"))
    question = twin_scenario(scenario, arch, twin)
    sections, refusals, moved = _with_room(question)
    return Twin(
        name=name, model=question["model"], sections=sections, refusals=refusals, notes=(*notes, *moved),
        quality=quality, as_asked={section: only(question, section) for section in (*sections, *refusals)},
    )  # fmt: skip


def sections_of_size(scenario: Mapping[str, Any], size: float) -> Mapping[str, dict[str, Any]]:
    """The sections of the question about a dense model of `size` parameters, those that fit."""
    arch = load_model(scenario["model"])
    return _with_room(twin_scenario(scenario, arch, dense_of_size(arch, size)))[0]


def _with_room(question: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, str], list[str]]:
    """The question per section, with layouts that fit; why some fit nowhere; what was changed."""
    sections: dict[str, dict[str, Any]] = {}
    refusals: dict[str, str] = {}
    notes: list[str] = []
    for section, fit in (("train", fitting_train), ("serve", fitting_serve)):
        if section in question:
            try:
                sections[section], said = fit(only(question, section))
                if said:
                    notes.append(f"{MOVED}{section} does not fit as asked; laid out with {said}")
            except DoesNotFit as refusal:
                refusals[section] = str(refusal)
    return sections, refusals, notes


def only(question: Mapping[str, Any], section: str) -> dict[str, Any]:
    """The question without its other section, nor with what only that one uses."""
    if section == "serve" and "train" in question:
        return without_training(dict(question))
    return {key: value for key, value in question.items() if key == section or key not in ("train", "serve")}


def _size(
    kind: str, scenario: Mapping[str, Any], arch: ModelArch, quality: DenseEqual | None
) -> tuple[float, list[str]]:
    """Parameters of the twin, and how they were found."""
    if kind == "iso-active":
        active = float(active_parameters(arch).with_input_embedding)
        return active, [f"equal active parameters: {active / 1e9:.3g} B"]
    if kind == "iso-total":
        total = float(parameters(arch))
        return total, [f"equal total parameters: {total / 1e9:.3g} B"]
    if quality is not None:
        said = f"equal loss by published scaling laws: {quality.parameters / 1e9:.3g} B dense parameters, " \
               f"{quality.low / 1e9:.3g} to {quality.high / 1e9:.3g} B over laws and their errors"  # fmt: skip
        return quality.parameters, [said, *(f"WARNING {w}" for w in quality.warnings)]
    return _equal_memory(scenario, arch)


def _equal_memory(scenario: Mapping[str, Any], arch: ModelArch) -> tuple[float, list[str]]:
    """The dense size whose fullest GPU holds as much as the mixture's does here: in training where there is any."""
    training = "train" in scenario
    measure = _train_bytes if training else _serve_bytes(scenario)
    wanted = measure(scenario)
    low, high = 0.1 * active_parameters(arch).with_input_embedding, 4.0 * parameters(arch)

    def held(size: float) -> float:
        return measure(twin_scenario(scenario, arch, dense_of_size(arch, size)))

    for _ in range(_MEMORY_STEPS):
        middle = (low * high) ** 0.5
        try:
            small = held(middle) < wanted
        except (ArchError, BadLayout):  # the family has no member as small as that, or one too shallow for the layout
            small = True
        low, high = (middle, high) if small else (low, middle)
        if high / low < 1.002:
            break
    where = "weights, states and activations in training" if training else "weights and the load's keys and values"
    return high, [f"equal memory per GPU, {wanted / GIB:.1f} GiB of {where}: {high / 1e9:.3g} B dense parameters"]


def _train_bytes(scenario: Mapping[str, Any]) -> float:
    return train_memory_bytes(scenario)[0]


def _serve_bytes(scenario: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], float]:
    """Bytes of one GPU with as many tokens cached in a replica as the mixture's caches at its fullest."""
    if scenario["serve"].get("pools"):
        raise ScenarioError("twin=iso-memory does not know pools; compare a deployment of replicas, or another twin")
    cached = max(r.peak_cached for r in predict_serve(scenario, meets=False).run.replicas)

    def measure(other: Mapping[str, Any]) -> float:
        resolved = resolve_serve(scenario_of(other))
        job = resolved.deployment.job
        per_token = kv_cache(job, 0.0, resolved.workload.mean_tokens).bytes_per_token
        return serve_memory(job).weights + cached / job.attention_dp * per_token

    return measure
