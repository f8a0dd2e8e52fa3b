"""A day of traffic: requests per second of every hour, and how long they are, read from a table."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from math import isfinite, isnan
from pathlib import Path

from moesim.files.opening import Opening, opened
from moesim.traces.routing import BadTrace

HOURS = 24
_NEEDED = ("hour", "requests_per_s")
_LENGTHS = ("input_tokens", "output_tokens")
_TRAFFIC = Opening("traffic", 100_000, BadTrace, "a day of traffic is a CSV of 24 lines: hour,requests_per_s")


@dataclass(frozen=True, slots=True)
class Hour:
    """Mean of one hour; lengths are None where the table does not say them."""

    requests_per_s: float
    input_tokens: int | None = None
    output_tokens: int | None = None


Day = tuple[Hour, ...]  # 24 of them


def load_day(path: str | Path) -> Day:
    """A CSV of hour,requests_per_s[,input_tokens,output_tokens], hours 0 to 23 once each. BadTrace otherwise."""
    file = Path(path)
    try:
        with opened(file, _TRAFFIC) as handle:
            rows = [[cell.strip() for cell in cells] for cells in csv.reader(handle, strict=True)]
    except csv.Error as error:
        raise BadTrace(f"traffic {file} is not a CSV: {error}") from None
    return _day(rows, f"traffic {file}")


def _day(rows: list[list[str]], name: str) -> Day:
    header = rows[0] if rows else []
    missing = [column for column in _NEEDED if column not in header]
    if missing:
        raise BadTrace(
            f"{name} lacks column {', '.join(missing)}; it needs {', '.join(_NEEDED)}[, {', '.join(_LENGTHS)}]"
        )
    if sum(column in header for column in _LENGTHS) == 1:
        raise BadTrace(f"{name}: give both of {', '.join(_LENGTHS)}, or none")
    hours: dict[int, Hour] = {}
    for number, cells in enumerate(rows[1:], start=2):
        if not any(cells):
            continue
        place = f"{name}, line {number}"
        if len(cells) != len(header):
            raise BadTrace(f"{place}: {len(cells)} cells under {len(header)} columns")
        row = dict(zip(header, cells, strict=True))
        hour = _number(row["hour"], place, "hour", 0, HOURS - 1)
        if hour != int(hour) or int(hour) in hours:
            raise BadTrace(f"{place}: hour {row['hour'][:20]} is not whole, or comes twice; hours are 0 to {HOURS - 1}")
        lengths = [int(_number(row[c], place, c, 1, 1e7)) if c in row else None for c in _LENGTHS]
        hours[int(hour)] = Hour(_number(row["requests_per_s"], place, "requests_per_s", 0, 1e7), *lengths)
    left = [str(h) for h in range(HOURS) if h not in hours]
    if left:
        raise BadTrace(f"{name} lacks hour {', '.join(left[:5])}{', ...' if len(left) > 5 else ''}; a day has 0 to 23")
    if not any(h.requests_per_s for h in hours.values()):
        raise BadTrace(f"{name} asks for nothing: every requests_per_s is 0")
    return tuple(hours[h] for h in range(HOURS))


def _number(text: str, place: str, column: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value) or not least <= value <= most:
        given = "no number" if isnan(value) else f"{value:g}"
        raise BadTrace(f"{place}: {column} is {given}; it must be a number from {least:g} to {most:g}")
    return value
