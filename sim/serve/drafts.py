"""Speculation: how many drafted tokens a pass checks, how many of them it keeps, and what drafts them.

Lengths of accepted drafts depend on the text and on what drafts, hardly on the batch (4.50 tokens alone, 4.40 at 64).
Chains only: trees of drafts are not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import accumulate
from operator import mul

from moesim.sim.model.arch import AttentionArch, FfnArch, LayerKind, ModelArch
from moesim.sim.model.catalogue import load_model
from moesim.sim.model.params import mtp_kind
from moesim.sim.question.feature_sections import AcceptanceAsk, SpeculativeAsk
from moesim.sim.question.scenario import ScenarioError

_HEAD_WIDTH = 128  # assumed: of an EAGLE layer's attention heads where the model's own attention is latent
_WIDER = 3.5  # assumed: the width of an EAGLE layer's feed-forward block over the model's, as in Llama 3.1 8B
_SHORT_VOCAB = 32_000  # words that EAGLE-3 drafts from (arXiv:2503.01840)
_SAME_VOCAB = 0.01  # two vocabularies that differ by more are not of one tokeniser; some are padded

# acceptance where a scenario gives none: law and where it was published
_REUSED = (
    AcceptanceAsk(law="decay", first=0.82, ratio=0.72),
    "0.81 to 0.82 of first drafts (vLLM pull request 12755), 2.2 to 2.7 tokens a pass with 2 and 3 drafts",
)
_MODULES = (AcceptanceAsk(law="beta", a=5.5, b=1.7), "modules of their own for every position: .76 .62 .51 .42 kept")
_USUAL = {
    "eagle": (
        AcceptanceAsk(law="decay", first=0.77, ratio=0.79),
        ".77 .45 .24 kept on edits of text (vLLM pull request 24344)",
    ),
    "eagle3": (
        AcceptanceAsk(law="decay", first=0.74, ratio=1.0),
        "3.53 tokens a pass with 7 drafts, Llama 3.1 8B on MT-Bench (vLLM issue 26191)",
    ),
    "ngram": (
        AcceptanceAsk(law="beta", a=0.58, b=0.14),
        ".81 .74 .70 .68 .66 kept on edits of text (vLLM pull request 24344); far fewer where nothing is repeated",
    ),
    "draft_model": (
        AcceptanceAsk(law="decay", first=0.75, ratio=1.0),
        "T5-small for T5-XXL (arXiv:2211.17192, table 2)",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """Drafts of a pass: what makes them, and the probability that each is kept when all before it were."""

    method: str
    kept: tuple[float, ...]  # by position
    drafter: ModelArch | None = field(default=None, repr=False)  # None: drafts cost nothing
    drafter_name: str = ""
    joins: int = 0  # hidden states that a drafting layer joins into one
    modules: int = 1  # drafting layers of their own that have to be kept

    tokens: int = field(init=False)  # drafted per pass

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", len(self.kept))

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens that one pass yields: its own, and every draft with all before it kept (later ones are lost)."""
        return 1.0 + float(sum(accumulate(self.kept, mul)))


def kept_by(law: float | list[float] | AcceptanceAsk, tokens: int) -> tuple[float, ...]:
    """Conditional probability that draft 1, 2, ... `tokens` is kept when all before it were."""
    if isinstance(law, AcceptanceAsk):
        return tuple(_at(law, i) for i in range(tokens))
    return tuple(law) if isinstance(law, list) else (float(law),) * tokens


def _at(law: AcceptanceAsk, i: int) -> float:
    if law.law == "beta":
        assert law.a is not None and law.b is not None
        return (law.a + i) / (law.a + law.b + i)
    assert law.first is not None and law.ratio is not None
    return float(law.first * law.ratio**i)


