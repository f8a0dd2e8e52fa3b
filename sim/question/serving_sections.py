"""Sections of a serving scenario: service levels, pools, how a deployment works; wrong values are refused."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from moesim.hwmodels.units import parse_quantity
from moesim.sim.question.feature_sections import AdaptersAsk, ApartAsk, OffloadAsk, SamplingAsk, SpeculativeAsk
from moesim.sim.question.request_sections import RequestsAsk
from moesim.sim.question.sections import Degree, Strict


class SloAsk(Strict):
    """What counts as served well: first token within ttft_s, then a token every tpot_s."""

    ttft_s: float = Field(default=1.0, gt=0)
    tpot_s: float = Field(default=0.05, gt=0)


class PoolAsk(Strict):
    """Workers of one pool and the layout of each.

    node or gpu: machines of this pool's own, beside those of `cluster`, at price_usd_per_gpu_hour (default: the
    catalogue's). engine, kv_dtype: of this pool, in place of the deployment's.
    """

    workers: int = Field(default=1, ge=1, le=100_000)
    node: str | None = None
    gpu: str | None = None
    price_usd_per_gpu_hour: float | None = Field(default=None, gt=0, le=1e6)
    engine: str | dict[str, Any] | None = None
    kv_dtype: Literal["bf16", "fp8"] | None = None
    tp: int = Degree
    pp: int = Degree
    ep: int = Degree
    etp: int = Degree
    attention_dp: int = Degree


class AlsoAsk(PoolAsk):
    """One more pool of a role that there is already, of other machines or another layout."""

    role: Literal["prefill", "decode"]


class ChangeAsk(Strict):
    """From a second on, so many workers in each pool: those that are too many finish what they have and switch."""

    at_s: float = Field(ge=0, le=1e9)
    prefill: int = Field(ge=1, le=100_000)
    decode: int = Field(ge=1, le=100_000)


class PoolsAsk(Strict):
    """Prompts and tokens on GPUs of their own.

    also: further pools. local_prefill_tokens: prompts of which at most so many tokens are to be computed stay on the
    decode worker. changes: how workers move between the pools while the load runs; switch_s: from a worker's last
    request in one to its first in the other.
    """

    prefill: PoolAsk = PoolAsk()
    decode: PoolAsk = PoolAsk()
    also: tuple[AlsoAsk, ...] = Field(default=(), max_length=16)
    local_prefill_tokens: int = Field(default=0, ge=0, le=10_000_000)
    changes: tuple[ChangeAsk, ...] = Field(default=(), max_length=1000)
    switch_s: float = Field(default=30.0, ge=0, le=1e6, description="assumed: an engine that starts with warm files")

    @model_validator(mode="after")
    def _whole(self) -> PoolsAsk:
        workers = self.prefill.workers + self.decode.workers
        for change in self.changes:
            if change.prefill + change.decode != workers:
                raise ValueError(
                    f"changes at {change.at_s:g} s: {change.prefill} + {change.decode} workers are not the {workers} "
                    "that there are; workers move from one pool to the other"
                )
        if self.changes and self.also:
            raise ValueError("changes move workers between two pools; leave also out")
        if self.changes and self.prefill.tp * self.prefill.pp * self.prefill.attention_dp != (
            self.decode.tp * self.decode.pp * self.decode.attention_dp
        ):
            raise ValueError("changes need workers of as many GPUs in both pools: one takes the other's place")
        return self


RouterKind = Literal["round_robin", "least_loaded", "power_of_two", "prefix", "sticky"]


class RouterAsk(Strict):
    """Which worker gets a request; `router: least_loaded` is short for `router: {kind: least_loaded}`.

    prefix: the one that has least to do, prompt tokens that it keeps left out; weight: of a prompt token against a
    token that running requests hold (default: what each costs in seconds until the answer ends); lag_s: how late the
    router hears what workers keep. sticky: a conversation stays where it began. seed: of power_of_two.
    """

    kind: RouterKind = "round_robin"
    weight: float | None = Field(default=None, gt=0, le=1000)
    lag_s: float = Field(default=0.05, ge=0, le=3600)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _used(self) -> RouterAsk:
        given = {"weight": "prefix", "lag_s": "prefix", "seed": "power_of_two"}
        for key, kind in given.items():
            if key in self.model_fields_set and self.kind != kind:
                raise ValueError(f"{key} is of router {kind}; router {self.kind} has no use for it: leave it out")
        return self


class TierAsk(Strict):
    """Where parts of prompts go that the GPUs have no room for, and from where they come back.

    host: the node's memory, over every GPU's own link to it. disk: of the node, shared by its GPUs. remote: of all
    workers together, over every GPU's NIC. bytes: of one node (remote: of all). bytes_per_s: of one GPU's link (disk:
    of the node's disks), in place of what the catalogue says. write: when a run leaves the tier before, or at once.
    """

    kind: Literal["host", "disk", "remote"]
    bytes: float = Field(gt=0, le=1e18)
    bytes_per_s: float | None = Field(default=None, gt=0, le=1e15)
    write: Literal["on_eviction", "through"] = "on_eviction"

    @field_validator("bytes", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        return parse_quantity(value, "B")

    @field_validator("bytes_per_s", mode="before")
    @classmethod
    def _rate(cls, value: Any) -> Any:
        return value if value is None else parse_quantity(value, "B/s")


class AdmissionAsk(Strict):
    """Who is let in. queue_limit: unfinished requests of one worker, above which the router rejects.

    retry_after_s: when a client, or who talks, sends the next request after a rejected one; 1 s if not stated.
    timeout_s: who has no first token by then and still waits gives up. priority_shares: of the requests that are of
    each class, the most urgent first; a worker takes them in that order.
    """

    queue_limit: int | None = Field(default=None, ge=1, le=100_000_000)
    retry_after_s: float = Field(default=1.0, ge=0, le=1e9)
    timeout_s: float | None = Field(default=None, gt=0, le=1e9)
    priority_shares: tuple[float, ...] = Field(default=(), max_length=16)

    @field_validator("priority_shares")
    @classmethod
    def _sum(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value and (any(share < 0.0 for share in value) or abs(sum(value) - 1.0) > 1e-6):
            raise ValueError(f"shares of classes must be 0 or more and sum to 1; these sum to {sum(value):g}")
        return value

    @model_validator(mode="after")
    def _rejects(self) -> AdmissionAsk:
        if "retry_after_s" in self.model_fields_set and self.queue_limit is None:
            raise ValueError("retry_after_s is of no use without queue_limit: nobody is rejected; leave it out")
        return self


class ColdStartAsk(Strict):
    """How a new replica starts: where its weights come from, whether compiled code is kept; or its seconds as a whole.

    weights: disk (of the node, shared by its GPUs), cache (the host's memory) or peers (over the NIC). bytes_per_s:
    that one GPU gets, in place of the catalogue's.
    """

    weights: Literal["disk", "cache", "peers"] = "disk"
    compile: Literal["cold", "cached"] = "cached"
    bytes_per_s: float | None = Field(default=None, gt=0, le=1e15)
    seconds: float | None = Field(default=None, ge=0, le=1e6)

    @field_validator("bytes_per_s", mode="before")
    @classmethod
    def _rate(cls, value: Any) -> Any:
        return value if value is None else parse_quantity(value, "B/s")


class AutoscaleAsk(Strict):
    """How many replicas there are while traffic changes (`moesim serve --traffic`).

    least, most: replicas. by: the load of the last interval, or what is predicted (the traffic table is the forecast)
    for when a new replica could help. used_share: of what a replica serves with a full queue, that it is meant to
    serve. keep_s: how long replicas that are too many are kept. failures_per_day: replicas lost, of the whole
    deployment; node_failures_per_day: hosts lost, with all replicas on them; retry_s: until the requests of a lost one
    are sent again.
    """

    least: int = Field(default=1, ge=1, le=100_000)
    most: int = Field(ge=1, le=100_000)
    by: Literal["load", "predicted"] = "load"
    used_share: float = Field(default=0.7, gt=0, le=1)
    interval_s: float = Field(default=60.0, ge=1, le=86_400)
    keep_s: float = Field(default=300.0, ge=0, le=86_400)
    cold_start: ColdStartAsk = ColdStartAsk()
    failures_per_day: float = Field(default=0.0, ge=0, le=10_000)
    node_failures_per_day: float = Field(default=0.0, ge=0, le=10_000)
    retry_s: float = Field(default=1.0, ge=0, le=3600)

    @model_validator(mode="after")
    def _range(self) -> AutoscaleAsk:
        if self.most < self.least:
            raise ValueError(f"most={self.most} replicas are fewer than least={self.least}; give most of at least that")
        return self


class ReplicaAsk(Strict):
    """The layout of a replica, in a file whose `layout` is of the training that it also asks about."""

    tp: int = Degree
    pp: int = Degree
    ep: int = Degree
    etp: int = Degree


class ServeAsk(Strict):
    """A deployment: replicas of one layout, or pools, under a load."""

    engine: str | dict[str, Any] = "vllm"
    precision: str = "bf16"
    kv_dtype: Literal["bf16", "fp8"] | None = None
    attention_dp: int = Degree
    layout: ReplicaAsk | None = None
    requests: RequestsAsk
    slo: SloAsk = SloAsk()
    router: RouterAsk = RouterAsk()
    kv_tiers: tuple[TierAsk, ...] = Field(default=(), max_length=3)
    admission: AdmissionAsk = AdmissionAsk()
    autoscale: AutoscaleAsk | None = None
    pools: PoolsAsk | None = None
    speculative: SpeculativeAsk | None = None
    offload: OffloadAsk | None = None
    adapters: AdaptersAsk | None = None
    sampling: SamplingAsk | None = None
    experts_apart: ApartAsk | None = None
    two_batch_overlap: bool = False
    expert_slots: int = Field(default=0, ge=0, le=100_000)
    kv_blocks: int | None = Field(default=None, ge=1, le=1_000_000_000)

    @field_validator("router", mode="before")
    @classmethod
    def _kind(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @field_validator("kv_tiers", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        """One word or one mapping is not a list of tiers."""
        if isinstance(value, list | tuple) and all(isinstance(tier, dict | TierAsk) for tier in value):
            return value
        raise ValueError("must be a list of tiers, for example [{kind: host, bytes: 800 GiB}]; [] for none")

    @field_validator("kv_tiers")
    @classmethod
    def _order(cls, value: tuple[TierAsk, ...]) -> tuple[TierAsk, ...]:
        order = ["host", "disk", "remote"]
        kinds = [order.index(tier.kind) for tier in value]
        if kinds != sorted(set(kinds)):
            raise ValueError("name each tier once, the nearest first: host, disk, remote")
        return value
