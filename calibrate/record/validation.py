"""validate: the verb that predicts measured runs and says how wrong the predictions are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moesim.calibrate.record.ranking import Ranking, ranking
from moesim.calibrate.record.summary import Summary, summarise
from moesim.calibrate.record.validate import Record, validate_files
from moesim.calibrate.rows.files import BadRows, RowFile, published_rows
from moesim.calibrate.rows.measured.read import load_measured
from moesim.calibrate.rows.outcomes import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """One record per row and metric, errors by split and family, and the order of alternatives where rows compare."""

    records: tuple[Record, ...]
    summary: Summary
    ranking: Ranking | None
    unread: dict[str, tuple[str, ...]]  # file -> columns that no prediction reads
    files: tuple[RowFile, ...] = ()  # the rows as they were predicted
    read: tuple[str, ...] = ()  # of a log or a result: what was read, assumed and left out

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: the summary, as `moesim validate --json` prints it."""
        read = {"read": list(self.read)} if self.read else {}
        return {**self.summary.to_dict(), "ranking": self.ranking.to_dict() if self.ranking else None, **read}


def validate(
    rows: str | Path | None = None,
    *,
    scenario: str | Path | None = None,
    settings: Mapping[str, str] | None = None,
    workers: int = 1,
    dask: str = "",
    progress: Progress | None = None,
) -> Validation:
    """Predict measured runs, published ones or your own, and compare. No prediction reads a measured value.

    rows: a CSV with the columns of calibrate/published/README.md (training, collectives or serving), a training log or
        a result of a benchmark of serving (docs/rows.md); the published rows that ship with moesim where none is given
        (minutes).
    scenario: a scenario file that says what a log or result leaves open; what both say must agree.
    settings: cells by column for the same purpose, such as {"gpu": "H100", "tp": "8"}.
    workers: processes. dask: the address of a scheduler to run on instead. The same bytes either way.
    progress: called with rows done and rows in all.

    Errors are in percent of the measured value, biases above zero where the prediction is too high; `coverage_pct` is
    the share of measured values inside the 90 % interval. A row that cannot be predicted is counted with its reason.

    Raises BadRows for a file that holds no measured runs, or says too little of them.
    """
    if rows is None and (scenario is not None or settings):
        raise BadRows("a scenario and settings complete a log or a result; name that file")
    loaded = None if rows is None else load_measured(rows, scenario, settings)
    files = published_rows() if loaded is None else (loaded.file,)
    records = validate_files(files, workers, progress, dask)
    return Validation(
        records=tuple(records),
        summary=summarise(records),
        ranking=ranking(records),
        unread={file.name: file.unknown for file in files if file.unknown},
        files=files,
        read=loaded.notes if loaded else (),
    )
