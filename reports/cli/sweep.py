"""`moesim sweep`: one scenario with settings varied, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.files.words import counted
from moesim.reports.cli.outputs import check_outputs


def sweep(
    scenario: Annotated[Path, typer.Argument(help="Scenario file in YAML.", show_default=False)],
    settings: Annotated[
        list[str], typer.Option("--set", help="Values of one key, for example cluster.gpus=64,128.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write the table here (.csv or .parquet); resumes when killed.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0: one per core.", min=0)] = 0,
    dask: Annotated[str, typer.Option(help="Address of a Dask scheduler to run on instead.")] = "",
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> int:
    """Predict every combination of settings; one that cannot be is recorded and the rest goes on.

    Exit code 1 when no combination can be predicted.
    """
    from contextlib import ExitStack

    from moesim.calibrate.rows.outcomes import usable_cores
    from moesim.refusal import MachineFailure
    from moesim.reports.progress import progress_bar
    from moesim.reports.tables.sweep import check_table, sweep_report, write_table
    from moesim.reports.text import console, note, print_json
    from moesim.sim.question.scenario import read_mapping
    from moesim.sim.variation.journal import Journal
    from moesim.sim.variation.sweep import read_settings
    from moesim.sim.variation.sweep import sweep as predict_all

    if out is not None:
        check_table(out)
        check_outputs([scenario], [], [out])
    asked, varied = read_mapping(scenario), read_settings(settings)
    with ExitStack() as held:
        journal = (
            held.enter_context(Journal(out.with_name(out.name + ".part"), asked, varied)) if out is not None else None
        )
        for line in journal.said if journal is not None else ():
            note(line)
        try:
            with progress_bar() as show:
                table = predict_all(
                    asked, varied, journal=journal, workers=workers or usable_cores(), dask=dask, progress=show
                )
        except (KeyboardInterrupt, MachineFailure):
            if journal is not None:
                kept = counted(len(journal.done), "point")
                note(f"stopped with {kept} kept beside {out}; the same command goes on from there")
            raise
        if out is not None and journal is not None:
            write_table(table, out)
            journal.close()
            note(f"table: {out}")
    if json:
        print_json({"settings": list(table.names), "rows": list(table.rows)})
    else:
        console().print(sweep_report(table))
    if table.failed:
        of = counted(len(table.rows), "point")
        note(f"note: {table.failed} of {of} could not be predicted; see their column `error`")
    return int(table.failed == len(table.rows))
