"""Cells of rows of published measurements: text, numbers and whole numbers; a bad one is named by its column."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from moesim.sim.question.scenario import ScenarioError

Row = Mapping[str, str]

MOST = 1e13  # no size, rate or count that a row can mean comes near


def text_of(row: Row, key: str) -> str:
    """What the cell holds, without blanks around it; '' where there is no such column."""
    return (row.get(key) or "").strip()


def number_of(row: Row, key: str) -> float | None:
    """A number from zero to MOST; None where the cell is empty. ScenarioError for anything else."""
    text = text_of(row, key)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value) or not 0 <= value <= MOST:
        raise ScenarioError(f"column {key}: {text!r} is not a number that can be meant here")
    return value


def whole_of(row: Row, key: str) -> int | None:
    """A whole number of zero or more; None where the cell is empty. ScenarioError for anything else."""
    value = number_of(row, key)
    if value is not None and value != int(value):
        raise ScenarioError(f"column {key}: {text_of(row, key)!r} is not a whole number")
    return None if value is None else int(value)
