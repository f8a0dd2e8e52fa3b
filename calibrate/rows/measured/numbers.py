"""Cells from the JSON of benchmarks: numbers wherever a tool puts them, with nothing taken for granted."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from moesim.calibrate.rows.measured.told import cell


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


def measured(value: object, factor: float = 1.0) -> str:
    """A cell of a measured value; "" where there is none."""
    number = positive(value)
    return "" if number is None else cell(number * factor)


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
