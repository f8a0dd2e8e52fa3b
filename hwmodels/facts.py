"""Fact sheets and coefficients: read, checked (each with a source), and what was meant when a name is not there."""

from __future__ import annotations

import re
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from moesim.refusal import Refusal

_SPECS = Path(__file__).parent / "specs"
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class FactError(Refusal):
    """A fact that was asked for does not exist; the message says what does."""


def read_yaml(path: Path) -> Any:
    """Parse one YAML file that ships with the product."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)


@cache
def catalogue(kind: str) -> dict[str, dict[str, Any]]:
    """All records of specs/<kind>.yaml by name. Every record must carry a source."""
    records: dict[str, dict[str, Any]] = read_yaml(_SPECS / f"{kind}.yaml")
    for name, record in records.items():
        if not record.get("source"):
            raise FactError(f"specs/{kind}.yaml: {name} has no source")
    return records


@cache
def gpu_spellings() -> dict[str, str]:
    """Every alias and name of the catalogue's GPUs, and the name that it stands for."""
    return {alias: name for name, r in catalogue("gpus").items() for alias in (name, *r.get("aliases", []))}


def did_you_mean(name: str, known: list[str]) -> str:
    """'; did you mean 'x'?' when something is close, else the (shortened) list of what is known."""
    spelled = {k.lower(): k for k in known}
    close = get_close_matches(name.lower()[:100], list(spelled), n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(spelled[c]) for c in close) + "?"
    shown = ", ".join(sorted(known)[:12])
    return f"known: {shown}{', ...' if len(known) > 12 else ''}"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    source: str = Field(min_length=1)
    notes: str = ""
    verified: bool = True


MOST_USD_PER_HOUR, MOST_USD = 10_000.0, 1e9  # of one GPU, of one server; more is a slip


class ServerPrice(BaseModel):
    """US dollars for one server: the published range and its date."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    low: float = Field(gt=0, le=MOST_USD)
    high: float = Field(gt=0, le=MOST_USD)
    date: str = Field(min_length=4)


class Price(_Record):
    """US dollars per GPU-hour, rental: the published range and its date."""

    low: float | None = Field(default=None, gt=0, le=MOST_USD_PER_HOUR)
    high: float | None = Field(default=None, gt=0, le=MOST_USD_PER_HOUR)
    date: str = ""


_MOST_USABLE = 1.1  # assumed: of hbm_bytes: data sheets write 80 GB for 80 GiB, and a B300 reports 7.5 % more
PEAKS = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp6", "fp4", "int8", "int4")  # formats of data sheets


class GpuRecord(_Record):
    """One GPU of specs/gpus.yaml. `family` shares fitted constants with other parts of the same silicon."""

    vendor: str
    arch: str
    like: str | None = None  # the GPU whose kernels and constants it borrows
    family: str | None = None  # default: the name itself
    generation: str | None = None  # default: the family
    aliases: tuple[str, ...] = ()
    alias_notes: dict[str, str] = Field(default_factory=dict)
    peak_flops_per_s: dict[str, float | None]
    fp4_formats: tuple[Literal["nvfp4", "mxfp4"], ...] = ("nvfp4", "mxfp4")  # that the fp4 peak is for
    hbm_bytes: float = Field(gt=0)
    usable_bytes: float | None = Field(default=None, gt=0)
    hbm_type: str = ""
    hbm_bytes_per_s: float = Field(gt=0)
    l2_bytes: float | None = Field(default=None, ge=0)
    sm_count: int | None = Field(default=None, ge=1)
    scale_up_link: str = ""
    scale_up_bytes_per_s: float = Field(default=0.0, ge=0)
    pcie_bytes_per_s: float = Field(ge=0)
    host_link_bytes_per_s: float | None = Field(default=None, gt=0)  # default: PCIe
    tdp_w: float = Field(gt=0)
    price_usd_per_hour: Price | None = None

    @field_validator("peak_flops_per_s")
    @classmethod
    def _peaks(cls, value: dict[str, float | None]) -> dict[str, float | None]:
        unknown = sorted(set(value) - set(PEAKS))
        if unknown:
            raise ValueError(f"{unknown[0][:40]!r} is no format of a data sheet; use {', '.join(PEAKS)}")
        if any(peak is not None and peak <= 0 for peak in value.values()):
            raise ValueError("peaks are above 0 (leave out a format that it has no path for)")
        return value

    @model_validator(mode="after")
    def _room(self) -> GpuRecord:
        if self.usable_bytes is not None and self.usable_bytes > _MOST_USABLE * self.hbm_bytes:
            raise ValueError("usable_bytes is more than hbm_bytes, of which it is a part")
        return self


class NodeRecord(_Record):
    """One chassis or scale-up domain of specs/nodes.yaml."""

    gpu: str
    gpus_per_domain: int = Field(ge=1)
    gpus_per_host: int = Field(ge=1)
    host_cpu: Literal["x86", "grace", "arm", "tpu-host"] = "x86"
    nics_per_host: float | None = Field(default=None, ge=0)
    nic_bytes_per_s: float | None = Field(default=None, ge=0)
    fabric: str | None = None  # that its NICs are plugged into; default: by their rate
    scale_up_bytes_per_s: float | None = Field(default=None, gt=0)  # of one GPU and direction; default: the GPU's
    scale_up: str = ""
    torus_dimensions: Literal[0, 2, 3] = (
        0  # GPUs joined to neighbours, two links a dimension; 0: by switches, or all pairs
    )
    nic_type: str | None = None
    host_memory_bytes: float = Field(gt=0)  # of one host
    host_memory_source: str = Field(min_length=1)  # "assumed: ..." where nothing is printed


class InstanceRecord(_Record):
    """One machine as a cloud rents it, of specs/instances.yaml: a node, and what is not as the node's."""

    cloud: str = ""
    node: str
    aliases: tuple[str, ...] = ()
    nics_per_host: float | None = Field(default=None, ge=0)
    nic_bytes_per_s: float | None = Field(default=None, ge=0)
    nic_type: str | None = None
    fabric: str | None = None
    host_memory_bytes: float | None = Field(default=None, gt=0)
    host_memory_source: str | None = None
    usd_per_hour: ServerPrice | None = None  # of the whole instance, on demand


