"""Predict published or own runs and compare: one record per row and metric, in a file others can check."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from moesim.calibrate.rows.files import OTHER_TEAMS, PUBLISHED, RowFile, measured, of_other_teams
from moesim.calibrate.rows.kinds import COMM, SERVING, table_of
from moesim.calibrate.rows.outcomes import Outcome, Progress, predict_rows
from moesim.calibrate.rows.sources import source_of
from moesim.files.words import cell
from moesim.sim.software.stack import relative_of

COLUMNS = ("id", "split", "metric", "measured", "predicted", "low", "high", "error_pct", "status", "reason")
_NEW_MOE = "26.02"  # release from which vendors' MoE stacks are no longer young


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One row and metric. None where there is no such number; numbers in the unit that the metric's name ends in."""

    id: str  # the row's own, or its number in the file from 1
    split: str  # fit: constants were fitted on it; test: they were not; stress: shown, not counted; own: yours
    metric: str
    measured: float | None
    predicted: float | None
    low: float | None  # the 90 % interval
    high: float | None
    reason: str  # why there is no prediction, or why the measured value does not count
    groups: dict[str, str]  # breakdown -> class, for the summary: GPU, model family, source, ...
    counts_row: bool = True  # False for the second and further metrics of a row
    task: str = ""  # equal for rows that do the same work on as many GPUs: their order is a ranking of layouts
    release: str = ""

    @property
    def status(self) -> str:
        """ok or refused."""
        return "refused" if self.predicted is None else "ok"

    @property
    def error_pct(self) -> float | None:
        """100 x (predicted / measured - 1); None without both."""
        if self.predicted is None or self.measured is None:
            return None
        return 100.0 * (self.predicted / self.measured - 1.0)

    @property
    def covered(self) -> bool | None:
        """True when the measured value lies in the interval; None without both."""
        if self.low is None or self.high is None or self.measured is None:
            return None
        return self.low <= self.measured <= self.high


def validate_files(
    row_files: Sequence[RowFile], workers: int = 1, progress: Progress | None = None, dask: str = ""
) -> list[Record]:
    """One record per row and metric, in the order of the rows; no prediction reads a measured value.

    `workers` processes give the same records as one, and so does the Dask scheduler at an address. `progress` is
    called with distinct workloads done and in all. A row that cannot be predicted is a record with its reason, never an
    exception.
    """
    rows = [row for file in row_files for row in file.rows]
    outcomes = iter(predict_rows(rows, workers, progress, dask))
    records = []
    for file in row_files:
        for number, row in enumerate(file.rows, start=1):
            outcome = next(outcomes)
            # a row counts once, by the first of its metrics that has an answer (one token has no pace)
            first = next((m for m in file.metrics if m in outcome.estimates), file.metrics[0])
            groups = _groups(row, outcome, of_other_teams(file.name))
            if Path(file.name).name in (*PUBLISHED, *OTHER_TEAMS):
                groups["whose rows"] = "other teams" if of_other_teams(file.name) else "first files"
            records += [_record(row, number, m, outcome, groups, first=m == first) for m in file.metrics]
    return records


def _record(
    row: dict[str, str], number: int, metric: str, outcome: Outcome, groups: dict[str, str], first: bool
) -> Record:
    value, note = measured(row, metric)
    estimate = outcome.estimates.get(metric)
    return Record(
        id=(row.get("id") or "").strip() or str(number),
        split=(row.get("split") or "").strip() or "own",
        metric=metric,
        measured=value,
        predicted=estimate.value if estimate else None,
        low=estimate.low if estimate else None,
        high=estimate.high if estimate else None,
        reason=outcome.refusal or note,
        groups=groups,
        counts_row=first,
        task=_task(row),
        release=(row.get("release") or "").strip(),
    )


_TASK = ("model", "layers", "hidden", "seq_len", "gpu", "gpus", "gbs", "precision", "release")


def _task(row: dict[str, str]) -> str:
    return "/".join((row.get(key) or "").strip() for key in _TASK)


_OTHERS = "other teams: "


def _groups(row: dict[str, str], outcome: Outcome, of_others: bool) -> dict[str, str]:
    """Breakdowns of a row. Families and kinds of other teams' rows stand apart from those that moesim was built on."""
    whose = _OTHERS if of_others else ""
    if table_of(row) is COMM:
        return {
            "family of transfers": whose + (outcome.family or "refused"),
            "GPU of transfers": outcome.gpu or row["gpu"].strip(),
            "library": (row.get("library") or "").strip() or "not stated",
        }
    if table_of(row) is SERVING:
        return {
            "family of serving": whose + (outcome.family or "refused"),
            "engine": f"{row['engine'].strip()}, {outcome.kind or 'refused'}",
            "GPU of serving": outcome.gpu or row["gpu"].strip(),
        }
    groups = {
        "family of runs": f"{_OTHERS}{outcome.kind or 'refused'}" if of_others else _family(row, outcome),
        "GPU": outcome.gpu or row["gpu"].strip(),
        "model family": family_of(row["model"]),
        "kind": whose + (outcome.kind or "refused"),
        "stack": outcome.stack or "refused",
    }
    source = source_of(row.get("source") or "")
    if source:
        groups["source"] = source
    if outcome.kind == "MoE":
        groups["release of MoE runs"] = _release_class(outcome.release)
    return groups


def _family(row: dict[str, str], outcome: Outcome) -> str:
    """The classes that accuracy targets are set for: dense by GPU generation and kind of stack, MoE by release."""
    if not outcome.stack:
        return "refused"
    if relative_of(outcome.stack) == "megatron-core":
        return "plain Megatron-Core, dense and MoE"
    if outcome.kind == "MoE":
        return f"MoE, release {_release_class(outcome.release)}"
    if outcome.stack == "megatron-2021" and row.get("hidden"):
        return "dense, sweeps on Megatron-LM of 2022"
    return "dense, Blackwell" if outcome.generation == "blackwell" else "dense, A100 and Hopper"


def _release_class(release: str) -> str:
    if not release:
        return "unknown"
    return f"{_NEW_MOE} or later" if release >= _NEW_MOE else f"before {_NEW_MOE}"


def family_of(model: str) -> str:
    """'llama' of llama-3.1-8b, 'gpt-oss' of gpt-oss-20b: the leading letters of a model's name."""
    name = Path(model.strip().lower()).stem if "/" in model else model.strip().lower()
    match = re.match(r"gpt-oss|[a-z]+", name)
    return match.group(0) if match else name or "unknown"


def write_records(records: Sequence[Record], handle: TextIO) -> None:
    """Write the records to an open text file as CSV: COLUMNS, one line per record, nine significant digits.

    Empty cells where there is no number; errors in percent of the measured value, above zero for predicted too large.
    """
    writer = csv.writer(handle, lineterminator="\n")
    writer.writerow(COLUMNS)
    for r in records:
        numbers = (r.measured, r.predicted, r.low, r.high)
        error = "" if r.error_pct is None else f"{r.error_pct:.4f}"
        cells = (r.id, r.split, r.metric, *map(_digits, numbers), error, r.status, r.reason)
        writer.writerow(map(cell, cells))


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"
