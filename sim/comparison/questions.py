"""Questions: what is asked about each column of a comparison: scenarios as given, and their dense twins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moesim.sim.comparison.best import best_serve, best_train
from moesim.sim.comparison.scaling import DenseEqual
from moesim.sim.comparison.twins import MOVED, check_kind, only, twin_of
from moesim.sim.model.catalogue import load_model
from moesim.sim.plan.train.search import Effort, Progress
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import Asked, ScenarioError, scenario_of

SECTIONS = ("train", "serve")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A column before it is answered: a scenario per section."""

    name: str
    model: Any
    sections: Mapping[str, dict[str, Any]]
    refusals: Mapping[str, str]
    notes: tuple[str, ...]
    as_asked: Mapping[str, dict[str, Any]]  # every section with the asked layout, whether it fits or not


def read_scenarios(scenarios: Sequence[Asked]) -> list[tuple[str, dict[str, Any]]]:
    """(name, mapping) of every scenario, checked; names are file stems or models and unique."""
    named: list[tuple[str, dict[str, Any]]] = []
    for scenario in scenarios:
        checked = scenario_of(scenario)
        name = Path(scenario).stem if isinstance(scenario, str | Path) else load_model(checked.model).name
        mapping = {k: v for k, v in checked.model_dump(exclude_unset=True).items() if v is not None}
        named.append((_unique(name, [other for other, _ in named]), mapping))
    return named


def _unique(name: str, taken: Sequence[str]) -> str:
    same = sum(1 for other in taken if other.partition(" #")[0] == name)
    return f"{name} #{same + 1}" if same else name


def questions_of(
    asked: list[tuple[str, dict[str, Any]]], twin: str, tokens: float | None
) -> tuple[list[Question], list[tuple[int, DenseEqual]]]:
    """Columns to answer, and what scaling laws say about the column of that number."""
    questions: list[Question] = []
    quality = []
    if twin:
        check_kind(twin)
        if not any(load_model(m["model"]).is_moe for _, m in asked):
            twin_of(twin, asked[0][1])  # refuses: dense
    for name, mapping in asked:
        sections = {s: only(mapping, s) for s in SECTIONS if mapping.get(s) is not None}
        if not sections:
            raise ScenarioError(f"{name} has neither a train nor a serve section: nothing comparable")
        questions.append(
            Question(name=name, model=mapping["model"], sections=sections, refusals={}, notes=(), as_asked=sections)
        )
        if twin and load_model(mapping["model"]).is_moe:
            dense = twin_of(twin, mapping, tokens)
            if dense.quality is not None:
                quality.append((len(questions) - 1, dense.quality))
            questions.append(
                Question(
                    name=_unique(dense.name, [q.name for q in questions]), model=dense.model, sections=dense.sections,
                    refusals=dense.refusals, notes=dense.notes, as_asked=dense.as_asked,
                )
            )  # fmt: skip
    return questions, quality


def in_best_layouts(question: Question, effort: Effort, progress: Progress | None = None) -> Question:
    """The question with every section in the best layout that a search finds, and how far the asked one is from it."""
    sections, refusals, notes = {}, {}, [n for n in question.notes if not n.startswith(MOVED)]
    for section, asked in question.as_asked.items():
        try:
            best = best_train(asked, effort, progress) if section == "train" else best_serve(asked, progress)
        except DoesNotFit as refusal:
            refusals[section] = str(refusal)
            continue
        sections[section] = best.scenario
        notes.append(f"{section}: {best.note}")
    return replace(question, sections=sections, refusals=refusals, notes=tuple(notes))
