"""Sections of what a serving deployment may add to its passes: drafted tokens, adapters, sampling, experts on hosts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from moesim.sim.question.sections import Strict

DraftMethod = Literal["mtp", "eagle", "eagle3", "ngram", "draft_model"]
_MOST_DRAFTS = 64
_Share = Annotated[float, Field(ge=0, le=1)]


class AcceptanceAsk(Strict):
    """A law of the conditional probability that draft i is kept when all before it were.

    beta: (a + i - 1) / (a + b + i - 1), requests that differ in difficulty: the share of drafts kept rises with i.
    decay: first x ratio^(i - 1), one head that is used again and again: it falls.
    """

    law: Literal["beta", "decay"]
    a: float | None = Field(default=None, gt=0, le=1e6)
    b: float | None = Field(default=None, gt=0, le=1e6)
    first: float | None = Field(default=None, ge=0, le=1)
    ratio: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _whole(self) -> AcceptanceAsk:
        takes = ("a", "b") if self.law == "beta" else ("first", "ratio")
        given = [name for name in ("a", "b", "first", "ratio") if getattr(self, name) is not None]
        if sorted(given) != sorted(takes):
            raise ValueError(f"law {self.law} takes {' and '.join(takes)}, and nothing else")
        return self


def _form(value: Any) -> str | None:
    """Which form of acceptance a value has."""
    if isinstance(value, dict | AcceptanceAsk):
        return "AcceptanceAsk"
    if isinstance(value, list | tuple):
        return "by position"
    return "one number" if isinstance(value, int | float) and not isinstance(value, bool) else None


Acceptance = Annotated[
    Annotated[_Share, Tag("one number")]
    | Annotated[list[_Share], Tag("by position")]
    | Annotated[AcceptanceAsk, Tag("AcceptanceAsk")],
    Discriminator(_form),
]


class SpeculativeAsk(Strict):
    """Drafted tokens per pass, what drafts them, and how many of them are kept. Chains only: no trees of drafts.

    method: mtp (the model's own prediction modules), eagle (one dense layer and the model's head; EAGLE-1 and -2),
        eagle3 (the same with a head of 32,000 words), ngram (found in the text, free), draft_model (another model).
        Left out: draft_model where model is given, else mtp where the model has modules, else ngram.
    model: the draft model: a name, a path or a mapping of sizes, as the scenario's own; method draft_model only.
    acceptance: conditional probability that a draft is kept when all before it were: one number, one per position,
        or a law {law: beta, a, b} or {law: decay, first, ratio}. Left out: published numbers of the method.
    """

    tokens: int = Field(ge=1, le=_MOST_DRAFTS)
    acceptance: Acceptance | None = None
    method: DraftMethod | None = None
    model: str | dict[str, Any] | None = None

    @model_validator(mode="after")
    def _agrees(self) -> SpeculativeAsk:
        if isinstance(self.acceptance, list) and len(self.acceptance) != self.tokens:
            raise ValueError(
                f"acceptance lists {len(self.acceptance)} positions and tokens drafts {self.tokens}; give one each"
            )
        if self.model is not None and self.method not in (None, "draft_model"):
            raise ValueError(f"model is of method draft_model; method {self.method} has no model of its own")
        if self.model is None and self.method == "draft_model":
            raise ValueError("method draft_model needs model: the name or config.json of a smaller model")
        return self


class OffloadAsk(Strict):
    """Experts in host memory; hit_rate: uses that find their expert on the GPU (default: the resident share).

    hit_rate may not be more than a cache of the resident experts can reach under the routing.
    host_memory_bytes_per_s: the host computes the missing ones, at the rate at which it reads its memory.
    """

    resident: float = Field(ge=0, le=1)
    hit_rate: float | None = Field(default=None, ge=0, le=1)
    host_memory_bytes_per_s: float | None = Field(default=None, gt=0)


class ApartAsk(Strict):
    """Routed experts on `gpus` GPUs of their own beside each replica's attention ranks (attention-FFN disaggregation).

    batches: in which a replica's sequences go to and fro, so that attention, experts and wires work at the same time.
    """

    gpus: int = Field(ge=1, le=100_000)
    batches: int = Field(default=3, ge=1, le=16)


class AdaptersAsk(Strict):
    """LoRA adapters served beside each other.

    targets: attention (its projections) or all (those, dense blocks and shared experts; routed experts carry none).
    """

    count: int = Field(ge=1, le=100_000)
    rank: int = Field(ge=1, le=65536)
    targets: Literal["attention", "all"] | None = None


class SamplingAsk(Strict):
    """How tokens are picked from logits: greedy, or out of the top_p most likely; what else is done with the logits.

    logprobs: log-probabilities returned per token. structured: a grammar masks what may not follow (JSON).
    """

    kind: Literal["greedy", "top_p"] = "greedy"
    logprobs: int = Field(default=0, ge=0, le=10_000)
    structured: Literal["none", "json"] = "none"
