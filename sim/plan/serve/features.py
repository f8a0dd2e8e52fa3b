"""Features of a deployment that a search may turn: each as the scenario says it, or another value.

A feature that is None is what the scenario says. Values that the search tries beside it are listed by `feature_values`;
the quality of answers may depend on kv_dtype, and drafts that are kept on the text: both are said with the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

from moesim.sim.question.feature_sections import SpeculativeAsk
from moesim.sim.question.scenario import Scenario, ScenarioError
from moesim.sim.question.serving_sections import ServeAsk

FEATURE_AXES = ("expert_slots", "two_batch_overlap", "token_budget", "kv_dtype", "speculative")
_DRAFTS = (1, 2, 3)  # drafts of the model's own modules to try (assumed: nobody publishes more)
ASKED = "asked"  # as the scenario says


@dataclass(frozen=True, slots=True)
class Features:
    """What is not the layout; None stands for what the scenario says."""

    expert_slots: int | None = None  # spare slots of experts, over the whole expert-parallel group
    two_batch_overlap: bool | None = None
    token_budget: int | None = None  # tokens of a pass and rank
    kv_dtype: str | None = None
    speculative: int | None = None  # drafts of the model's own modules; 0: none at all

    @property
    def title(self) -> str:
        """'64 expert slots, two batches': what differs from the scenario; empty where nothing does."""
        said = {
            "expert_slots": f"{self.expert_slots} spare expert slots",
            "two_batch_overlap": "two batches overlapped" if self.two_batch_overlap else "one batch at a time",
            "token_budget": f"{self.token_budget} tokens a pass",
            "kv_dtype": f"{self.kv_dtype} cache",
            "speculative": f"{self.speculative} draft{'s' if self.speculative > 1 else ''} of its modules"
            if self.speculative
            else "no drafts",
        }
        return ", ".join(text for name, text in said.items() if getattr(self, name) is not None)

    def asks(self) -> dict[str, Any]:
        """As keys of a scenario's serve section, the token budget inside engine."""
        said: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("expert_slots", "two_batch_overlap", "kv_dtype")
            if getattr(self, name) is not None
        }
        if self.token_budget is not None:
            said["engine"] = {"token_budget": self.token_budget}
        if self.speculative is not None:
            said["speculative"] = {"method": "mtp", "tokens": self.speculative} if self.speculative else None
        return said

    def on(self, scenario: Scenario) -> Scenario:
        """The scenario with these features."""
        serve = scenario.serve
        assert serve is not None  # asked before
        asks = self.asks()
        if "engine" in asks:
            asks["engine"] = engine_with(serve, asks["engine"])
        if asks.get("speculative"):
            asks["speculative"] = SpeculativeAsk(**asks["speculative"])
        return scenario.model_copy(update={"serve": serve.model_copy(update=asks)})


AS_ASKED = Features()


def engine_with(serve: ServeAsk, settings: Mapping[str, Any]) -> str | dict[str, Any]:
    """The engine of a scenario with other settings."""
    engine = {"name": serve.engine} if isinstance(serve.engine, str) else dict(serve.engine)
    return {**engine, **settings} if settings else serve.engine


@dataclass(frozen=True, slots=True)
class Open:
    """What decides which features are open: the scenario, and what its model, engine and GPU can."""

    scenario: Scenario
    experts: int  # of a layer; 0 of a dense model
    uneven: bool  # routing
    modules: int  # the model's own, that draft
    token_budget: int  # of the engine as the scenario says it
    kv: str  # format of the cache as the scenario says it
    fp8: bool  # the GPU has it


def feature_values(
    open_: Open, given: Mapping[str, Iterable[object]], eps: tuple[int, ...], dp: int
) -> dict[str, list[Any]]:
    """Values to try of each feature of one layout, `None` (as asked) first; a single one where it is fixed.

    eps: expert-parallel degrees of its pools; dp: attention ranks of the widest of them.
    """
    serve = open_.scenario.serve
    assert serve is not None
    wide = bool(open_.experts) and max(eps) > 1
    args = isinstance(serve.engine, dict) and "args" in serve.engine
    budget, asked = open_.token_budget, serve.speculative
    found: dict[str, list[Any]] = {
        "expert_slots": slots_to_try(open_, eps)
        if wide and open_.uneven and open_.scenario.placement is None
        else [None],
        "two_batch_overlap": [None, not serve.two_batch_overlap] if wide and dp > 1 else [None],
        "token_budget": [None] if args else [None, budget // 2, budget * 2],
        "kv_dtype": [None, "bf16" if open_.kv == "fp8" else "fp8"] if open_.fp8 else [None],
        "speculative": [None, *([0] if asked else []), *(_DRAFTS if open_.modules and not asked else ())],
    }
    return {name: [_stated(name, v) for v in given[name]] if name in given else vs for name, vs in found.items()}


def slots_to_try(open_: Open, eps: tuple[int, ...]) -> list[int | None]:
    """Spare slots: as asked, none, and one on every rank of the widest pool."""
    serve = open_.scenario.serve
    assert serve is not None
    tried = [n for n in (0, lcm(*eps)) if (open_.experts + n) % lcm(*eps) == 0 and n != serve.expert_slots]
    own = [None] if all((open_.experts + serve.expert_slots) % ep == 0 for ep in eps) else []
    return [*own, *tried]


def _stated(name: str, value: object) -> Any:
    """A value of --set as a feature."""
    text = str(value)
    if text == ASKED:
        return None
    if name in ("kv_dtype",):
        return text
    if name == "two_batch_overlap":
        return text == "yes"
    return 0 if text == "no" else int(text)


def check_words(name: str, words: tuple[str, ...]) -> None:
    """ScenarioError for values of a feature that do not exist."""
    numbers = {
        "expert_slots": "0, or the spare slots",
        "token_budget": "tokens of a pass",
        "speculative": "no, or drafts",
    }
    fixed = {"two_batch_overlap": ("yes", "no"), "kv_dtype": ("bf16", "fp8"), "speculative": ("no",)}.get(name, ())
    for word in words:
        least = 1 if name in ("token_budget", "speculative") else 0
        number = name in numbers and word.isdecimal() and least <= int(word) <= 1_000_000
        if word != ASKED and word not in fixed and not number:
            known = numbers.get(name, " or ".join(fixed))
            raise ScenarioError(f"{name}={word!r} is not known; use {known}, or asked (as the scenario says)")


def moved(features: Features, name: str, value: Any) -> Features:
    """The same with one feature changed."""
    return replace(features, **{name: value})
