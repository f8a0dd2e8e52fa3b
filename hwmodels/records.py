"""What a record of the fact sheets must say; a missing, unknown or impossible field is one FactError naming it."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moesim.hwmodels.facts import FactError


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    source: str = Field(min_length=1)
    notes: str = ""
    verified: bool = True


class ServerPrice(BaseModel):
    """US dollars for one server: the published range and its date."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    low: float = Field(gt=0)
    high: float = Field(gt=0)
    date: str = Field(min_length=4)


class Price(_Record):
    """US dollars per GPU-hour, rental: the published range and its date."""

    low: float | None = Field(default=None, gt=0)
    high: float | None = Field(default=None, gt=0)
    date: str = ""


class GpuRecord(_Record):
    """One GPU of specs/gpus.yaml. `family` shares fitted constants with other parts of the same silicon."""

    vendor: str
    arch: str
    family: str | None = None  # default: the name itself
    generation: str | None = None  # default: the family
    aliases: tuple[str, ...] = ()
    alias_notes: dict[str, str] = Field(default_factory=dict)
    peak_flops_per_s: dict[str, float | None]
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


class NodeRecord(_Record):
    """One chassis or scale-up domain of specs/nodes.yaml."""

    gpu: str
    gpus_per_domain: int = Field(ge=1)
    gpus_per_host: int = Field(ge=1)
    host_cpu: Literal["x86", "grace", "arm", "tpu-host"] = "x86"
    nics_per_host: float | None = Field(default=None, ge=0)
    nic_bytes_per_s: float | None = Field(default=None, ge=0)
    scale_up: str = ""
    nic_type: str | None = None


class FabricRecord(_Record):
    """One fabric of specs/fabrics.yaml."""

    link_bytes_per_s: float = Field(gt=0)
    latency_s: float = Field(ge=0)
    topology: str
    oversubscription: float = Field(ge=1)


class ServerRecord(_Record):
    """One server of specs/servers.yaml, by the name of its node."""

    gpus: int = Field(ge=1)
    kw: float = Field(gt=0)
    rack_units: float = Field(gt=0, le=42)
    usd: ServerPrice | None = None


R = TypeVar("R", bound=_Record)


def checked(model: type[R], kind: str, name: str, raw: dict[str, Any]) -> R:
    """The record as `model`. FactError naming file, record and field otherwise."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        known = ", ".join(model.model_fields)
        extra = f"; fields are {known}" if first["type"] == "extra_forbidden" else ""
        raise FactError(f"specs/{kind}.yaml: {name}: {where}: {first['msg'].lower()}{extra}") from None
