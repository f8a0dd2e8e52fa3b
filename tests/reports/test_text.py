"""Numbers as people read them."""

from __future__ import annotations

from io import StringIO

import pytest

from moesim.files.words import counted
from moesim.reports.text import console, count, gib, seconds, si, three, times


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (24.746, "24.7 s"),
        (0.8124, "812 ms"),
        (3.51e-5, "35.1 us"),
        (1.0, "1.00 s"),
        (12345.0, "12,345 s"),
        (0.0, "0 us"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (12345.6, "12,346"), (24.74, "24.7"), (1.234, "1.23"), (-0.0351, "-0.0351")],
)
def test_three_digits(value: float, text: str) -> None:
    assert three(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (989.4e12, "FLOP/s", "989.4 TFLOP/s"),
        (3.35e12, "B/s", "3.35 TB/s"),
        (2.8e-6, "s", "2.8 us"),
        (0.0, "B", "0 B"),
    ],
)
def test_si(value: float, unit: str, text: str) -> None:
    assert si(value, unit) == text


def test_counts_and_bytes() -> None:
    assert count(671.03e9) == "671.0 B"
    assert count(1.0e12) == "1.00 T"
    assert count(12) == "12"
    assert gib(2.0**30) == "1.0"


def test_ratios_in_words() -> None:
    words = [times(r, "faster", "slower") for r in (1.12, 0.9, 3.14, 0.5)]
    assert words == ["12% faster", "10% slower", "3.1 times faster", "2.0 times slower"]


@pytest.mark.parametrize(
    ("columns", "width"), [("80", 80), ("500", 110), ("5", 40), ("0", 110), ("wide", 110), ("", 110)]
)
def test_what_is_piped_is_as_wide_as_columns_says(monkeypatch: pytest.MonkeyPatch, columns: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("sys.stdout", StringIO())
    assert console().width == width


def test_one_of_a_thing_is_in_the_singular() -> None:
    said = [counted(n, thing) for n, thing in ((1, "step"), (2048, "GPU"), (0, "line"), (1, "micro-batch"))]
    assert said == ["1 step", "2,048 GPUs", "0 lines", "1 micro-batch"] and counted(3, "micro-batch").endswith("es")
