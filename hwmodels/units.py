"""Quantities with units, parsed once at the file edge: "64 MiB", "400 Gb/s", "2.5 us", and counts: "10T", "128Ki"
(also of bytes).

Bare numbers are SI.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

from moesim.refusal import Refusal

_PREFIX = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "m": 1e-3, "u": 1e-6, "n": 1e-9}
MIB, GIB = 2.0**20, 2.0**30
_BINARY = {"Ki": 2.0**10, "Mi": MIB, "Gi": GIB, "Ti": 2.0**40}
_BASE = {"B": 1.0, "b": 0.125, "bit": 0.125, "s": 1.0, "FLOP": 1.0, "W": 1.0}
_TIME = {"min": 60.0, "h": 3600.0, "d": 86400.0}
_PATTERN = re.compile(
    r"\s*([-+]?(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z]*?)(/s|ps)?\s*", re.ASCII
)
_MAX_LETTERS = 64


class UnitError(Refusal):
    """Text that is not a quantity of the unit that was asked for."""


def _factor(unit: str) -> tuple[float, str] | None:
    if unit in _TIME:
        return _TIME[unit], "s"
    for base, scale in _BASE.items():
        if not unit.endswith(base):
            continue
        prefix = unit[: len(unit) - len(base)]
        dimension = "B" if base in ("B", "b", "bit") else base
        if prefix in _PREFIX:
            return _PREFIX[prefix] * scale, dimension
        if prefix in _BINARY and dimension == "B":
            return _BINARY[prefix] * scale, dimension
    return None


def parse_quantity(value: float | int | str, unit: str) -> float:
    """`value` in SI base units; `unit` is one of "B", "B/s", "s", "FLOP/s", "W". UnitError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise UnitError(f"{value!r} is not a quantity; write a number or text such as '64 MiB'")
    if isinstance(value, (int, float)):
        try:
            number = float(value)
        except OverflowError:
            raise UnitError("a whole number of that many digits is not a quantity") from None
    else:
        match = _PATTERN.fullmatch(value) if len(value) <= _MAX_LETTERS else None
        if match is None:
            shown = value if len(value) <= _MAX_LETTERS else value[:_MAX_LETTERS] + "..."
            raise UnitError(f"{shown!r} is not a quantity; write a number or text such as '400 Gb/s'")
        number = float(match.group(1).replace("_", ""))
        if match.group(2) or match.group(3):
            factor = _factor(match.group(2)) or _bare(match.group(2), unit)
            rate = "/s" if match.group(3) else ""
            if factor is None or factor[1] + rate != unit:
                raise UnitError(f"{value!r} is not in {unit}; write for example {_EXAMPLE.get(unit, unit)!r}")
            number *= factor[0]
    if not math.isfinite(number):
        raise UnitError(f"{value!r} is not a finite number")
    return number


def _bare(prefix: str, unit: str) -> tuple[float, str] | None:
    """A prefix alone, of bytes: 192Gi, 1M. Of rates and seconds it could mean too much."""
    scale = {**_THOUSANDS, **_TWOS}.get(prefix) if unit == "B" else None
    return None if scale is None else (float(scale), "B")


_EXAMPLE = {"B": "64 MiB", "B/s": "400 Gb/s", "s": "20 ms", "FLOP/s": "989 TFLOP/s", "W": "700 W"}


_COUNT = re.compile(
    r"\s*([-+]?(?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*([kKMBGT]|[KMGT]i)?\s*", re.ASCII
)
_THOUSANDS = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
_TWOS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def parse_count(text: str) -> float | int | None:
    """A number as people write it: "15e12", "10T" (1e13; B and G are 1e9), "128Ki" (131,072). None for other text.

    Whole numbers come as int.
    """
    match = _COUNT.fullmatch(text) if len(text) <= _MAX_LETTERS else None
    if match is None:
        return None
    scale = 1 if match.group(2) is None else {**_THOUSANDS, **_TWOS}[match.group(2)]
    number = Fraction(match.group(1).replace("_", "")) if _small(match.group(1)) else None
    if number is None:
        return None
    whole = number * scale
    return int(whole) if whole.denominator == 1 else float(whole)


def _small(digits: str) -> bool:
    """Whether a number's power of ten is one that anything can have: 1e999999 would take memory without bound."""
    exponent = re.split("[eE]", digits)[1:]
    return not exponent or abs(int(exponent[0])) <= 300
