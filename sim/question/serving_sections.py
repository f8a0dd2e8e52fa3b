"""Sections of a serving scenario: who asks, service levels, pools, how a deployment works; wrong values are refused."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from moesim.hwmodels.units import parse_quantity
from moesim.sim.question.feature_sections import AdaptersAsk, OffloadAsk, SamplingAsk, SpeculativeAsk
from moesim.sim.question.sections import Degree, Strict

RequestKind = Literal[
    "closed", "offline", "poisson", "gamma", "trace", "azure-conversation", "azure-code", "mooncake-conversation",
    "reuse", "sessions",
]  # fmt: skip
MAX_REQUESTS = 2_000_000


class SessionsAsk(Strict):
    """Conversations of kind sessions: means in tokens and seconds, shares between 0 and 1.

    A later prompt is the last one, its answer and `added_tokens`; it comes `think_s` after the answer, or, for a share
    `tool_calls` of them, once a tool has taken `tool_s`. A share `branch` of the turns from the third on goes on from
    an earlier turn than the last.
    """

    turns: float = Field(default=5.0, ge=1, le=10_000, description="of a session, on average")
    think_s: float = Field(default=30.0, ge=0, le=1e6)
    think: Literal["exponential", "lognormal"] = "exponential"
    system_tokens: int = Field(default=0, ge=0, le=10_000_000, description="of the prompt that all sessions begin with")
    first_tokens: int = Field(default=1000, ge=1, le=10_000_000)
    added_tokens: int = Field(default=200, ge=1, le=10_000_000)
    answer_tokens: int = Field(default=300, ge=1, le=10_000_000)
    tool_calls: float = Field(default=0.0, ge=0, le=1)
    tool_s: float | None = Field(default=None, ge=0, le=1e6)
    branch: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _whole(self) -> SessionsAsk:
        if self.tool_calls and self.tool_s is None:
            raise ValueError("tool_calls needs tool_s: the seconds that a tool takes")
        if self.tool_s is not None and not self.tool_calls:
            raise ValueError("tool_s needs tool_calls above 0: the share of turns that wait for a tool")
        if self.turns == 1 and self.branch:
            raise ValueError("branch needs sessions of more than one turn")
        return self


class SureAsk(Strict):
    """As many requests as it takes until this percentile of TTFT and TPOT is known `within` that share of it (95 %)."""

    percentile: float = Field(default=99.0, ge=50, le=99.9)
    within: float = Field(default=0.05, ge=0.001, le=0.5, description="share of the percentile, up and down")


_MADE = ("closed", "offline", "poisson", "gamma")  # kinds whose lengths the scenario says
_DRAWN = ("azure-conversation", "azure-code", "mooncake-conversation", "reuse")  # kinds that bring their own lengths
# keys that not every kind has a use for: those that have one
_USED_BY: dict[str, tuple[str, ...]] = {
    "rate_per_s": ("poisson", "gamma", "sessions", *_DRAWN),
    "cv": ("gamma",),
    "concurrency": ("closed", "sessions"),
    "file": ("trace",),
    "sessions": ("sessions",),
    "sure_of": ("closed", "poisson", "gamma", "sessions", *_DRAWN),
    "input_tokens": _MADE,
    "output_tokens": _MADE,
    **dict.fromkeys(("jitter", "lengths", "sigma"), (*_MADE, "sessions")),
}


class RequestsAsk(Strict):
    """Who asks, how often and for how much.

    Lengths are uniform in [(1 - jitter) n, n], lognormal with mean n, or drawn like a trace's.
    """

    kind: RequestKind = "poisson"
    rate_per_s: float | None = Field(default=None, gt=0, le=1e7, description="requests, of kind sessions sessions")
    cv: float = Field(default=1.0, gt=0, le=100, description="of the gaps between arrivals, kind gamma")
    concurrency: int | None = Field(default=None, ge=1, le=1_000_000, description="clients, kinds closed and sessions")
    count: int | None = Field(default=None, ge=1, le=MAX_REQUESTS)
    input_tokens: int = Field(default=1024, ge=1, le=10_000_000)
    output_tokens: int = Field(default=256, ge=1, le=10_000_000)
    jitter: float = Field(default=0.0, ge=0, lt=1)
    lengths: Literal["uniform", "lognormal"] = "uniform"
    sigma: float | None = Field(default=None, gt=0, le=3, description="of the logarithm of lengths, lengths lognormal")
    sessions: SessionsAsk | None = None
    file: str | None = None
    sure_of: SureAsk | None = Field(default=None, description="in place of count: how sure a percentile has to be")
    warmup: float | Literal["auto"] = Field(
        default="auto", description="share of the first requests, left out of latencies"
    )
    seed: int = Field(default=0, ge=0)

    @field_validator("warmup", mode="before")
    @classmethod
    def _share_or_auto(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value != "auto" and not (number and 0.0 <= value < 1.0):
            raise ValueError("must be auto, or a share of the requests of at least 0 and below 1")
        return value

    @model_validator(mode="after")
    def _complete(self) -> RequestsAsk:
        self._check_kind()
        if self.sure_of is not None and self.count is not None:
            raise ValueError("count and sure_of are two answers to how many requests there are; give one of them")
        if self.lengths == "lognormal" and self.jitter:
            raise ValueError("lengths lognormal have no jitter; say how far they spread with sigma")
        if self.lengths == "uniform" and self.sigma is not None:
            raise ValueError("sigma needs lengths: lognormal")
        for key, kinds in _USED_BY.items():
            if key in self.model_fields_set and getattr(self, key) is not None and self.kind not in kinds:
                raise ValueError(
                    f"{key} is of no use with kind {self.kind}: leave it out; it is for {', '.join(kinds)}"
                )
        return self

    def _check_kind(self) -> None:
        """ValueError where the kind of load lacks what it needs, or has two answers to one question."""
        if self.kind == "closed" and self.concurrency is None:
            raise ValueError("kind closed needs concurrency: the number of clients")
        if self.kind in ("poisson", "gamma") and self.rate_per_s is None:
            raise ValueError(f"kind {self.kind} needs rate_per_s")
        if self.kind == "trace" and self.file is None:
            raise ValueError("kind trace needs file: a trace of requests, for example a CSV of arrival_s,input_tokens,"
                             "output_tokens")  # fmt: skip
        if self.kind == "sessions" and (self.rate_per_s is None) == (self.concurrency is None):
            raise ValueError("kind sessions needs rate_per_s (sessions that begin) or concurrency (users), one of them")


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
    token that running requests hold; lag_s: how late the router hears what workers keep. sticky: a conversation stays
    where it began. seed: of power_of_two.
    """

    kind: RouterKind = "round_robin"
    weight: float = Field(default=1.0, gt=0, le=1000)
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

    timeout_s: who has no first token by then and still waits gives up. priority_shares: of the requests that are of
    each class, the most urgent first; a worker takes them in that order.
    """

    queue_limit: int | None = Field(default=None, ge=1, le=100_000_000)
    timeout_s: float | None = Field(default=None, gt=0, le=1e9)
    priority_shares: tuple[float, ...] = Field(default=(), max_length=16)

    @field_validator("priority_shares")
    @classmethod
    def _sum(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value and (any(share < 0.0 for share in value) or abs(sum(value) - 1.0) > 1e-6):
            raise ValueError(f"shares of classes must be 0 or more and sum to 1; these sum to {sum(value):g}")
        return value


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


class ServeAsk(Strict):
    """A deployment: replicas of one layout, or pools, under a load."""

    engine: str | dict[str, Any] = "vllm"
    precision: str = "bf16"
    kv_dtype: Literal["bf16", "fp8"] | None = None
    attention_dp: int = Degree
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
    two_batch_overlap: bool = False
    expert_slots: int = Field(default=0, ge=0, le=100_000)
    kv_blocks: int | None = Field(default=None, ge=1, le=1_000_000_000)

    @field_validator("router", mode="before")
    @classmethod
    def _kind(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @field_validator("kv_tiers")
    @classmethod
    def _order(cls, value: tuple[TierAsk, ...]) -> tuple[TierAsk, ...]:
        order = ["host", "disk", "remote"]
        kinds = [order.index(tier.kind) for tier in value]
        if kinds != sorted(set(kinds)):
            raise ValueError("name each tier once, the nearest first: host, disk, remote")
        return value