def speculation_of(ask: SpeculativeAsk | None, arch: ModelArch) -> tuple[Speculation | None, list[str]]:
    """What a scenario asks for, and what had to be assumed. ScenarioError for what cannot draft for this model."""
    if ask is None:
        return None, []
    method, said = _method(ask, arch)
    law = ask.acceptance
    if law is None:
        usual = (_MODULES if ask.tokens <= arch.mtp_layers > 1 else _REUSED) if method == "mtp" else _USUAL[method]
        law, source = usual
        shares = accumulate(kept_by(law, ask.tokens), mul)
        said.append(f"drafts kept: {', '.join(f'{p:.2f}' for p in shares)} by position (assumed: {source})")
    drafter, joins = _drafter(method, ask, arch)
    speculation = Speculation(
        method=method,
        kept=kept_by(law, ask.tokens),
        drafter=drafter,
        drafter_name=drafter.name if drafter else "",
        joins=joins,
        modules=min(ask.tokens, arch.mtp_layers) if method == "mtp" else 1,
    )
    said.append(
        f"drafts: {ask.tokens} a pass by {method}, {speculation.tokens_per_step:.2f} tokens come out of a pass; a "
        "chain, no tree; as many at every batch size"
    )
    return speculation, said


def _method(ask: SpeculativeAsk, arch: ModelArch) -> tuple[str, list[str]]:
    if ask.method == "mtp" and arch.mtp_layers == 0:
        raise ScenarioError(
            f"serve.speculative.method=mtp: {arch.name} has no prediction modules; use eagle or eagle3 (a trained "
            "layer), draft_model with a model, or ngram"
        )
    if ask.method is not None:
        return ask.method, []
    if ask.model is not None:
        return "draft_model", []
    if arch.mtp_layers:
        return "mtp", ["speculative.method = mtp (the model's own prediction modules)"]
    return "ngram", [
        f"speculative.method = ngram: {arch.name} has no prediction modules, so drafts are taken to cost nothing; "
        "eagle, eagle3 and draft_model have a price"
    ]


def _drafter(method: str, ask: SpeculativeAsk, arch: ModelArch) -> tuple[ModelArch | None, int]:
    """(the model that drafts, hidden states that its layer joins); None where drafts are free."""
    if method == "ngram":
        return None, 0
    if method == "mtp":
        return replace(arch, name=f"{arch.name} module", layers=(mtp_kind(arch),), mtp_layers=0), 2
    if method == "draft_model":
        assert ask.model is not None
        return _checked(load_model(ask.model), arch), 0
    return _one_layer(arch, method == "eagle3"), 3 if method == "eagle3" else 2


def _checked(drafter: ModelArch, arch: ModelArch) -> ModelArch:
    if abs(drafter.vocab / arch.vocab - 1.0) > _SAME_VOCAB:
        raise ScenarioError(
            f"serve.speculative.model={drafter.name} has a vocabulary of {drafter.vocab:,} words and {arch.name} of "
            f"{arch.vocab:,}: drafts have to be words of both; use a smaller model of the same family, eagle or ngram"
        )
    return drafter


def _one_layer(arch: ModelArch, short: bool) -> ModelArch:
    """EAGLE's layer: dense, of the model's hidden size; EAGLE-3 picks its drafts from 32,000 words."""
    a = arch.attention
    if a is None or a.is_mla:
        heads = max(1, arch.hidden // _HEAD_WIDTH)
        a = AttentionArch(heads=heads, kv_heads=heads, head_dim=_HEAD_WIDTH, v_head_dim=_HEAD_WIDTH)
    ffn = arch.ffn if arch.ffn is not None and not arch.is_moe else None
    ffn = ffn or FfnArch(intermediate=256 * max(1, round(_WIDER * arch.hidden / 256)), gated=True)
    return ModelArch(
        name=f"EAGLE layer of {arch.name}",
        hidden=arch.hidden,
        layers=(LayerKind(mixer="attention", ffn="dense"),),
        attention=a,
        ffn=ffn,
        moe=None,
        ssm=None,
        vocab=min(arch.vocab, _SHORT_VOCAB) if short else arch.vocab,
        tied_embeddings=False,
        max_context=arch.max_context,
    )
