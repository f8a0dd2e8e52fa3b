"""Candidate deployments of one serving question: layouts of replicas, how many, batch limits, pools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from moesim.sim.layout.layout import BadLayout
from moesim.sim.layout.slots import BLOCKS, Placement, check_slots
from moesim.sim.model.arch import ModelArch
from moesim.sim.plan.words import named_words
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.question.serving_sections import PoolAsk
from moesim.sim.serve.job import ServeJob, replica_layout

SERVE_AXES = ("tp", "pp", "ep", "attention_dp", "max_batch", "pools")
_WIDEST = 128  # assumed: GPUs of the widest replica; published deployments of DeepSeek-V3 take up to 144
_MOST_TP = 16  # assumed: nobody splits a layer further
_PP = (1, 2)  # assumed: deeper pipelines only add latency
_BATCHES = (256, 64)  # limits to try below the engine's own (assumed)
_EIGHTHS = (1, 2, 3, 4, 5, 6)  # of the GPUs that may compute prompts

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
    limited: bool = False  # by less than the engine's own limit

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.replicas * self.shape.gpus + (self.prefill_workers * self.prefill.gpus if self.prefill else 0)

    @property
    def title(self) -> str:
        """'2 x (tp4), at most 64 sequences a rank': the batch limit only where it is not the engine's."""
        return self.layout + (f", at most {self.max_batch} sequences a rank" if self.limited else "")

    @property
    def scenario(self) -> str:
        """What a scenario file says to get it, in one line of YAML."""
        own, limit = self.shape, f", engine: {{max_batch: {self.max_batch}}}" if self.limited else ""
        if self.prefill is None:
            layout = f"layout: {{tp: {own.tp}, pp: {own.pp}, ep: {own.ep}}}"
            return f"cluster: {{gpus: {self.gpus}}}, {layout}, serve: {{attention_dp: {own.attention_dp}{limit}}}"
        pools = ", ".join(
            f"{name}: {{workers: {workers}, tp: {s.tp}, pp: {s.pp}, ep: {s.ep}, attention_dp: {s.attention_dp}}}"
            for name, workers, s in (("prefill", self.prefill_workers, self.prefill), ("decode", self.replicas, own))
        )
        return f"cluster: {{gpus: {self.gpus}}}, serve: {{pools: {{{pools}}}{limit}}}"

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
    for width in (w for w in range(1, min(gpus, _WIDEST) + 1) if gpus % w == 0):
        for pp, tp in product(_axis(given, "pp", _PP), _axis(given, "tp", _powers(min(_MOST_TP, domain)))):
            ranks, rest = divmod(width, pp)
            if rest or ranks % tp:
                continue
            dp = ranks // tp
            experts = (1, ranks) if arch.is_moe and ranks > 1 else (1,)
            for ep in dict.fromkeys(_axis(given, "ep", experts)):
                shape = Shape(tp, pp, ep, dp)
                if dp in _axis(given, "attention_dp", (dp,)) and _possible(shape, arch, placement):
                    possible.append(shape)
    return possible


def _axis(given: Given, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
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


def deployments(base: ServeJob, gpus: int, fitting: list[Shape], given: Given) -> Iterator[ServeCandidate]:
    """Every use of all GPUs by replicas or pools of shapes that fit, in a fixed order."""
    own = base.engine.max_batch
    batches = _axis(given, "max_batch", (own, *(b for b in _BATCHES if b < own)))
    pools = {str(v) for v in given.get("pools", ("no", "yes"))}
    if "no" in pools:
        for shape, batch in product(fitting, batches):
            yield ServeCandidate(shape, gpus // shape.gpus, batch, limited=batch != own)
    if "yes" not in pools or gpus < 2:
        return
    flat = [s for s in fitting if s.pp == 1]
    splits = sorted({gpus * e // 8 for e in _EIGHTHS} - {0})
    for first, second, prompts in product(flat, flat, splits):
        if prompts % first.gpus == 0 and (gpus - prompts) % second.gpus == 0:
            yield ServeCandidate(second, (gpus - prompts) // second.gpus, batches[0], first, prompts // first.gpus)


def serve_axes(texts: Iterable[str]) -> dict[str, tuple[object, ...]]:
    """'tp=4,8' as {"tp": (4, 8)}; pools=yes or no. ScenarioError for axes or values that do not exist."""
    values: dict[str, tuple[object, ...]] = {}
    for name, words in named_words(texts, "serve"):
        if name not in SERVE_AXES:
            raise ScenarioError(f"{name!r} is not searched for serving; use one of {', '.join(SERVE_AXES)}")
        if name == "pools":
            if not set(words) <= {"yes", "no"}:
                raise ScenarioError(f"pools={','.join(words)!r} is not known; use yes, no or yes,no")
        elif not all(w.isdecimal() and 0 < int(w) <= 1_000_000 for w in words):
            raise ScenarioError(f"{name}={','.join(words)!r} is not a list of whole numbers of at least 1")
        values[name] = words
    return values
