"""Section of a serving scenario that says who asks: how often, for how much, and how many requests count."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from moesim.sim.question.sections import Strict

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
        if self.kind == "trace" and self.file is None:
            raise ValueError("kind trace needs file: a trace of requests, for example a CSV of arrival_s,input_tokens,"
                             "output_tokens")  # fmt: skip
        if self.kind == "sessions" and (self.rate_per_s is None) == (self.concurrency is None):
            raise ValueError("kind sessions needs rate_per_s (sessions that begin) or concurrency (users), one of them")
