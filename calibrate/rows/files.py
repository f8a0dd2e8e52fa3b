"""Files of runs: read rows of any CSV with our columns, and hide from the predictor what it must not see."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import TextIO

from moesim.calibrate.rows.cells import counted
from moesim.calibrate.rows.kinds import HIDDEN, Table, table_of
from moesim.files.opening import Opening, opened
from moesim.files.words import cell
from moesim.refusal import Refusal

PUBLISHED = ("training.csv", "training_sweeps.csv", "comm.csv", "serving.csv")
OTHER_TEAMS = ("training_other_teams.csv", "comm_other_teams.csv", "serving_other_teams.csv")
MAX_BYTES = 200_000_000


class BadRows(Refusal):
    """A file of runs that cannot be read; the message names the file, the line and what would do."""


@dataclass(frozen=True, slots=True)
class RowFile:
    """Rows of one file in their order, what kind of file it is, its metric columns, and columns that nobody knows."""

    name: str
    table: Table
    rows: tuple[dict[str, str], ...]
    metrics: tuple[str, ...]
    unknown: tuple[str, ...]


def of_other_teams(name: str) -> bool:
    """Whether a file holds the rows of teams, stacks and GPUs that the first version was not built on."""
    return Path(name).name in OTHER_TEAMS


def load_rows(path: str | Path) -> RowFile:
    """Rows of a CSV file. BadRows when it is missing, unreadable, not a CSV, or lacks a needed column."""
    file = Path(path)
    reads = "a file of runs is a CSV with our columns (docs/rows.md)"
    with opened(file, Opening("file", MAX_BYTES, BadRows, reads)) as handle:
        return _parse(handle, str(file))


def published_rows() -> tuple[RowFile, ...]:
    """The rows that ship with the package (see calibrate/published/README.md)."""
    published = []
    for name in (*PUBLISHED, *OTHER_TEAMS):
        text = files("moesim.calibrate").joinpath("published", name).read_text(encoding="utf-8")
        published.append(_parse(io.StringIO(text, newline=""), name))
    return tuple(published)


def _parse(lines: Iterable[str], name: str) -> RowFile:
    reader = csv.reader(lines, strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        table = table_of(header)
        _check_header(header, name, table)
        rows = []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise BadRows(f"{name}, line {reader.line_num}: {len(cells)} cells under {len(header)} columns")
            rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise BadRows(f"{name}, line {reader.line_num}: not a CSV ({error})") from None
    if not rows:
        raise BadRows(f"{name} holds a header and no rows")
    return rows_of(rows, name, table, header)


def rows_of(rows: Sequence[dict[str, str]], name: str, table: Table, header: Sequence[str] = ()) -> RowFile:
    """Rows as a file of them; without a header its columns are those that any row has."""
    columns = list(header) or list(dict.fromkeys(column for row in rows for column in row))
    metrics = tuple(m for m in table.metrics if m in columns) or table.metrics[:1]
    unknown = tuple(c for c in columns if c and c not in table.workload and c not in HIDDEN)
    return RowFile(name, table, tuple(counted(row) for row in rows), metrics, unknown)


def write_rows(file: RowFile, handle: TextIO) -> None:
    """The rows as the CSV that load_rows reads: the id, the workload, what was measured, where it is from."""
    held = {column for row in file.rows for column in row}
    order = ("id", *file.table.workload, *file.table.metrics, "repeats", "spread_pct", "split", "source", "notes")
    columns = [column for column in dict.fromkeys(order) if column in held or column in file.table.needed]
    writer = csv.DictWriter(handle, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: cell(value) for column, value in row.items()} for row in file.rows)


def _check_header(header: list[str], name: str, table: Table) -> None:
    if not any(header):
        raise BadRows(f"{name} is empty; it needs a header with {', '.join(table.needed)}")
    missing = [column for column in table.needed if column not in header]
    if missing:
        shown = ", ".join(header[:8])[:120]
        raise BadRows(
            f"{name} lacks column {', '.join(missing)}; needs {', '.join(table.needed)} (its header: {shown})"
        )
    twice = sorted({column for column in header if column and header.count(column) > 1})
    if twice:
        raise BadRows(f"{name} has column {', '.join(twice)} twice")


def blinded(row: dict[str, str]) -> dict[str, str]:
    """The workload columns of a row: all that a prediction is given."""
    return {column: row[column] for column in table_of(row).workload if column in row}


def measured(row: Mapping[str, str], metric: str) -> tuple[float | None, str]:
    """The measured value, None where there is none; and why one that is written down does not count."""
    text = (row.get(metric) or "").strip()
    if not text:
        return None, ""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not isfinite(value) or value <= 0.0:
        return None, f"measured {metric} {text[:20]!r} is not counted: a positive number is expected"
    return value, ""
