"""Numbers and lines as people read them: seconds, bytes, counts; and one console for all tables."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from moesim.files.words import LINES, counted, visible
from moesim.hwmodels.interval import Sureness
from moesim.hwmodels.units import GIB

_WIDTH = 110  # widest table; also used when the output is not a terminal
_NARROWEST = 40  # no table can be read in less


class _Careful(Console):
    """A console that shows terminal escapes in names that come from files, instead of obeying them."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control is None and not segment.text.isprintable():
                yield Segment(visible(segment.text, kept=LINES), segment.style)
            else:
                yield segment


def console() -> Console:
    """The console for results: stdout, at most 110 columns, no colour codes when it is not a terminal.

    COLUMNS says how wide, where it is set; else a terminal does, and what is no terminal has 110.
    """
    terminal = _Careful(file=sys.stdout, highlight=False, markup=False, emoji=False)
    asked = os.environ.get("COLUMNS", "")
    known = terminal.is_terminal or (asked.isdecimal() and int(asked) > 0)
    terminal.width = max(_NARROWEST, min(terminal.width, _WIDTH)) if known else _WIDTH
    return terminal


def print_json(value: Any) -> None:
    """`value` as indented JSON on stdout; NaN and infinity are refused, they are not JSON."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def note(line: str) -> None:
    """A diagnostic for people, on stderr; what it says of files of others is shown, not obeyed."""
    sys.stderr.write(visible(line, kept=LINES) + "\n")


def seconds(value: float) -> str:
    """'24.7 s', '812 ms', '35.1 us': three digits."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * factor >= 0.9995 or unit == "us":
            return f"{three(value * factor)} {unit}"
    raise AssertionError("unreachable")


def binary(size: float) -> str:
    """'1 GiB', '64 MiB', '1.5 KiB', '12 B'."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 2.0**power:
            return f"{size / 2.0**power:.4g} {unit}"
    return f"{size:.4g} B"


def three(value: float) -> str:
    """Three significant digits without an exponent: 24.7, 812, 0.0351, 12,345."""
    if value == 0.0:
        return "0"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    decimals = 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.1 else 4
    return f"{value:.{decimals}f}"


def gpus(number: int) -> str:
    """'1 GPU', '2,048 GPUs'."""
    return counted(number, "GPU")


def times(ratio: float, more: str, less: str) -> str:
    """times(1.12, 'faster', 'slower') is '12% faster'; of 3.14 '3.1 times faster', of 0.5 '2.0 times slower'."""
    if 0.6 < ratio < 1.6:
        return f"{abs(ratio - 1.0):.0%} {more if ratio >= 1.0 else less}"
    return f"{ratio:.1f} times {more}" if ratio > 1.0 else f"{1.0 / ratio:.1f} times {less}"


def gib(size_bytes: float) -> str:
    """'101.0' GiB."""
    return f"{size_bytes / GIB:.1f}"


def count(value: float) -> str:
    """'671.0 B', '37.6 B', '1.5 T', '350.2 M': powers of 1000."""
    for factor, letter in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:.2f}{letter}" if value / factor < 10 else f"{value / factor:.1f}{letter}"
    return f"{value:g}"


def si(value: float, unit: str) -> str:
    """'989 TFLOP/s', '3.35 TB/s', '50 GB/s', '3.7 us': four digits with an SI prefix."""
    if value == 0.0:
        return f"0 {unit}"
    for factor, prefix in (
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
        (1.0, ""),
        (1e-3, "m"),
        (1e-6, "u"),
    ):
        if abs(value) >= factor * 0.99995:
            return f"{value / factor:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


def sureness_lines(sure: Sureness) -> list[str]:
    """What makes an interval as wide as it is, in shares of its square, and what would narrow it most."""
    parts = sorted(sure.parts.items(), key=lambda item: -item[1])
    why = "; ".join(f"{reason}{'' if len(parts) == 1 else f' ({share:.0%})'}" for reason, share in parts)
    return [f"from {why}", f"narrower with {sure.narrower}"]
