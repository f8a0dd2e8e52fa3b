"""`moesim whatif`: what matters for a training run or a deployment, one change at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.reports.cli.outputs import check_outputs


def whatif(
    scenario: Annotated[Path, typer.Argument(help="Scenario file in YAML.", show_default=False)],
    share: Annotated[float, typer.Option(help="Change of hardware, both ways: 0.2 is plus and minus 20 %.")] = 0.2,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    figure: Annotated[Path | None, typer.Option(help="Draw it as a tornado (.png, .svg or .pdf).")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A folder for every change of keys as a scenario; all of them are run as they are."),
    ] = None,
) -> int:
    """Change settings, layout, load and hardware one at a time, and say what each is worth."""
    from moesim.reports.emit.scenario import check_folder, write_changes
    from moesim.reports.progress import progress_bar
    from moesim.reports.tables.whatif import serve_whatif_report, whatif_report
    from moesim.reports.text import console, note, print_json
    from moesim.sim.variation.whatif import whatif as change_one_by_one
    from moesim.sim.variation.whatif_train import WhatIf

    if figure is not None:
        from moesim.reports.figures.files import check_format

        check_outputs([scenario], [], [figure])
        check_format(figure)
    if out is not None:
        check_folder(out)
    with progress_bar(lines=True) as show:
        answer = change_one_by_one(scenario, share, exact=out is not None, progress=show)
    title = f"what if, for {scenario}"
    if json:
        print_json(answer.to_dict())
    else:
        table = whatif_report(answer, title) if isinstance(answer, WhatIf) else serve_whatif_report(answer, title)
        console().print(table)
    if out is not None:
        write_changes(answer, out)
    if figure is not None:
        from moesim.reports.figures.tornado import write_tornado

        write_tornado(answer, figure)
        note(f"figure: {figure}")
    return 0
