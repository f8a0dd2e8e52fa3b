"""`moesim validate`: predict published or own runs, and say how wrong the predictions are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesim.reports.cli.outputs import check_outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moesim.calibrate.record.validate import Record
    from moesim.calibrate.rows.files import RowFile


def validate(  # noqa: PLR0913  # one argument per option of the command
    rows: Annotated[
        Path | None,
        typer.Argument(help="CSV of runs, training log or result of a serving benchmark; default: published runs."),
    ] = None,
    scenario: Annotated[
        Path | None, typer.Option(help="Scenario of the run: what a log or result leaves open.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A cell that neither says, for example gpu=H100.")
    ] = None,
    dask: Annotated[str, typer.Option(help="Address of a Dask scheduler to run on instead.")] = "",
    rows_out: Annotated[Path | None, typer.Option(help="Write the rows that were read to this CSV.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write one line per row and metric to this CSV.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the accuracy tables as Markdown.")] = False,
) -> int:
    """Compare predictions with measured runs. Measured values are optional and never read by a prediction."""
    from moesim.calibrate.record.validation import validate as predict_and_compare
    from moesim.calibrate.rows.measured.read import settings_asked
    from moesim.calibrate.rows.outcomes import usable_cores
    from moesim.reports.progress import progress_bar
    from moesim.reports.tables.accuracy import accuracy_markdown, accuracy_report
    from moesim.reports.tables.rows import rows_table
    from moesim.reports.text import console, note, print_json

    check_outputs([], [rows, scenario], [out, rows_out])
    asked = settings_asked(settings or [])
    with progress_bar() as show:
        validation = predict_and_compare(
            rows,
            scenario=scenario,
            settings=asked,
            workers=usable_cores(),
            dask=dask,
            progress=lambda done, total: show("predicting", done, total),
        )
    for line in validation.read:
        note(line)
    for name, columns in validation.unread.items():
        note(f"note: {name}: columns not read: {', '.join(columns)}")
    if out is not None:
        _write(validation.records, out)
        note(f"predictions: {out}")
    if rows_out is not None:
        _write_rows(validation.files, rows_out)
        note(f"rows: {rows_out}; read them again with moesim validate {rows_out}")
    if json:
        print_json(validation.to_dict())
    elif markdown:
        typer.echo(accuracy_markdown(validation.summary, validation.ranking), nl=False)
    else:
        console().print(accuracy_report(validation.summary, validation.ranking))
        by_row = rows_table(validation.records)
        if by_row is not None:
            console().print("", by_row)
    return 0


def _write_rows(files: Sequence[RowFile], path: Path) -> None:
    from moesim.calibrate.rows.files import write_rows
    from moesim.files.whole import OutputError, replacing

    if len(files) != 1:
        raise OutputError("--rows-out writes the rows of one file; name a log or a result")
    with replacing(path) as beside, beside.open("w", encoding="utf-8", newline="") as handle:
        write_rows(files[0], handle)


def _write(records: Sequence[Record], path: Path) -> None:
    from moesim.calibrate.record.validate import write_records
    from moesim.files.whole import replacing

    with replacing(path) as beside, beside.open("w", encoding="utf-8", newline="") as handle:
        write_records(records, handle)
