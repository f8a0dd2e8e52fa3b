"""compare: the verb that sets scenarios and dense twins side by side and says where the other one starts to win."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import hypot, log
from pathlib import Path
from typing import Any

from moesim.hwmodels.interval import Width
from moesim.refusal import Refusal
from moesim.sim.comparison.best import TRAINED
from moesim.sim.comparison.break_even import ESTIMATED, BreakEven, break_evens
from moesim.sim.comparison.questions import SECTIONS, Question, in_best_layouts, questions_of, read_scenarios
from moesim.sim.comparison.scaling import DenseEqual
from moesim.sim.comparison.side import Column, Cost, ServeSide, TrainSide, serve_side, train_side
from moesim.sim.comparison.twins import sections_of_size
from moesim.sim.comparison.upcycling import DenseParent, Upcycling, upcycling
from moesim.sim.model.catalogue import load_model
from moesim.sim.model.params import active_parameters, parameters
from moesim.sim.plan.train.search import Progress
from moesim.sim.question.paths import whole_paths
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import Asked, ScenarioError, number_asked
from moesim.sim.train.whole_run import MOST_TOKENS
from moesim.sim.train.workers import Crew, crew

_ALIKE = 1.005  # costs that near are called the same


_NEARLY_FULL = 0.9  # of the capacity


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityCost:
    """Cost per token of the smallest and largest dense model that scaling laws call equal, over that of the mixture.

    None where such a model fits nowhere.
    """

    model: str
    section: str
    lowest_ratio: float | None
    highest_ratio: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareEffort:
    """How far a comparison goes, and who does the work: processes here, or the Dask scheduler at an address."""

    best_each: bool = False  # each model in its own best layout on the same GPUs, instead of the asked one
    workers: int = 1
    dask: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Scenarios and dense twins side by side, and where the other one starts to win.

    A column's `train` and `serve` hold seconds, tokens per second (of all GPUs unless the name says per GPU), bytes of
    the fullest GPU, dollars and kWh per million tokens; None for a section that was not asked or does not fit (the
    reason is in `refusals`). Cheapest means dollars per million tokens, GPU-hours where a GPU has no price.
    """

    columns: tuple[Column, ...]  # in the order asked, a twin behind its model
    break_evens: tuple[BreakEven, ...]  # of the first column against each other one, values in the unit of the axis
    quality: tuple[DenseEqual, ...]  # of iso-quality twins: parameters by published scaling laws (scaling.yaml)
    quality_costs: tuple[QualityCost, ...]  # both ends of those laws' interval, over the mixture's cost per token
    upcycling: (
        Upcycling | None
    )  # the run from a dense parent (by any route) beside the run from scratch, where asked for

    def gpus_for_same_work(self, column: Column, section: str) -> int | None:
        """GPUs with which a column does the first's work: its tokens per second, or its requests per second."""
        first, own = (getattr(c, section) for c in (self.columns[0], column))
        if isinstance(first, TrainSide) and isinstance(own, TrainSide):
            return own.gpus_for(first.tokens_per_s)
        if isinstance(first, ServeSide) and isinstance(own, ServeSide):
            return own.gpus_for(first.requests_per_s)
        return None

    def verdicts(self) -> list[str]:
        """One sentence per section: who is cheapest per token, and by how much."""
        sentences = []
        for section, title in (("train", "training"), ("serve", "serving")):
            sides = [(getattr(c, section), c.name) for c in self.columns]
            costs = sorted((side.cost, name) for side, name in sides if side is not None)
            if len(costs) > 1:
                (least, best), *others = costs
                beside = ", ".join(
                    f"{_times(cost.value / least.value)} for {name}"
                    + (" (their intervals overlap: not decided)" if cost.low < least.high else "")
                    for cost, name in others
                )
                sentences.append(f"{title}: {best} is cheapest per token; {beside}")
            if section == "serve":
                sentences += self._when_full()
            for q in self.quality_costs:
                if q.section == section:
                    ends = [
                        f"{end:.2f} times" if end is not None else "does not fit"
                        for end in (q.lowest_ratio, q.highest_ratio)
                    ]
                    sentences.append(f"{title}: over all sizes that scaling laws allow, dense against {q.model}: "
                                 f"{ends[0]} to {ends[1]}")  # fmt: skip
        return sentences

    def _when_full(self) -> list[str]:
        """Who is cheapest with a queue that is never empty, where the load asked leaves GPUs idle."""
        sides = [(c.serve, c.name) for c in self.columns if c.serve is not None]
        if len(sides) < 2 or all(s.requests_per_s > _NEARLY_FULL * s.capacity_requests_per_s for s, _ in sides):
            return []
        costs = sorted((s.cost.value * s.requests_per_s / s.capacity_requests_per_s, name) for s, name in sides)
        (least, best), *others = costs
        beside = ", ".join(f"{_times(value / least)} for {name}" for value, name in others)
        return [f"serving, queue always full (as for break-even points): {best} is cheapest per token; {beside}"]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "columns": [
                {**c.to_dict(), "gpus_for_same_work": {s: self.gpus_for_same_work(c, s) for s in SECTIONS}}
                for c in self.columns
            ],
            "verdicts": self.verdicts(),
            "break_even": [b.to_dict() for b in self.break_evens],
            "break_even_note": ESTIMATED if any(b.section == "train" for b in self.break_evens) else "",
            "quality": [q.to_dict() for q in self.quality],
            "quality_costs": [asdict(q) for q in self.quality_costs],
            "upcycling": None if self.upcycling is None else self.upcycling.to_dict(),
        }


