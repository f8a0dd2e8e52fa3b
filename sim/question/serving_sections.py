"""Sections of a serving scenario: who asks, service levels, pools, how a deployment works; wrong values are refused."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from moesim.sim.question.sections import Degree, Strict

RequestKind = Literal[
    "closed", "offline", "poisson", "gamma", "trace", "azure-conversation", "azure-code", "mooncake-conversation"
]
MAX_REQUESTS = 2_000_000


class RequestsAsk(Strict):
    """Who asks, how often and for how much.

    Lengths are uniform in [(1 - jitter) n, n], lognormal with mean n, or drawn like a trace's.
    """

    kind: RequestKind = "poisson"
    rate_per_s: float | None = Field(default=None, gt=0, le=1e7)
    cv: float = Field(default=1.0, gt=0, le=100, description="of the gaps between arrivals, kind gamma")
    concurrency: int | None = Field(default=None, ge=1, le=1_000_000)
    count: int | None = Field(default=None, ge=1, le=MAX_REQUESTS)
    input_tokens: int = Field(default=1024, ge=1, le=10_000_000)
    output_tokens: int = Field(default=256, ge=1, le=10_000_000)
    jitter: float = Field(default=0.0, ge=0, lt=1)
    lengths: Literal["uniform", "lognormal"] = "uniform"
    sigma: float | None = Field(default=None, gt=0, le=3, description="of the logarithm of lengths, lengths lognormal")
    file: str | None = None
    warmup: float = Field(default=0.0, ge=0, lt=1, description="share of the first requests left out of the figures")
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _complete(self) -> RequestsAsk:
        if self.kind == "closed" and self.concurrency is None:
            raise ValueError("kind closed needs concurrency: the number of clients")
        if self.kind in ("poisson", "gamma") and self.rate_per_s is None:
            raise ValueError(f"kind {self.kind} needs rate_per_s")
        if self.lengths == "lognormal" and self.jitter:
            raise ValueError("lengths lognormal have no jitter; say how far they spread with sigma")
        if self.lengths == "uniform" and self.sigma is not None:
            raise ValueError("sigma needs lengths: lognormal")
        if self.kind == "trace" and self.file is None:
            raise ValueError("kind trace needs file: a CSV of arrival_s,input_tokens,output_tokens[,prefix]")
        return self


class SloAsk(Strict):
    """What counts as served well: first token within ttft_s, then a token every tpot_s."""

    ttft_s: float = Field(default=1.0, gt=0)
    tpot_s: float = Field(default=0.05, gt=0)


class PoolAsk(Strict):
    """Workers of one pool and the layout of each."""

    workers: int = Field(default=1, ge=1, le=100_000)
    tp: int = Degree
    pp: int = Degree
    ep: int = Degree
    etp: int = Degree
    attention_dp: int = Degree


class PoolsAsk(Strict):
    """Prompts and tokens on GPUs of their own."""

    prefill: PoolAsk = PoolAsk()
    decode: PoolAsk = PoolAsk()


class SpeculativeAsk(Strict):
    """Drafted tokens per pass and the probability that one is accepted."""

    tokens: int = Field(ge=1, le=64)
    acceptance: float = Field(ge=0, le=1)


class OffloadAsk(Strict):
    """Experts in host memory; hit_rate: uses that find their expert on the GPU (default: the resident share).

    host_memory_bytes_per_s: the host computes the missing ones, at the rate at which it reads its memory.
    """

    resident: float = Field(ge=0, le=1)
    hit_rate: float | None = Field(default=None, ge=0, le=1)
    host_memory_bytes_per_s: float | None = Field(default=None, gt=0)


class AdaptersAsk(Strict):
    """LoRA adapters served beside each other."""

    count: int = Field(ge=1, le=100_000)
    rank: int = Field(ge=1, le=65536)


class ServeAsk(Strict):
    """A deployment: replicas of one layout, or pools, under a load."""

    engine: str | dict[str, Any] = "vllm"
    precision: str = "bf16"
    kv_dtype: Literal["bf16", "fp8"] | None = None
    attention_dp: int = Degree
    requests: RequestsAsk
    slo: SloAsk = SloAsk()
    router: Literal["round_robin", "least_loaded"] = "round_robin"
    pools: PoolsAsk | None = None
    speculative: SpeculativeAsk | None = None
    offload: OffloadAsk | None = None
    adapters: AdaptersAsk | None = None
    two_batch_overlap: bool = False
    expert_slots: int = Field(default=0, ge=0, le=100_000)
    kv_blocks: int | None = Field(default=None, ge=1, le=1_000_000_000)
