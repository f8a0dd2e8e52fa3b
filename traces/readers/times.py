"""Times of traces: seconds, seconds or finer since 1970, or dates as ISO 8601 writes them; all become seconds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from math import isfinite

from moesim.traces.readers.rows import MOST, shown
from moesim.traces.routing import BadTrace

TimeReader = Callable[[object, str], float]  # value and place to seconds
# no trace lasts 3,000 years: a number above is a time since 1970 in a finer unit, told by its size
_UNITS = ((1e17, 1e-9, "nanoseconds"), (1e14, 1e-6, "microseconds"), (1e11, 1e-3, "milliseconds"))


def reader_of_times(first: object, column: str, place: str) -> tuple[TimeReader, list[str]]:
    """How to read a column of times whose first value this is, and what is assumed about its unit."""
    number = _number(first)
    if number is None:
        begin = _date(first)
        if begin is None:
            raise BadTrace(
                f"{place}: {column} is {shown(first)}; it must be a number of seconds or a date such as "
                "2024-05-10 00:00:00.009930"
            )
        return lambda value, where: _dated_s(value, begin, column, where), []
    for least, unit_s, word in _UNITS:
        if number >= least:
            return counted(column, unit_s), [
                f"trace: {column} is taken as {word} since 1970 (it begins with {number:.6g})"
            ]
    return counted(column, 1.0), []


def counted(column: str, unit_s: float) -> TimeReader:
    """How to read a column of numbers of units of `unit_s` seconds."""
    return lambda value, where: _counted(value, column, where, unit_s, MOST / unit_s)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _counted(value: object, column: str, place: str, unit_s: float, most: float) -> float:
    number = _number(value)
    if number is None or not isfinite(number) or number < 0.0 or number > most:
        raise BadTrace(f"{place}: {column} is {shown(value)}; it must be a number of at least 0, at most {most:g}")
    return number * unit_s


def _date(value: object) -> datetime | None:
    """A date; one without a zone is taken as UTC, as all of its file."""
    try:
        when = datetime.fromisoformat(value.strip()) if isinstance(value, str) else None
    except ValueError:
        return None
    return when if when is None or when.tzinfo else when.replace(tzinfo=UTC)


def _dated_s(value: object, begin: datetime, column: str, place: str) -> float:
    """Seconds since `begin`: those since 1970 would leave fractions of them no room in a float."""
    when = _date(value)
    if when is None:
        raise BadTrace(f"{place}: {column} is {shown(value)}; it must be a date such as 2024-05-10 00:00:00.009930")
    return (when - begin).total_seconds()
