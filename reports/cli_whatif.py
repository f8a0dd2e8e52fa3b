"""`moesim whatif`: what matters for a training run, one change at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def whatif(
    scenario: Annotated[Path, typer.Argument(help="Scenario file in YAML.", show_default=False)],
    share: Annotated[float, typer.Option(help="Change of hardware, both ways: 0.2 is plus and minus 20 %.")] = 0.2,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    figure: Annotated[Path | None, typer.Option(help="Draw it as a tornado (.png, .svg or .pdf).")] = None,
) -> int:
    """Change GPU, memory, network, batch, imbalance and precision, and say what each is worth."""
    from reports.failures import check_writable
    from reports.text import console, note, print_json
    from reports.whatif_table import whatif_report
    from sim.plan.whatif import whatif_train

    if figure is not None:
        from reports.figures import check_format

        check_writable(figure)
        check_format(figure)
    found = whatif_train(scenario, share)
    if json:
        print_json(found.to_dict())
    else:
        console().print(whatif_report(found, f"what if, for {scenario}"))
    if figure is not None:
        from reports.tornado import write_tornado

        write_tornado(found, figure)
        note(f"figure: {figure}")
    return 0
