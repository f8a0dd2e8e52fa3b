"""Words from outside: visible in a terminal, one line of a message, harmless in a spreadsheet."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest

from moesim.files.words import MOST_MESSAGE, cell, one_line, visible
from moesim.reports.tables.sweep import write_table
from moesim.sim.variation.sweep import Sweep


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 中", "plain é 中"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("a\u202eb", "a\\u202eb"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
        ("a\u00a0b", "a\u00a0b"),
    ],
)
def test_control_characters_are_shown_as_what_they_are(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_message_is_one_bounded_line() -> None:
    assert one_line("no,\n  because") == "no, because"
    long = one_line("x" * 2000)
    assert len(long) == MOST_MESSAGE and long.endswith(" ...")
    assert one_line("y" * MOST_MESSAGE) == "y" * MOST_MESSAGE


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-2+3", "'-2+3"),
        ("-2", "-2"),  # a number as text is no formula
        ("1e-3", "1e-3"),
        (-2.5, -2.5),
        (None, None),
        ("mixtral", "mixtral"),
        ("\t=x", "\\x09=x"),
    ],
)
def test_cells_that_a_spreadsheet_would_run_are_text(value: Any, written: Any) -> None:
    assert cell(value) == written


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_tables_hold_what_was_asked_for_without_what_a_terminal_would_obey(ending: str, tmp_path: Path) -> None:
    """A name with an escape in it, as a file of rows may bring: shown, not obeyed; numbers stay numbers."""
    if ending == ".parquet":
        pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
    sweep = SimpleNamespace(
        rows=[{"model": "a\x1b[31mb", "step_time_s": 1.5}], names=("model",), results=("step_time_s",)
    )
    path = tmp_path / f"table{ending}"
    write_table(cast(Sweep, sweep), path)
    found = pd.read_csv(path) if ending == ".csv" else pd.read_parquet(path)
    assert list(found["model"]) == ["a\\x1b[31mb"] and list(found["step_time_s"]) == [1.5]
