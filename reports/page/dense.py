"""The dense models that a mixture is held against: of equal quality by scaling laws, and of equal active parameters.

Equal active parameters is the same work per token, and no substitute: such a model learns less. Equal quality is what
could stand in its place, as far as published scaling laws can say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from moesim.reports.text import count, times
from moesim.sim.comparison.best import TRAINED, best_train
from moesim.sim.comparison.scaling import DenseEqual, dense_equal
from moesim.sim.comparison.twin import dense_of_size, dense_twin
from moesim.sim.comparison.twins import only, twin_of
from moesim.sim.model.arch import ModelArch
from moesim.sim.model.catalogue import load_model
from moesim.sim.model.params import parameters
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prediction import Prediction

KINDS = {"iso-quality": "dense, equal quality", "iso-active": "dense, equal active"}
_EVEN = 0.02  # closer than this nobody should call it a difference

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Dense(Generic[P]):
    """One dense model and its answer; None where it does not fit, and `note` says why, or how it is laid out."""

    kind: str  # of KINDS
    parameters: int
    answer: P | None
    note: str
    quality: DenseEqual | None

    @property
    def title(self) -> str:
        """As columns are headed."""
        return KINDS[self.kind]

    @property
    def said(self) -> str:
        """As it stands in a sentence."""
        size = count(float(self.parameters)).replace(" ", "")
        if self.quality is None:
            return f"one of equal active parameters ({size}), which is no substitute for it,"
        low, high = (count(end).replace(" ", "") for end in (self.quality.low, self.quality.high))
        return f"a dense model of equal quality by published scaling laws ({size}; {low} to {high} over laws)"


def dense_models(arch: ModelArch, tokens: float | None) -> list[tuple[str, ModelArch, DenseEqual | None]]:
    """(kind, model, what scaling laws say) of both; none for a model that is dense itself."""
    if not arch.is_moe:
        return []
    equal = dense_equal(arch, tokens)
    return [
        ("iso-quality", dense_of_size(arch, equal.parameters, f"{arch.name}-equal-quality"), equal),
        ("iso-active", dense_twin(arch), None),
    ]


def trained_dense(
    raw: Mapping[str, Any], arch: ModelArch, search: str, tokens: float | None
) -> list[Dense[Prediction]]:
    """Both dense models in the same training question, each in the best layout that a search finds.

    Without a search they are laid out like the mixture, whether they fit or not.
    """
    found: list[Dense[Prediction]] = []
    for kind in KINDS if arch.is_moe else ():
        twin = twin_of(kind, only(raw, "train"), tokens)
        asked, size = twin.as_asked["train"], _size(twin.model)
        try:
            if search == "none":
                answer, note = predict_train(asked, check_memory=False), "laid out like the mixture"
            else:
                best = best_train(asked, TRAINED)
                answer, note = predict_train(best.scenario), f"in its best layout, {best.layout}"
            found.append(Dense(kind, size, answer, note, twin.quality))
        except DoesNotFit as refusal:
            found.append(Dense(kind, size, None, str(refusal), twin.quality))
    return found


def _size(model: Any) -> int:
    return parameters(load_model(model))


def beside(ratios: Sequence[tuple[Dense[Any], float | None, bool]]) -> str:
    """Sentences on both: what each costs per token over the mixture, and whether their intervals overlap; None where it
    does not fit."""
    said = []
    for dense, ratio, overlap in ratios:
        unsure = " (the intervals overlap)" if overlap else ""
        if ratio is None:
            text = f"{dense.said} does not fit here"
        elif abs(ratio - 1.0) < _EVEN:
            text = f"{dense.said} costs the same per token{unsure}"
        else:
            text = f"{dense.said} is {times(ratio, 'dearer', 'cheaper')} per token{unsure}"
        said.append(f"{text[0].upper()}{text[1:]}.")
    return " ".join(said)
