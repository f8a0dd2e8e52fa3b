"""Sections of a scenario: machines, layout, training, routing; wrong values are refused."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from moesim.hwmodels.facts import did_you_mean
from moesim.hwmodels.units import parse_count, parse_quantity


class Strict(BaseModel):
    """A section of a scenario: unknown keys, changes and numbers that are none are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Numbers as people write them (10T, 15e12, 128Ki); YAML's true and yes would silently count as 1."""
        wanted = cls.model_fields[info.field_name].annotation if info.field_name else None
        if wanted not in (int, float, int | None, float | None):
            return value
        if isinstance(value, bool):
            raise ValueError("must be a number")
        if isinstance(value, str):
            count = parse_count(value)
            return value if count is None else count
        return value


Degree = Field(default=1, ge=1, le=1_000_000)


PRECISIONS = ("bf16", "fp16", "fp32", "fp8", "fp8_block", "mxfp8", "nvfp4")
RECOMPUTE_MODULES = (
    "none", "selective", "light", "full", "core_attention", "mlp", "mlp_act", "moe", "moe_act", "layernorm",
    "mla_up_proj", "shared_experts", "ssm", "keep_collectives",
)  # fmt: skip


class ClusterAsk(Strict):
    """Which machines: a node or rented instance (or a GPU, whose usual node is taken), how many GPUs, which fabric.

    hardware: a file of GPUs, nodes and fabrics of one's own, or the same as a mapping; names mean those, too.

    fabric: a name of the catalogue, or its kind (infiniband, roce, efa, slingshot). gpus_per_node: of one host, where
    it holds fewer than the node of the catalogue. host_memory_bytes: of one host, in place of the catalogue's.
    """

    hardware: str | dict[str, Any] | None = None
    node: str | None = None
    gpu: str | None = None
    gpus: int = Field(ge=1, le=10_000_000)
    gpus_per_node: int | None = Field(default=None, ge=1)
    fabric: str | None = None
    nic_bytes_per_s: float | None = Field(default=None, ge=1)
    oversubscription: float | None = Field(default=None, ge=1, le=1_000_000)
    host_memory_bytes: float | None = Field(default=None, gt=0)

    @field_validator("nic_bytes_per_s", mode="before")
    @classmethod
    def _rate(cls, value: Any) -> Any:
        return value if value is None else parse_quantity(value, "B/s")

    @field_validator("host_memory_bytes", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        return value if value is None else parse_quantity(value, "B")


class LayoutAsk(Strict):
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
    duplicates: Literal["drop", "send"] = "drop"
    stage_layers: tuple[int, ...] | None = None


class LoraAsk(Strict):
    """Low-rank adapters on frozen weights; `base_dtype` below 16 bits makes it QLoRA."""

    rank: int = Field(ge=1, le=65536)
    targets: Literal["attention", "all"] = "all"
    base_dtype: Literal["bf16", "fp8", "nf4"] = "bf16"


class TrainAsk(Strict):
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
        if not isinstance(names, (list, tuple)):
            raise ValueError(f"must be a name or a list of names out of {', '.join(RECOMPUTE_MODULES)}")
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


class RoutingAsk(Strict):
    """How tokens spread over experts: exactly one of balanced, lognormal (sigma) or counts (a file)."""

    lognormal: float | None = Field(default=None, ge=0, le=5, description="sd of log share inside a router group")
    group_sigma: float = Field(default=0.0, ge=0, le=5, description="sd of log share between router groups")
    counts: str | None = Field(default=None, description="file of tokens per layer and expert")
    topic: float = Field(default=0.0, ge=0, le=3, description="sd by which the log shares of one topic differ")
    group_topic: float = Field(default=0.0, ge=0, le=3, description="the same between router groups")
    drift: float = Field(default=1.0, gt=0, le=1, description="correlation of log popularity with the step before")
    sampling: bool = Field(default=True, description="tokens of every batch are drawn; false: the expected ones")
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_kind(self) -> RoutingAsk:
        if (self.lognormal is None) == (self.counts is None):
            raise ValueError("give either lognormal (a sigma) or counts (a file)")
        if self.counts is not None and self.group_sigma:
            raise ValueError("group_sigma goes with lognormal: counts hold what router groups have in common")
        return self


class PlacementAsk(Strict):
    """Experts in slots by EPLB's plan: how many slots (in one of three ways), and how old the plan is, in steps.

    slots: of one layer, over all expert-parallel ranks. spare_slots: those beyond one per expert. replicas: as many
    slots as that many copies of every expert; the plan gives them to the busy ones. None of them: one per expert.
    rebalance_every_steps: in serving, a new plan is made and its experts moved every so many passes, which wait for it.
    """

    slots: int | None = Field(default=None, ge=1, le=1_000_000)
    spare_slots: int | None = Field(default=None, ge=0, le=1_000_000)
    replicas: int | None = Field(default=None, ge=1, le=1000)
    plan_age_steps: int = Field(default=0, ge=0, le=100_000_000)
    rebalance_every_steps: int | None = Field(default=None, ge=1, le=100_000_000)

    @model_validator(mode="after")
    def _one_number(self) -> PlacementAsk:
        if sum(n is not None for n in (self.slots, self.spare_slots, self.replicas)) > 1:
            raise ValueError("slots, spare_slots and replicas say the same thing; give one of them")
        return self


class SlowAsk(Strict):
    """GPUs that compute at `factor` of the others' speed: these `ids`, or a `share` of all, drawn by `seed`."""

    factor: float = Field(gt=0, le=1, description="of the speed of a whole GPU")
    ids: tuple[int, ...] | None = None
    share: float | None = Field(default=None, gt=0, le=1)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _which(self) -> SlowAsk:
        if (self.ids is None) == (self.share is None):
            raise ValueError("give either ids (numbers of GPUs, from 0) or share (of all GPUs)")
        if self.ids == ():
            raise ValueError("ids names no GPU; name one, or leave slow out")
        return self


class LinksAsk(Strict):
    """Links of single GPUs that are not whole, as nicN or linkN of GPU N.

    degraded: the share of its rate that is left. failed: the second of the step at which it goes dead; what it carried
    then goes through a neighbour's, which two GPUs share.
    """

    degraded: dict[str, float] = Field(default_factory=dict)
    failed: dict[str, float] = Field(default_factory=dict)

    @field_validator("degraded")
    @classmethod
    def _left(cls, value: dict[str, float]) -> dict[str, float]:
        for name, share in value.items():
            if not 0.0 < share <= 1.0:
                raise ValueError(
                    f"{name}: {share:g} of its rate is left; give more than 0, at most 1, or name it in failed"
                )
        return value

    @field_validator("failed")
    @classmethod
    def _when(cls, value: dict[str, float]) -> dict[str, float]:
        for name, second in value.items():
            if second < 0.0:
                raise ValueError(f"{name}: fails {second:g} s after the step begins; give 0 or more")
        return value

    @model_validator(mode="after")
    def _some(self) -> LinksAsk:
        if not self.degraded and not self.failed:
            raise ValueError("links names no link; name one in degraded or failed, or leave links out")
        return self
