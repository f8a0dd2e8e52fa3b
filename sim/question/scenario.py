"""Scenario: the question as a YAML file, checked before anything runs; errors name the key and what would do."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError, field_validator

from moesim.files.plain_yaml import FileError, read_plain
from moesim.hwmodels.facts import did_you_mean
from moesim.hwmodels.units import UnitError, parse_count
from moesim.refusal import Refusal
from moesim.sim.question.feature_sections import (
    AcceptanceAsk,
    AdaptersAsk,
    ApartAsk,
    OffloadAsk,
    SamplingAsk,
    SpeculativeAsk,
)
from moesim.sim.question.paths import from_folder
from moesim.sim.question.request_sections import RequestsAsk, SessionsAsk, SureAsk
from moesim.sim.question.sections import (
    ClusterAsk,
    LayoutAsk,
    LinksAsk,
    LoraAsk,
    PlacementAsk,
    RoutingAsk,
    SlowAsk,
    Strict,
    TrainAsk,
)
from moesim.sim.question.serving_sections import (
    AdmissionAsk,
    AlsoAsk,
    AutoscaleAsk,
    ChangeAsk,
    ColdStartAsk,
    PoolAsk,
    PoolsAsk,
    RouterAsk,
    ServeAsk,
    SloAsk,
    TierAsk,
)
from moesim.sim.software.stack import parse_release


class ScenarioError(Refusal):
    """A scenario that cannot be; the message says what was asked, why it cannot be, what would do."""


class Scenario(Strict):
    """A whole question: a model, machines, a layout, and a training step, a deployment under a load, or both.

    model: a catalogue name, a path to a Hugging Face config.json, or a mapping of sizes.
    cluster: gpus (how many in all) and node or gpu (a name of the catalogue, or of `hardware`, a file of one's own);
        rates in bytes/s, or text as "400 Gb/s".
    layout: degrees of parallelism (tp, pp, vpp, cp, ep, etp); data parallelism follows. In serving: of one replica.
    train: global_batch (sequences per step of the whole job), micro_batch (per GPU group), seq_len (tokens), precision.
    serve: engine, precision, requests (the load, in tokens and requests per second), slo (seconds); layout of a
        replica, where `layout` is of the training in the same file.
    routing: how tokens spread over experts: balanced, {lognormal: sigma} or {counts: file}, and how that moves.
    slow, jitter, links: GPUs that are not alike: {share: 0.01, factor: 0.8}; 0.02, the sd of a stretch of compute over
        its mean; {degraded: {nic17: 0.5}, failed: {nic3: 1.5}}. Training only.
    placement: slots of experts, planned by their load: {slots: 320, plan_age_steps: 100}; without, contiguous blocks.
    stack: the training software, a name or a mapping of name and settings. release: its 'YY.MM'.
    profile: a GPU or file whose measured kernels are used. corrections: a file of own runs, for training.
    price_usd_per_gpu_hour: US dollars, in place of the catalogue's.

    A value that cannot be raises ScenarioError in parse_scenario, in load_scenario and in every verb.
    """

    model: str | dict[str, Any]
    cluster: ClusterAsk
    layout: LayoutAsk = LayoutAsk()
    train: TrainAsk | None = None
    serve: ServeAsk | None = None
    routing: Literal["balanced"] | RoutingAsk | None = None
    placement: PlacementAsk | None = None
    slow: SlowAsk | None = None
    jitter: float | None = Field(default=None, ge=0, le=0.5)
    links: LinksAsk | None = None
    stack: str | dict[str, Any] | None = None
    release: str | None = Field(default=None, description="software release, for example 26.04")
    profile: str | None = None
    corrections: str | None = None
    price_usd_per_gpu_hour: float | None = Field(default=None, gt=0, le=10_000)

    @field_validator("release", mode="before")
    @classmethod
    def _release(cls, value: Any) -> Any:
        if value is None:
            return None
        text = f"{value:.2f}" if isinstance(value, float) and math.isfinite(value) else str(value)
        release = parse_release(text)
        if not release:
            raise ValueError("names no release; write year and month as 'YY.MM', for example '26.04'")
        return release


Asked = Scenario | Mapping[str, Any] | str | Path  # the forms in which a scenario may be given


# what engines and papers call it -> the key of a scenario
_CALLED = {
    **dict.fromkeys(("kv_offload", "kv_offloading", "cpu_offload", "kv_cache_offload", "hicache"), "kv_tiers"),
    **dict.fromkeys(("lora", "loras"), "adapters"),
    **dict.fromkeys(("afd", "ffn_disaggregation"), "experts_apart"),
    **dict.fromkeys(("spec", "speculation", "draft", "drafts", "mtp"), "speculative"),
    **dict.fromkeys(("tbo", "dbo", "two_batch"), "two_batch_overlap"),
    **dict.fromkeys(("disaggregation", "disagg"), "pools"),
    **dict.fromkeys(("autoscaling", "scaling", "autoscaler"), "autoscale"),
    **dict.fromkeys(("dp", "data_parallel", "dp_attention"), "attention_dp"),
    **dict.fromkeys(("arrivals", "arrival", "arrival_process", "traffic"), "kind"),
    **dict.fromkeys(("clients", "users", "max_concurrency", "num_users"), "concurrency"),
}


def _describe(error: ValidationError) -> str:
    """One line about the first thing that is wrong; of a choice between forms, the form that was meant."""
    errors = error.errors()
    first = errors[0]
    if first["type"] == "literal_error" and isinstance(first["input"], dict):  # a mapping was given: speak about that
        inside = [e for e in errors if e["loc"][:1] == first["loc"][:1] and "Ask" in str(e["loc"][1:])]
        first = next(iter(inside), first)
    loc = [str(p) for p in first["loc"]]
    where = ".".join(p for p in loc if p not in _FORMS and not p.startswith(("function-", "literal[", "dict[")))
    if first["type"] == "extra_forbidden":
        known = _keys_of(first["loc"][:-1])
        meant = _CALLED.get(loc[-1].lower(), "")
        hint = f"it is called {meant} here" if meant in known else did_you_mean(loc[-1], known)
        return f"unknown key {_short(where)}; {hint}"
    if first["type"] == "missing":
        return f"{where} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        message += _near(first["input"], first.get("ctx", {}).get("expected", ""))
    if first["type"] != "value_error":
        message = _FORM_OF.get(where, message)
    given = first.get("input")
    return (
        f"{where[:80]}: {message[0].lower()}{message[1:]} (given {_short(given)}){_meant(where, first['type'], given)}"
    )


def _near(given: str, expected: str) -> str:
    """'; did you mean 'closed'?' where one of pydantic's expected words is near; else nothing."""
    hint = did_you_mean(given, re.findall(r"'([^']*)'", expected))
    return f"; {hint}" if hint.startswith("did you mean") else ""


def _meant(where: str, kind: str, given: Any) -> str:
    """What a value of a wrong form was probably meant to say; empty where nobody knows."""
    if kind in ("int_type", "float_type", "bool_type", "string_type", "literal_error") and isinstance(given, list):
        few = ",".join(str(value)[:20] for value in given[:4])
        return f"; to try several values, ask `moesim sweep FILE --set {where[:80]}={few or 'VALUE,VALUE'}`"
    return ""


_FORMS = (
    "str",
    "constrained-str",
    "RoutingAsk",
    "LoraAsk",
    "AcceptanceAsk",
    "one number",
    "by position",
)  # pydantic's names for the forms of one key
# keys that take several forms: what would do, for a value that has none of them
_FORM_OF = {
    "model": "must be a name, a path to a config.json, or a mapping of sizes",
    "routing": "must be balanced, or a mapping with lognormal or counts",
    "stack": "must be a name, or a mapping with name and settings",
    "serve.engine": "must be a name, or a mapping with name and settings",
    "serve.speculative.acceptance": "must be a probability from 0 to 1, one for each position, or a law",
    "train.lora": "must be a mapping with rank, for example {rank: 16}",
}


def _short(value: Any) -> str:
    try:
        given = repr(value)
    except ValueError:  # whole numbers with thousands of digits have no text
        given = "a very long number"
    return given if len(given) < 80 else given[:77] + "..."


def _keys_of(owner: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = Scenario
    known: dict[str, type[BaseModel]] = {
        "cluster": ClusterAsk,
        "layout": LayoutAsk,
        "train": TrainAsk,
        "routing": RoutingAsk,
        "placement": PlacementAsk,
        "slow": SlowAsk,
        "links": LinksAsk,
        "lora": LoraAsk,
        "serve": ServeAsk,
        "requests": RequestsAsk,
        "sessions": SessionsAsk,
        "sure_of": SureAsk,
        "slo": SloAsk,
        "pools": PoolsAsk,
        "prefill": PoolAsk,
        "decode": PoolAsk,
        "also": AlsoAsk,
        "changes": ChangeAsk,
        "speculative": SpeculativeAsk,
        "offload": OffloadAsk,
        "adapters": AdaptersAsk,
        "experts_apart": ApartAsk,
        "router": RouterAsk,
        "kv_tiers": TierAsk,
        "admission": AdmissionAsk,
        "autoscale": AutoscaleAsk,
        "cold_start": ColdStartAsk,
        "acceptance": AcceptanceAsk,
        "sampling": SamplingAsk,
    }
    for part in owner:
        model = known.get(str(part), model)
    return list(model.model_fields)


def parse_scenario(raw: Any) -> Scenario:
    """A checked Scenario from a mapping. ScenarioError with one clear sentence otherwise."""
    if not isinstance(raw, dict):
        raise ScenarioError(
            "a scenario is a mapping with model, cluster, layout and train or serve, "
            + ("and this is empty" if raw is None else f"not {type(raw).__name__}")
        )
    try:
        return Scenario.model_validate(raw)
    except ValidationError as error:
        raise ScenarioError(_describe(error)) from None
    except UnitError as error:
        raise ScenarioError(str(error)) from None


def number_asked(name: str, value: object, above: float, most: float, example: str) -> float:
    """A number that a verb was given beside its scenario, "10T" too. ScenarioError for anything else, or out of bounds.

    It must be in (above, most].
    """
    if isinstance(value, str):
        value = count if (count := parse_count(value)) is not None else value
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise ScenarioError(f"{name}={_short(value)} is not a number; write for example {example}")
    if not above < value <= most:
        raise ScenarioError(
            f"{name}={_short(value)} must be above {above:g} and at most {most:g}, for example {example}"
        )
    return float(value)


def scenario_of(asked: Asked) -> Scenario:
    """The checked Scenario of a file's path, a mapping or a record: what every verb takes. ScenarioError otherwise."""
    if isinstance(asked, Scenario):
        return asked
    if isinstance(asked, (str, Path)):
        return load_scenario(asked)
    return parse_scenario(dict(asked) if isinstance(asked, Mapping) else asked)


def load_scenario(path: str | Path) -> Scenario:
    """Read and check a scenario file. ScenarioError when it is missing, too large, not YAML, or wrong."""
    file = Path(path)
    try:
        return parse_scenario(_read(file))
    except ScenarioError as error:
        raise ScenarioError(f"{str(file)[:200]}: {error}") from None


def read_mapping(path: str | Path) -> dict[str, Any]:
    """A scenario file as it is written, not checked yet. ScenarioError when it is missing or no mapping."""
    mapping = _read(Path(path))
    if not isinstance(mapping, dict):
        given = "and this is empty" if mapping is None else f"not {type(mapping).__name__}"
        raise ScenarioError(f"{str(path)[:200]}: a scenario is a mapping of keys, {given}")
    return mapping


def _read(file: Path) -> Any:
    """The parsed file, its paths from its own folder; every way in which it can be broken is a ScenarioError."""
    try:
        raw = read_plain(file, "scenario file does not exist, or is a folder; `moesim init` writes one")
        return from_folder(raw, file.parent)
    except FileError as error:
        raise ScenarioError(str(error)) from None
