"""Routes from dense checkpoints to a mixture of experts, and what each saves of its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moesim.hwmodels.facts import read_yaml
from moesim.sim.comparison.fitting import fitting_train
from moesim.sim.comparison.side import train_side
from moesim.sim.comparison.twin import twin_scenario
from moesim.sim.comparison.twins import only
from moesim.sim.model.arch import FfnArch, ModelArch, MoeArch
from moesim.sim.model.catalogue import load_model
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.train.whole_run import TrainingRun

_FACTS = Path(__file__).parent / "upcycling.yaml"


@dataclass(frozen=True, slots=True)
class DenseParent:
    """A dense model whose checkpoint a mixture starts from, and how: `route` is one of `route_names`."""

    model: str
    route: str = "upcycle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One way from dense checkpoints to a mixture: a record of upcycling.yaml."""

    title: str
    token_share: float  # of the tokens from scratch, trained after it
    parents: str  # one | experts
    trained: str
    kind: str  # fact | assumed
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Upcycling:
    """The run from scratch beside the run from dense parents, and what a parent takes where there is none."""

    model: str
    parent: str
    route: str
    token_share: float  # of the tokens from scratch that are trained after the conversion
    parents: int  # dense checkpoints that it takes
    scratch: TrainingRun
    upcycled: TrainingRun
    parent_run: TrainingRun  # of one parent: as many tokens as from scratch, on the same cluster
    note: str

    @property
    def tokens_saved(self) -> float:
        """Tokens that need not be trained."""
        return self.scratch.tokens - self.upcycled.tokens

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self) | {"tokens_saved": self.tokens_saved}


def route_names() -> tuple[str, ...]:
    """The routes that upcycling.yaml describes."""
    return tuple(read_yaml(_FACTS))


def route_called(name: str) -> Route:
    """The record of a route. ScenarioError for one that nobody knows."""
    records = read_yaml(_FACTS)
    if name not in records:
        raise ScenarioError(f"route {str(name)[:40]!r} is not known; use one of {', '.join(records)}")
    return Route(**records[name])


def upcycling(scenario: Mapping[str, Any], start: str | DenseParent, tokens: float | None) -> Upcycling:
    """The run of a training scenario from scratch and from a dense parent; a name alone means sparse upcycling.

    ScenarioError without tokens or a train section, for a dense model, and for a parent whose sizes the mixture cannot
    be made of. DoesNotFit where the model or its parent fits nowhere.
    """
    start = DenseParent(start) if isinstance(start, str) else start
    route = route_called(start.route)
    if tokens is None:
        raise ScenarioError("upcycled-from compares whole runs: give tokens too, for example --tokens 1e12")
    if "train" not in scenario:
        raise ScenarioError("upcycled-from compares training: the first scenario has no train section")
    arch, dense = load_model(scenario["model"]), load_model(start.model)
    _check(arch, dense, start.route)
    before, _ = fitting_train(twin_scenario(only(scenario, "train"), arch, dense))
    shares = (tokens, tokens * route.token_share)
    scratch, after = (_run(only(scenario, "train"), n) for n in shares)
    assert arch.moe is not None
    return Upcycling(
        model=arch.name, parent=dense.name, route=start.route, token_share=route.token_share,
        parents=arch.moe.experts if route.parents == "experts" else 1,
        scratch=scratch, upcycled=after, parent_run=_run(before, tokens),
        note=f"{route.token_share:.0%} of the tokens ({route.kind}: {route.source}); trained: {route.trained}",
    )  # fmt: skip


def _run(scenario: Mapping[str, Any], tokens: float) -> TrainingRun:
    side = train_side(scenario, tokens)
    if isinstance(side, str) or side.run is None:
        raise ScenarioError(f"upcycled-from: {side}")
    return side.run


def _check(arch: ModelArch, parent: ModelArch, route: str) -> None:
    if arch.moe is None:
        raise ScenarioError(f"{arch.name} is dense: nothing is upcycled into it; give an MoE model first")
    if parent.is_moe:
        raise ScenarioError(f"upcycled-from {parent.name}: it has experts already; name a dense model")
    if (arch.hidden, arch.num_layers) != (parent.hidden, parent.num_layers):
        raise ScenarioError(
            f"{parent.name} (hidden {parent.hidden}, {parent.num_layers} layers) cannot be copied into {arch.name} "
            f"(hidden {arch.hidden}, {arch.num_layers} layers): name a dense model of equal hidden size and depth"
        )
    if route != "upcycle":
        _check_blocks(arch, arch.moe, parent, route)


def _check_blocks(arch: ModelArch, moe: MoeArch, parent: ModelArch, route: str) -> None:
    """Whether the parent's blocks are those that the mixture is made of: nothing is trained long enough to mend one."""
    dense = parent.ffn
    if dense is None or dense.gated != moe.gated:
        have = "none" if dense is None else _gated(dense)
        raise ScenarioError(
            f"route {route}: experts of {arch.name} are {_gated(moe)} blocks, those of {parent.name}: {have}"
        )
    own, other = (arch.attention, parent.attention)
    heads = [None if a is None else (a.heads, a.kv_heads, a.head_dim) for a in (own, other)]
    if heads[0] != heads[1]:
        raise ScenarioError(
            f"route {route}: {arch.name} has attention of (heads, KV heads, head size) {heads[0]}, {parent.name} of "
            f"{heads[1]}: it is copied as it is; name a parent of equal attention"
        )
    if route == "merge" and moe.expert_intermediate != dense.intermediate:
        raise ScenarioError(
            f"route merge: every expert of {arch.name} is {moe.expert_intermediate} wide, the block of {parent.name} "
            f"{dense.intermediate}: parents have the width of an expert; name such a one, or route split"
        )
    whole = moe.experts * moe.expert_intermediate + (moe.shared_intermediate or 0)
    if route == "split" and whole != dense.intermediate:
        shared = f" and {moe.shared_intermediate} shared" if moe.shared_intermediate else ""
        raise ScenarioError(
            f"route split: {arch.name} has {moe.experts} experts of {moe.expert_intermediate}{shared}, {whole} in all, "
            f"the block of {parent.name} {dense.intermediate}: slices fill the parent's width; name such a one, or "
            "route merge"
        )


def _gated(block: FfnArch | MoeArch) -> str:
    return "gated" if block.gated else "plain"
