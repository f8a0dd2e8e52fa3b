"""Scenario: the question as a YAML file, checked before anything runs; errors name the key and what would do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hwmodels.facts import did_you_mean
from hwmodels.units import UnitError, parse_quantity

MAX_BYTES = 1_000_000  # a scenario is a page of text; anything larger is a mistake or an attack
PRECISIONS = ("bf16", "fp16", "fp8", "fp8_block", "mxfp8", "nvfp4")
RECOMPUTE_MODULES = (
    "none", "selective", "full", "core_attention", "mlp", "mlp_act", "moe", "moe_act", "layernorm", "mla_up_proj",
    "shared_experts", "ssm",
)  # fmt: skip


class ScenarioError(ValueError):
    """A scenario that cannot be; the message says what was asked, why it cannot be, what would do."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


Degree = Field(default=1, ge=1, le=1_000_000)


class ClusterAsk(_Strict):
    """Which machines: a catalogue node (or a GPU, whose usual node is taken), how many GPUs, which fabric."""

    node: str | None = None
    gpu: str | None = None
    gpus: int = Field(ge=1, le=10_000_000)
    fabric: str | None = None
    nic_bytes_per_s: float | None = Field(default=None, gt=0)
    oversubscription: float | None = Field(default=None, ge=1)

    @field_validator("nic_bytes_per_s", mode="before")
    @classmethod
    def _rate(cls, value: Any) -> Any:
        return value if value is None else parse_quantity(value, "B/s")


class LayoutAsk(_Strict):
    """Degrees of parallelism; dp follows from the others and is only checked when given."""

    tp: int = Degree
    pp: int = Degree
    vpp: int = Degree
    cp: int = Degree
    ep: int = Degree
    etp: int = Degree
    dp: int | None = Field(default=None, ge=1)
    zero: int = Field(default=1, ge=0, le=3)
    zero_group: int | None = Field(default=None, ge=1)
    schedule: str | None = None
    sequence_parallel: bool = True
    stage_layers: tuple[int, ...] | None = None


class LoraAsk(_Strict):
    """Low-rank adapters on frozen weights; `base_dtype` below 16 bits makes it QLoRA."""

    rank: int = Field(ge=1, le=65536)
    targets: Literal["attention", "all"] = "all"
    base_dtype: Literal["bf16", "fp8", "nf4"] = "bf16"


class TrainAsk(_Strict):
    """One optimizer step: global_batch sequences of seq_len tokens."""

    global_batch: int = Field(ge=1, le=100_000_000)
    micro_batch: int = Field(default=1, ge=1, le=1_000_000)
    seq_len: int = Field(ge=1, le=100_000_000)
    precision: str = "bf16"
    recompute: tuple[str, ...] = ("none",)
    capacity_factor: float | None = Field(default=None, gt=0, le=1000)
    mtp: bool = True
    lora: LoraAsk | None = None
    offload_optimizer: bool = False
    offload_activations: float = Field(default=0.0, ge=0, le=1)

    @field_validator("recompute", mode="before")
    @classmethod
    def _modules(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        if isinstance(names, (list, tuple)):
            for name in names:
                if name not in RECOMPUTE_MODULES:
                    raise ValueError(f"{name!r} cannot be recomputed; {did_you_mean(str(name), list(RECOMPUTE_MODULES))}")
        return names

    @field_validator("precision")
    @classmethod
    def _precision(cls, value: str) -> str:
        if value not in PRECISIONS:
            raise ValueError(f"{value!r} is not a training precision; {did_you_mean(value, list(PRECISIONS))}")
        return value


class RoutingAsk(_Strict):
    """How tokens spread over experts: exactly one of balanced, lognormal (sigma) or counts (a file)."""

    lognormal: float | None = Field(default=None, ge=0, le=5)
    counts: str | None = None
    seed: int = Field(default=0, ge=0)


class Scenario(_Strict):
    """A whole question."""

    model: str | dict[str, Any]
    cluster: ClusterAsk
    layout: LayoutAsk = LayoutAsk()
    train: TrainAsk | None = None
    routing: Literal["balanced"] | RoutingAsk = "balanced"
    stack: str | dict[str, Any] | None = None
    release: str | None = Field(default=None, description="software release, for example 26.04")
    profile: str | None = None
    price_usd_per_gpu_hour: float | None = Field(default=None, gt=0, le=10_000)

    @field_validator("release", mode="before")
    @classmethod
    def _release(cls, value: Any) -> Any:
        return f"{value:.2f}" if isinstance(value, float) and math.isfinite(value) else value


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(p) for p in first["loc"] if not str(p).startswith(("function-", "Routing", "literal", "str", "dict")))
    if first["type"] == "extra_forbidden":
        owner, key = first["loc"][:-1], str(first["loc"][-1])
        return f"unknown key {where!r}; {did_you_mean(key, _keys_of(owner))}"
    if first["type"] == "missing":
        return f"{where} is missing"
    message = first["msg"].removeprefix("Value error, ")
    given = repr(first.get("input"))
    shown = given if len(given) < 80 else given[:77] + "..."
    return f"{where}: {message[0].lower()}{message[1:]} (given {shown})"


def _keys_of(owner: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = Scenario
    known = {"cluster": ClusterAsk, "layout": LayoutAsk, "train": TrainAsk, "routing": RoutingAsk, "lora": LoraAsk}
    for part in owner:
        model = known.get(str(part), model)
    return list(model.model_fields)


def parse_scenario(raw: Any) -> Scenario:
    """A checked Scenario from a mapping. ScenarioError with one clear sentence otherwise."""
    if not isinstance(raw, dict):
        raise ScenarioError(f"a scenario is a mapping with model, cluster, layout and train, not {type(raw).__name__}")
    try:
        return Scenario.model_validate(raw)
    except ValidationError as error:
        raise ScenarioError(_describe(error)) from None
    except UnitError as error:
        raise ScenarioError(str(error)) from None


class _NoAliases(yaml.SafeLoader):
    """A YAML loader without anchors: aliases can blow a small file up to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ScenarioError("YAML aliases (*name) are not allowed in a scenario; write the value out")
        return super().compose_node(parent, index)


def load_scenario(path: str | Path) -> Scenario:
    """Read and check a scenario file. ScenarioError when it is missing, too large, not YAML, or wrong."""
    file = Path(path)
    if not file.is_file():
        raise ScenarioError(f"scenario file {file} does not exist; `moesim init` writes one")
    if file.stat().st_size > MAX_BYTES:
        raise ScenarioError(f"{file} is {file.stat().st_size:,} bytes; a scenario has at most {MAX_BYTES:,}")
    try:
        raw = yaml.load(file.read_text(encoding="utf-8"), Loader=_NoAliases)  # noqa: S506 - a SafeLoader
    except UnicodeDecodeError:
        raise ScenarioError(f"{file} is not a text file in UTF-8") from None
    except (yaml.YAMLError, RecursionError) as error:
        line = str(error).replace("\n", " ")
        raise ScenarioError(f"{file} is not valid YAML: {line[:200]}") from None
    try:
        return parse_scenario(raw)
    except ScenarioError as error:
        raise ScenarioError(f"{file}: {error}") from None
