"""Quantities with units: decimal and binary prefixes, bits and bytes, rates, times; everything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.hwmodels.units import UnitError, parse_count, parse_quantity


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("64 MiB", "B", 64 * 2**20), ("64 MB", "B", 64e6), ("1.5 GB", "B", 1.5e9), ("80 GiB", "B", 80 * 2**30),
        ("192Gi", "B", 192 * 2**30), ("1M", "B", 1e6), ("64 Ki", "B", 65536), ("1.5G", "B", 1.5e9), ("10B", "B", 10.0),
        ("8 b", "B", 1.0), ("512", "B", 512.0), (" 1_000 B ", "B", 1000.0), ("1 TiB", "B", 2**40),
        ("400 Gb/s", "B/s", 50e9), ("400Gbps", "B/s", 50e9), ("900 GB/s", "B/s", 900e9), ("4.8 TB/s", "B/s", 4.8e12),
        ("400 Gbit/s", "B/s", 50e9), ("2.5 us", "s", 2.5e-6), ("20 ms", "s", 0.02), ("3 min", "s", 180.0),
        ("2 h", "s", 7200.0), ("1 d", "s", 86400.0), ("1e-6 s", "s", 1e-6), ("989 TFLOP/s", "FLOP/s", 989e12),
        ("1.979 PFLOP/s", "FLOP/s", 1.979e15), ("700 W", "W", 700.0), ("1.2 kW", "W", 1200.0), ("-3 s", "s", -3.0),
        (7, "s", 7.0), (2.5, "B/s", 2.5), (".5 s", "s", 0.5), ("1e3", "B", 1e3),
    ],
)  # fmt: skip
def test_what_people_write(text: float | str, unit: str, value: float) -> None:
    assert parse_quantity(text, unit) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("400 Gb", "B/s"), ("400 GB/s", "B"), ("5 parsecs", "s"), ("20 ms", "B"), ("fast", "B/s"), ("", "s"),
        ("1 2 s", "s"), ("5 Gis", "s"), ("1 XB", "B"), ("nan", "s"), ("inf s", "s"), ("1e999 s", "s"), ("1,5 s", "s"),
        ("0x10", "B"), ("5 s/s", "s"), ("1.2.3", "s"), ("__", "s"), ("1 KiB/s/s", "B/s"), ("३ s", "B"),
        ("192Gi", "B/s"), ("1M", "s"), ("5G", "W"), ("1m", "B"),
        (True, "s"), (None, "s"), ([1], "s"), ({}, "s"), (float("nan"), "s"), (float("inf"), "B"), (b"1 s", "s"),
    ],
)  # fmt: skip
def test_everything_else_is_refused_in_one_line(text: object, unit: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_quantity(text, unit)  # type: ignore[arg-type]  # what a caller without types may pass
    assert "\n" not in str(caught.value)


@given(st.text(max_size=30), st.sampled_from(["B", "B/s", "s", "FLOP/s", "W"]))
def test_no_text_does_anything_but_parse_or_be_refused(text: str, unit: str) -> None:
    try:
        value = parse_quantity(text, unit)
    except UnitError:
        return
    assert isinstance(value, float)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_bare_numbers_are_si(value: float) -> None:
    assert parse_quantity(value, "s") == value
    assert parse_quantity(f"{value!r} s", "s") == value


def test_bits_are_an_eighth_and_binary_prefixes_are_not_decimal() -> None:
    assert parse_quantity("8 Gb", "B") == parse_quantity("1 GB", "B")
    assert parse_quantity("1 GiB", "B") / parse_quantity("1 GB", "B") == pytest.approx(1.073741824)


def test_large_integers_that_no_float_holds_are_refused() -> None:
    with pytest.raises(UnitError):
        parse_quantity(10**400, "B")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("10T", 10**13), ("15e12", 15 * 10**12), ("1M", 10**6), ("1.5k", 1500), ("128Ki", 131072), ("2B", 2 * 10**9),
        ("14.8e12", 14_800_000_000_000), ("0.25", 0.25), ("1_000", 1000), (" 3 G ", 3 * 10**9), ("-2", -2),
    ],
)  # fmt: skip
def test_counts_are_read_as_people_write_them(text: str, number: float) -> None:
    assert parse_count(text) == number
    assert isinstance(parse_count(text), int) == isinstance(number, int)


@pytest.mark.parametrize(
    "text", ["", "T", "10 TB", "5m", "1e999999999", "400 Gb/s", "ten", "1,000", "0x10", "1e5" * 30]
)
def test_other_text_is_no_count(text: str) -> None:
    assert parse_count(text) is None
