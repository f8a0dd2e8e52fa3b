"""`moesim compare`: scenarios side by side, dense twins, and where the other one starts to win."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    scenarios: Annotated[
        list[Path], typer.Argument(help="Scenario files in YAML, each with train, serve or both.", show_default=False)
    ],
    twin: Annotated[
        str,
        typer.Option(help="Also the dense twin of every MoE model: iso-active, iso-total, iso-memory or iso-quality."),
    ] = "",
    tokens: Annotated[
        str, typer.Option(help="Also whole training runs of this many tokens, for example 14.8e12: days, dollars, MWh.")
    ] = "",
    upcycled_from: Annotated[
        str, typer.Option(help="A dense model whose checkpoint the first model starts from; needs --tokens.")
    ] = "",
    break_even: Annotated[
        bool, typer.Option(help="Search batch, length, bandwidth, price and traffic for where the other one wins.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> int:
    """Compare training and serving of models: time, tokens, memory, GPUs, energy, money, and break-even points."""
    from moesim.reports.tables.compare import compare_report
    from moesim.reports.text import console, print_json
    from moesim.sim.comparison.comparison import compare as compared
    from moesim.sim.plan.words import token_count

    comparison = compared(
        list(scenarios),
        twin=twin,
        tokens=token_count(tokens),
        upcycled_from=upcycled_from,
        break_even=break_even,
    )
    if json:
        print_json(comparison.to_dict())
    else:
        console().print(compare_report(comparison))
    return 0