FabricKind = Literal["infiniband", "roce", "efa", "slingshot"]


TOPOLOGIES = ("rail-optimised", "fat-tree", "three-tier", "multi-plane", "dragonfly")


class FabricRecord(_Record):
    """One fabric of specs/fabrics.yaml."""

    kind: FabricKind
    link_bytes_per_s: float = Field(gt=0)
    latency_s: float = Field(ge=0)
    topology: str
    oversubscription: float = Field(ge=1)

    @field_validator("topology")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in TOPOLOGIES:
            raise ValueError(f"{value[:40]!r} is not known; use one of {', '.join(TOPOLOGIES)}")
        return value


class ServerRecord(_Record):
    """One server of specs/servers.yaml, by the name of its node."""

    gpus: int = Field(ge=1)
    kw: float = Field(gt=0)
    rack_units: float = Field(gt=0, le=42)
    usd: ServerPrice | None = None


R = TypeVar("R", bound=_Record)


def checked(model: type[R], where: str, name: str, raw: dict[str, Any]) -> R:
    """The record as `model`. FactError naming file (`where`), record and field otherwise."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(p) for p in first["loc"])
        known = ", ".join(model.model_fields)
        extra = f"; fields are {known}" if first["type"] == "extra_forbidden" else ""
        raise FactError(f"{where}: {name}: {f'{key}: ' if key else ''}{_wrong(key, first)}{extra}") from None


# keys whose name is their unit, and what that is
_UNIT_OF = {"kw": "kilowatts", "usd": "US dollars", "rack_units": "rack units"}


def _wrong(key: str, error: ErrorDetails) -> str:
    """What is wrong with the value of a key, and how it is written."""
    last, given = key.rpartition(".")[2], repr(error["input"])[:40]
    if error["type"] == "string_type" and isinstance(error["input"], int | float):
        return f"{given} is a number where text is wanted; write it in quotes: {last}: '{error['input']}'"
    if error["type"] in ("float_parsing", "float_type", "int_parsing", "int_type", "int_from_float"):
        unit = f" of {_UNIT_OF[last]}" if last in _UNIT_OF else ""
        whole = "whole " if error["type"].startswith("int") else ""
        number = re.search("[0-9]+", given)
        return f"{given} is not a {whole}number{unit}; write a number alone: {last}: {number[0] if number else 8}"
    return error["msg"].removeprefix("Value error, ").lower()


T = TypeVar("T")


@cache
def comm_records(name: str) -> dict[str, dict[str, Any]]:
    """All records of profiles/comm/<name>.yaml: key -> value, kind (fitted | assumed), why."""
    text = files("moesim.hwmodels").joinpath("profiles", "comm", f"{name}.yaml").read_text(encoding="utf-8")
    records: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return records


def load_constants(cls: type[T], name: str, generation: str) -> T:
    """`cls` with every field from the file: `field[generation]` where there is one, else `field`."""
    records, values = comm_records(name), {}
    for field in fields(cls):  # type: ignore[arg-type]  # only dataclasses are passed
        record = records.get(f"{field.name}[{generation}]") or records.get(field.name)
        if record is None:
            raise FactError(f"profiles/comm/{name}.yaml lacks {field.name}")
        values[field.name] = float(record["value"])
    return cls(**values)
