"""`moesim whatif`: what matters for a training run or a deployment, one change at a time."""

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
    """Change GPU, memory, network, load, imbalance, precision and price, and say what each is worth."""
    from moesim.reports.failures import check_writable
    from moesim.reports.tables.whatif import serve_whatif_report, whatif_report
    from moesim.reports.text import console, note, print_json
    from moesim.sim.question.scenario import load_scenario
    from moesim.sim.variation.whatif_serve import ServeWhatIf, whatif_serve
    from moesim.sim.variation.whatif_train import WhatIf, whatif_train

    if figure is not None:
        from moesim.reports.figures.step import check_format

        check_writable(figure)
        check_format(figure)
    asked, title = load_scenario(scenario), f"what if, for {scenario}"
    answer: WhatIf | ServeWhatIf
    if asked.serve is not None and asked.train is None:
        answer = whatif_serve(asked, share)
        table = serve_whatif_report(answer, title)
    else:
        answer = whatif_train(asked, share)
        table = whatif_report(answer, title)
    if json:
        print_json(answer.to_dict())
    else:
        console().print(table)
    if figure is not None:
        from moesim.reports.figures.tornado import write_tornado

        write_tornado(answer, figure)
        note(f"figure: {figure}")
    return 0