def compare(
    scenarios: Sequence[Asked],
    *,
    twin: str = "",
    tokens: float | None = None,
    upcycled_from: str | DenseParent = "",
    break_even: bool = True,
    effort: CompareEffort | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Set scenarios side by side, and the dense twin of every MoE model among them.

    scenarios: files' paths, mappings or Scenarios; each with a train section, a serve section, or both.
    twin: iso-active, iso-total (parameters), iso-memory (bytes of the fullest GPU) or iso-quality (loss by published
        scaling laws); the twin keeps cluster, batch and load, its layout is moved until it fits.
    tokens: also the whole training runs over that many tokens, and the tokens at which scaling laws are asked.
    upcycled_from: a dense model whose checkpoint the first scenario's model starts from (a DenseParent names another
        route: several merged, or one split); needs `tokens`.
    break_even: search the batch, length, bandwidth, price and traffic at which the winner changes (seconds to minutes).
    effort: whether each model gets its own best layout on the same GPUs (a minute or more), and who does the work.

    Raises ScenarioError where there is nothing to compare, DoesNotFit where no column fits, and ScenarioError with the
    column's name for everything that one scenario alone would be refused for.
    """
    if tokens is not None:
        tokens = number_asked("tokens", tokens, 0.0, MOST_TOKENS, "14.8e12")
    if not isinstance(twin, str) or isinstance(scenarios, (str, Path, Mapping)) or not isinstance(scenarios, Sequence):
        raise ScenarioError("compare takes a list of scenarios, and a twin by name, for example iso-active")
    asked = read_scenarios(scenarios)
    questions, quality = questions_of(asked, twin, tokens)
    if len(questions) < 2 and not upcycled_from:
        raise ScenarioError("one scenario has nothing to be compared with; give two, or a twin, for example iso-active")
    if len(questions) > 1 and not any(_common(questions, section) for section in SECTIONS):
        raise ScenarioError("nothing comparable: no two scenarios share a section; give all of them train, or serve")
    effort = effort or CompareEffort()
    if effort.best_each:
        search = replace(TRAINED, workers=effort.workers, dask=effort.dask)
        questions = [in_best_layouts(q, search, progress) for q in questions]
    if progress is not None:
        progress("answering columns", 0, len(questions))
    with crew(effort.workers, effort.dask) as those:
        # workers may run in other folders; what a column shows is as it was asked
        sent = [_for_others(q) for q in questions]
        answered = those.all(partial(_column, tokens), sent)
        columns = tuple(replace(c, scenarios=q.sections) for c, q in zip(answered, questions, strict=True))
        _require_answers(columns)
        if break_even and progress is not None:
            progress("searching break-even points", 0, max(1, len(questions) - 1))
        points = _points(sent, columns, those) if break_even else []
    grown = upcycling(asked[0][1], upcycled_from, tokens) if upcycled_from else None
    return Comparison(
        columns=columns, break_evens=tuple(points), quality=tuple(q for _, q in quality),
        quality_costs=tuple(_quality_costs(questions, columns, quality)), upcycling=grown,
    )  # fmt: skip


def _common(questions: Sequence[Question], section: str) -> bool:
    return sum(section in q.sections or section in q.refusals for q in questions) > 1


def _for_others(question: Question) -> Question:
    """The question for processes that may run in another folder."""
    sections = {section: whole_paths(asked) for section, asked in question.sections.items()}
    return replace(question, model=whole_paths({"model": question.model})["model"], sections=sections)


def _column(tokens: float | None, question: Question) -> Column:
    arch = load_model(question.model)
    refusals = dict(question.refusals)
    train: TrainSide | None = None
    serve: ServeSide | None = None
    cluster = ""
    try:
        if "train" in question.sections:
            answer = train_side(question.sections["train"], tokens)
            train = None if isinstance(answer, str) else answer
            refusals |= {"train": answer} if isinstance(answer, str) else {}
        if "serve" in question.sections:
            served = serve_side(question.sections["serve"])
            serve = None if isinstance(served, str) else served
            refusals |= {"serve": served} if isinstance(served, str) else {}
        cluster = _cluster(next(iter(question.sections.values()), None))
    except Refusal as refusal:
        raise ScenarioError(f"{question.name}: {refusal}") from None
    return Column(
        name=question.name, model=arch.name, parameters=parameters(arch),
        active_parameters=active_parameters(arch).with_input_embedding, cluster=cluster, train=train, serve=serve,
        refusals=refusals, notes=question.notes, scenarios=question.sections,
    )  # fmt: skip


def _cluster(scenario: Mapping[str, Any] | None) -> str:
    if scenario is None:
        return ""
    ask = scenario["cluster"]
    return f"{ask['gpus']:,} GPUs, {ask.get('node') or ask.get('gpu') or scenario.get('profile')}"


def _require_answers(columns: Sequence[Column]) -> None:
    answered = [c for c in columns if c.train is not None or c.serve is not None]
    if not answered:
        raise DoesNotFit("; ".join(f"{c.name}: {why}" for c in columns for why in c.refusals.values()))


def _points(questions: Sequence[Question], columns: Sequence[Column], those: Crew) -> list[BreakEven]:
    """Break-even points of the first column against each other one, in the sections that both have."""
    pairs = []
    for section in SECTIONS:
        first = getattr(columns[0], section)
        for question, column in zip(questions[1:], columns[1:], strict=True):
            other = getattr(column, section)
            if first is not None and other is not None:
                one, two = ((q.name, q.sections[section]) for q in (questions[0], question))
                pairs.append((one, two, _prices(first, other), section, _unsure(first.cost, other.cost)))
    return [point for points in those.all(_of_pair, pairs) for point in points]


def _of_pair(pair: Any) -> list[BreakEven]:
    return break_evens(*pair)


def _unsure(first: Cost, other: Cost) -> Width:
    """How far the ratio of two costs may be off, as if their errors were independent: those they share cancel."""
    return Width(
        hypot(log(first.value / first.low), log(other.high / other.value)),
        hypot(log(first.high / first.value), log(other.value / other.low)),
    )


def _times(ratio: float) -> str:
    return "as much" if ratio < _ALIKE else f"{ratio:.2f} times"


def _quality_costs(
    questions: Sequence[Question], columns: Sequence[Column], quality: Sequence[tuple[int, DenseEqual]]
) -> list[QualityCost]:
    """Both ends of the scaling laws' interval priced like the mixture itself."""
    quality_costs = []
    for number, equal in quality:
        whole = {key: value for section in questions[number].sections.values() for key, value in section.items()}
        ends = [sections_of_size(whole, size) for size in (equal.low, equal.high)]
        for section in SECTIONS:
            own: TrainSide | ServeSide | None = getattr(columns[number], section)
            if own is not None:
                costs = [_cost(section, end.get(section)) for end in ends]
                low, high = (None if cost is None else cost / own.cost.value for cost in costs)
                quality_costs.append(
                    QualityCost(model=columns[number].name, section=section, lowest_ratio=low, highest_ratio=high)
                )
    return quality_costs


def _cost(section: str, scenario: Mapping[str, Any] | None) -> float | None:
    if scenario is None:
        return None
    side = train_side(scenario, None) if section == "train" else serve_side(scenario)
    return None if isinstance(side, str) else side.cost.value


def _prices(first: TrainSide | ServeSide, other: TrainSide | ServeSide) -> tuple[float, float]:
    """Dollars of a GPU-hour of both; one and one where either has no price."""
    one, two = first.usd_per_million_tokens, other.usd_per_million_tokens
    if one is None or two is None:
        return 1.0, 1.0
    return one / first.gpu_hours_per_million_tokens, two / other.gpu_hours_per_million_tokens
