"""Measured beside predicted, row by row: what a small file of runs is read for."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from moesim.calibrate.record.validate import Record
from moesim.reports.text import three

MOST = 40  # records that are still read one by one; --out writes any number


def rows_table(records: Sequence[Record]) -> Table | None:
    """One line per row and metric with a measured value or a reason; None for none, or more than MOST."""
    shown = [r for r in records if r.measured is not None or r.reason or r.counts_row]
    if not 0 < len(shown) <= MOST:
        return None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("row")
    table.add_column("metric")
    for name in ("measured", "predicted", "90 % interval", "off by"):
        table.add_column(name, justify="right")
    table.add_column("", max_width=60)
    for r in shown:
        numbers = ("" if v is None else three(v) for v in (r.measured, r.predicted))
        between = "" if r.low is None or r.high is None else f"{three(r.low)} to {three(r.high)}"
        off = "" if r.error_pct is None else f"{r.error_pct:+.1f} %{'' if r.covered else ' (outside)'}"
        table.add_row(r.id, r.metric, *numbers, between, off, r.reason)
    return table
