"""Cells from the JSON of benchmarks: numbers wherever a tool puts them, with nothing taken for granted."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from moesim.calibrate.rows.files import BadRows
from moesim.calibrate.rows.measured.told import cell

_MOST = 1e15


def positive(value: object) -> float | None:
    """A finite number above zero; None for anything else, text that holds one included."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if isfinite(number) and number > 0.0 else None


def at(record: object, *path: str) -> Any:
    """What stands at a path of keys; None where it breaks off."""
    for key in path:
        record = record.get(key) if isinstance(record, Mapping) else None
    return record


def whole(value: object) -> str:
    """A cell of a whole number above zero, rounded; "" for anything else."""
    number = positive(value)
    return str(max(1, round(number))) if number is not None and number < 1e12 else ""


def measured(value: object, key: str, factor: float = 1.0) -> str:
    """A cell of a measured value; "" where there is none. BadRows names the key of one that cannot be measured."""
    number = stated(value, key)
    return cell(number * factor) if number else ""


def stated(value: object, key: str, least: str = "") -> float | None:
    """What a result measured or counted, None where it says nothing; BadRows for text, negative and endless numbers.

    least: what a 0 would mean, where that cannot be.
    """
    if value is None:
        return None
    wrong = ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        wrong = "is text" if isinstance(value, str) else "is no number"
    elif value != value or value in (float("inf"), float("-inf")):
        wrong = "is nan or infinite"
    elif value < 0:
        wrong = "is negative"
    elif not value and least:
        wrong = f"is 0: {least}"
    elif value > _MOST:
        wrong = "is larger than anything measured can be"
    if wrong:
        raise BadRows(f"{key} {wrong}; a JSON number {'above' if least else 'of at least'} 0 is expected there")
    return float(value)  # type: ignore[arg-type]  # a number by now


def filled(cells: Mapping[str, str]) -> dict[str, str]:
    """Without the empty ones."""
    return {name: text for name, text in cells.items() if text}


def found_below(record: object, key: str, depth: int = 6) -> Any:
    """The first value under a key at any depth of nested mappings; None for none."""
    if not isinstance(record, Mapping) or depth == 0:
        return None
    if key in record:
        return record[key]
    return next((v for v in (found_below(each, key, depth - 1) for each in record.values()) if v is not None), None)
