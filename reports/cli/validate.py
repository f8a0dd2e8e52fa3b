"""`moesim validate`: predict published or own runs, and say how wrong the predictions are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moesim.calibrate.record.validate import Record
    from moesim.calibrate.rows.files import RowFile


def validate(
    rows: Annotated[
        Path | None,
        typer.Argument(help="CSV of runs (model, gpu, gpus, seq_len, gbs, ...); default: the published runs."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write one line per row and metric to this CSV.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the accuracy tables as Markdown.")] = False,
) -> int:
    """Compare predictions with measured runs. Measured values are optional and never read by a prediction."""
    from moesim.calibrate.record.ranking import ranking
    from moesim.calibrate.record.summary import summarise
    from moesim.calibrate.rows.files import load_rows, published_rows
    from moesim.reports.failures import check_writable
    from moesim.reports.tables.accuracy import accuracy_markdown, accuracy_report
    from moesim.reports.text import console, note, print_json

    files = published_rows() if rows is None else (load_rows(rows),)
    for file in files:
        if file.unknown:
            note(f"note: {file.name}: columns not read: {', '.join(file.unknown)}")
    if out is not None:
        check_writable(out)
    records = _predict(files)
    if out is not None:
        _write(records, out)
        note(f"predictions: {out}")
    summary, order = summarise(records), ranking(records)
    if json:
        print_json({**summary.to_dict(), "ranking": order.to_dict() if order else None})
    elif markdown:
        typer.echo(accuracy_markdown(summary, order), nl=False)
    else:
        console().print(accuracy_report(summary, order))
    return 0


def _predict(files: Sequence[RowFile]) -> list[Record]:
    """All records, with a progress bar on stderr where a person looks at it."""
    from moesim.calibrate.record.validate import validate_files
    from moesim.calibrate.rows.outcomes import usable_cores
    from moesim.reports.progress import progress_bar

    with progress_bar() as show:
        return validate_files(files, usable_cores(), lambda done, total: show("predicting", done, total))


def _write(records: Sequence[Record], path: Path) -> None:
    from moesim.calibrate.record.validate import write_records
    from moesim.reports.failures import writing

    with writing(path), path.open("w", encoding="utf-8", newline="") as handle:
        write_records(records, handle)
