"""Cells of rows of published measurements: text, numbers and whole numbers; a bad one is named by its column."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from moesim.hwmodels.units import parse_count
from moesim.sim.question.scenario import ScenarioError

Row = Mapping[str, str]

_COUNTS = frozenset(
    (
        "layers", "hidden", "heads", "vocab", "kv_heads", "gpus", "seq_len", "gbs", "mbs", "tokens", "experts", "bytes",
        "concurrency", "isl", "osl", "requests", "token_budget",
    )
)  # fmt: skip
MOST = 1e13  # no size, rate or count that a row can mean comes near


def text_of(row: Row, key: str) -> str:
    """What the cell holds, without blanks around it; '' where there is no such column."""
    return (row.get(key) or "").strip()


def counted(row: Row) -> dict[str, str]:
    """The row with counts and bytes that are written as people write them (4Ki, 1M) as plain numbers."""
    return {name: _plain(text) if name in _COUNTS and text else text for name, text in row.items()}


def _plain(text: str) -> str:
    number = parse_count(text) if text.strip()[-1:].isalpha() else None
    return text if number is None else f"{number}" if isinstance(number, int) else f"{number:.17g}"


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
        raise ScenarioError(
            f"column {key}: {text[:40]!r} is not a number that can be meant here; write one of at least 0, for example "
            "4096 or 4Ki"
        )
    return value


def whole_of(row: Row, key: str) -> int | None:
    """A whole number of zero or more; None where the cell is empty. ScenarioError for anything else."""
    value = number_of(row, key)
    if value is not None and value != int(value):
        raise ScenarioError(f"column {key}: {text_of(row, key)!r} is not a whole number")
    return None if value is None else int(value)
