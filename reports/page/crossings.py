"""Where the winner between a model and a dense one of equal quality changes: batch, length, price, traffic."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from moesim.reports.page.section import Section
from moesim.reports.text import three
from moesim.sim.comparison.break_even import ESTIMATED, BreakEven
from moesim.sim.comparison.comparison import Comparison, compare

_BESIDE = "Against the dense model of equal quality the winner"


@lru_cache(maxsize=4)
def compared(file: Path) -> Comparison:
    """A file's scenario beside the dense model of equal quality, with break-even points."""
    return compare([file], twin="iso-quality")


def crossings(file: Path, section: str) -> Section:
    """One line per axis of a section of the scenario: "train" or "serve"."""
    comparison = compared(file)
    points = [b for b in comparison.break_evens if b.section == section]
    rows = [[_axis(b), _answer(b), _range(b)] for b in points]
    data = {"break_even": [b.to_dict() for b in points], "verdicts": comparison.verdicts()}
    notes = sorted({b.note for b in points if b.note and not b.note.startswith("now ")})
    notes += [ESTIMATED] if section == "train" and points else []
    shown = {"columns": ["along", "who is cheaper per token", "looked at"], "rows": rows, "note": "; ".join(notes)}
    return Section("crossings", "Where the answer flips", _lead(points), data, shown)


def _lead(points: list[BreakEven]) -> str:
    flips = [b for b in points if b.crossings]
    if not flips:
        return f"{_BESIDE} changes along none of {len(points)} axes within the range that was looked at."
    names = ", ".join(_axis(b) for b in flips)
    return f"{_BESIDE} changes along {len(flips)} of {len(points)} axes: {names}."


def _axis(b: BreakEven) -> str:
    """The axis without the names of the columns: both are in the title of the chapter."""
    return b.axis.partition(" for ")[0]


def _answer(b: BreakEven) -> str:
    text = b.answer.replace(f" that for {b.first}", " the model's").replace(b.other, "the dense model")
    return text.replace(b.first, "the model as asked").removeprefix("never within range: ")


def _range(b: BreakEven) -> str:
    unit = b.unit.partition(" that for ")[0]
    return f"{three(b.low)} to {three(b.high)} {unit}" if b.low < b.high else ""
