"""Sparse upcycling: a mixture of experts that starts from a dense checkpoint, and what that saves of its training."""

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
from moesim.sim.model.arch import ModelArch
from moesim.sim.model.catalogue import load_model
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.train.whole_run import TrainingRun

_FACTS = Path(__file__).parent / "upcycling.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upcycling:
    """The run from scratch beside the run from a dense parent, and what the parent takes where there is none."""

    model: str
    parent: str
    token_share: float  # of the tokens from scratch that an upcycled model needs
    scratch: TrainingRun
    upcycled: TrainingRun
    parent_run: TrainingRun  # as many tokens as from scratch, on the same cluster
    note: str

    @property
    def tokens_saved(self) -> float:
        """Tokens that need not be trained."""
        return self.scratch.tokens - self.upcycled.tokens

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self) | {"tokens_saved": self.tokens_saved}


def token_share() -> float:
    """Share of the tokens from scratch after which an upcycled model is as good; see upcycling.yaml."""
    return float(read_yaml(_FACTS)["token_share"]["value"])


def upcycling(scenario: Mapping[str, Any], parent: str, tokens: float | None) -> Upcycling:
    """The run of a training scenario from scratch and from a dense parent.

    ScenarioError without tokens or a train section, for a dense model, and for a parent that its weights cannot be
    copied from. DoesNotFit where the model or its parent fits nowhere.
    """
    if tokens is None:
        raise ScenarioError("upcycled-from compares whole runs: give tokens too, for example --tokens 1e12")
    if "train" not in scenario:
        raise ScenarioError("upcycled-from compares training: the first scenario has no train section")
    arch, dense = load_model(scenario["model"]), load_model(parent)
    _check(arch, dense)
    fact = read_yaml(_FACTS)["token_share"]
    share = token_share()
    before, _ = fitting_train(twin_scenario(only(scenario, "train"), arch, dense))
    runs = [_run(only(scenario, "train"), tokens), _run(only(scenario, "train"), tokens * share), _run(before, tokens)]
    return Upcycling(
        model=arch.name, parent=dense.name, token_share=share, scratch=runs[0], upcycled=runs[1], parent_run=runs[2],
        note=f"{share:.0%} of the tokens ({fact['kind']}: {fact['source']})",
    )  # fmt: skip


def _run(scenario: Mapping[str, Any], tokens: float) -> TrainingRun:
    side = train_side(scenario, tokens)
    if isinstance(side, str) or side.run is None:
        raise ScenarioError(f"upcycled-from: {side}")
    return side.run


def _check(arch: ModelArch, parent: ModelArch) -> None:
    if not arch.is_moe:
        raise ScenarioError(f"{arch.name} is dense: nothing is upcycled into it; give an MoE model first")
    if parent.is_moe:
        raise ScenarioError(f"upcycled-from {parent.name}: it has experts already; name a dense model")
    if (arch.hidden, arch.num_layers) != (parent.hidden, parent.num_layers):
        raise ScenarioError(
            f"{parent.name} (hidden {parent.hidden}, {parent.num_layers} layers) cannot be copied into {arch.name} "
            f"(hidden {arch.hidden}, {arch.num_layers} layers): name a dense model of equal hidden size and depth"
        )
