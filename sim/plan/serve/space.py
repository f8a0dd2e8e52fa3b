"""Candidate deployments of one serving question: layouts of replicas or pools, how many, batch limits, features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from moesim.hwmodels.units import parse_count
from moesim.sim.layout.layout import BadLayout
from moesim.sim.layout.slots import BLOCKS, Placement, check_slots
from moesim.sim.model.arch import ModelArch
from moesim.sim.plan.serve.features import AS_ASKED, FEATURE_AXES, Features, check_words
from moesim.sim.plan.words import named_words
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.question.serving_sections import PoolAsk
from moesim.sim.serve.job import replica_layout

SERVE_AXES = ("tp", "pp", "ep", "attention_dp", "replicas", "max_batch", "pools", "idle", *FEATURE_AXES)
_YES_NO = ("pools", "idle")  # idle: whether GPUs may be left out
_WIDEST = 128  # assumed: GPUs of the widest replica; published deployments of DeepSeek-V3 take up to 144
_MOST_TP = 16  # assumed: nobody splits a layer further
_PP = (1, 2)  # assumed: deeper pipelines only add latency
BATCHES = (256, 64)  # limits to try below the engine's own (assumed)

Given = Mapping[str, Iterable[object]]


@dataclass(frozen=True, slots=True)
class Shape:
    """Layout of one replica or worker."""

    tp: int
    pp: int
    ep: int
    attention_dp: int

    @property
    def gpus(self) -> int:
        """Of one replica."""
        return self.tp * self.pp * self.attention_dp

    @property
    def title(self) -> str:
        """'tp4 dp2 ep8': degrees of 1 left out, but for tp; dp is a scenario's attention_dp."""
        more = (("pp", self.pp), ("dp", self.attention_dp), ("ep", self.ep))
        return " ".join([f"tp{self.tp}", *(f"{name}{n}" for name, n in more if n > 1)])

    @property
    def degrees(self) -> dict[str, int]:
        """By the names of a scenario."""
        return {"tp": self.tp, "pp": self.pp, "ep": self.ep, "attention_dp": self.attention_dp}

    @property
    def ask(self) -> PoolAsk:
        """As a scenario says it."""
        return PoolAsk(tp=self.tp, pp=self.pp, ep=self.ep, attention_dp=self.attention_dp)


@dataclass(frozen=True, slots=True)
class ServeCandidate:
    """Replicas of one shape; or, with `prefill`, decode workers of it beside prefill workers."""

    shape: Shape
    replicas: int
    max_batch: int  # running sequences of one rank
    prefill: Shape | None = None
    prefill_workers: int = 0
    limited: bool = False  # by another limit than the engine's own
    features: Features = AS_ASKED

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.replicas * self.shape.gpus + (self.prefill_workers * self.prefill.gpus if self.prefill else 0)

    @property
    def pair(self) -> str:
        """Its shapes without their numbers."""
        return f"{self.prefill.title if self.prefill else ''} {self.shape.title}"

    @property
    def title(self) -> str:
        """'2 x (tp4), at most 64 sequences a rank, fp8 cache': what is as the scenario or engine says is left out."""
        limit = f"at most {self.max_batch} sequences a rank" if self.limited else ""
        return ", ".join(part for part in (self.layout, limit, self.features.title) if part)

    @property
    def asks(self) -> dict[str, Any]:
        """What a scenario says to get it: its keys of cluster, layout and serve."""
        serve = self.features.asks()
        if self.limited:
            serve["engine"] = {**serve.get("engine", {}), "max_batch": self.max_batch}
        own = self.shape.degrees
        if self.prefill is None:
            serve["attention_dp"] = own.pop("attention_dp")
            return {"cluster": {"gpus": self.gpus}, "layout": own, "serve": serve}
        pools = {
            "prefill": {"workers": self.prefill_workers, **self.prefill.degrees},
            "decode": {"workers": self.replicas, **own},
        }
        return {"cluster": {"gpus": self.gpus}, "serve": {"pools": pools, **serve}}

    @property
    def scenario(self) -> str:
        """The same in one line of YAML."""
        return ", ".join(f"{name}: {_flow(value)}" for name, value in self.asks.items())

    @property
    def layout(self) -> str:
        """'2 x (tp4)', or '1 x (tp8) prefill + 3 x (dp8 ep8) decode'."""
        own = f"{self.replicas} x ({self.shape.title})"
        if self.prefill is None:
            return own
        return f"{self.prefill_workers} x ({self.prefill.title}) prefill + {own} decode"


def shapes(arch: ModelArch, gpus: int, domain: int, given: Given, placement: Placement = BLOCKS) -> list[Shape]:
    """Every layout of a replica on at most `gpus` GPUs that the model allows, narrowest first."""
    possible = []
    most = min(gpus, _WIDEST)
    for width in sorted({w for w in range(1, most + 1) if gpus % w == 0} | set(_powers(most))):
        for pp, tp in product(axis(given, "pp", _PP), axis(given, "tp", _powers(min(_MOST_TP, domain)))):
            ranks, rest = divmod(width, pp)
            if rest or ranks % tp:
                continue
            dp = ranks // tp
            experts = (1, ranks) if arch.is_moe and ranks > 1 else (1,)
            for ep in dict.fromkeys(axis(given, "ep", experts)):
                shape = Shape(tp, pp, ep, dp)
                if dp in axis(given, "attention_dp", (dp,)) and _possible(shape, arch, placement):
                    possible.append(shape)
    return possible


def axis(given: Given, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """Values of an axis of numbers: those that are given, or all."""
    return tuple(int(str(v)) for v in given[name]) if name in given else default


def _powers(most: int) -> tuple[int, ...]:
    return tuple(2**i for i in range(max(1, most).bit_length()) if 2**i <= most)


def _possible(shape: Shape, arch: ModelArch, placement: Placement) -> bool:
    if shape.pp > 1 and shape.attention_dp > 1:
        return False
    try:
        check_slots(placement, arch, replica_layout(arch, shape.ask).ep)
    except BadLayout:
        return False
    return True


def _flow(value: object) -> str:
    """YAML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_flow(v)}" for k, v in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def serve_axes(texts: Iterable[str]) -> dict[str, tuple[object, ...]]:
    """'tp=4,8' as {"tp": (4, 8)}; pools and idle are yes or no. ScenarioError for axes or values that do not exist."""
    values: dict[str, tuple[object, ...]] = {}
    for name, words in named_words(texts, "serve"):
        if name not in SERVE_AXES:
            raise ScenarioError(f"{name!r} is not searched for serving; use one of {', '.join(SERVE_AXES)}")
        if name in _YES_NO:
            if not set(words) <= {"yes", "no"}:
                raise ScenarioError(f"{name}={','.join(words)!r} is not known; use yes, no or yes,no")
        else:
            words = tuple(str(n) if isinstance(n := parse_count(w), int) else w for w in words)
        if name in FEATURE_AXES:
            check_words(name, words)
        elif name not in _YES_NO and not all(w.isdecimal() and 0 < int(w) <= 1_000_000 for w in words):
            raise ScenarioError(f"{name}={','.join(words)!r} is not a list of whole numbers of at least 1")
        values[name] = words
    return values
