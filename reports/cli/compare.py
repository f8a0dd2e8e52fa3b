"""`moesim compare`: scenarios side by side, dense twins, and where the other one starts to win."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_ROUTE = Annotated[
    str,
    typer.Option(
        help="How it starts from there: upcycle (every expert a copy; the default), merge (experts from parents of "
        "equal size) or split (experts are slices of its block).",
        show_default=False,
    ),
]


def compare(  # noqa: PLR0913  # one argument per option of the command
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
    route: _ROUTE = "",
    break_even: Annotated[
        bool, typer.Option(help="Search batch, length, bandwidth, price and traffic for where the other one wins.")
    ] = True,
    best_each: Annotated[
        bool, typer.Option("--best-each", help="Each model in its own best layout on the same GPUs (a minute or more).")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0: one per core.", min=0)] = 0,
    dask: Annotated[str, typer.Option(help="Address of a Dask scheduler to run on instead.")] = "",
    out: Annotated[Path | None, typer.Option(help="A folder for every column's scenario, as it was answered.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> int:
    """Compare training and serving of models: time, tokens, memory, GPUs, energy, money, and break-even points."""
    from moesim.calibrate.rows.outcomes import usable_cores
    from moesim.reports.emit.scenario import check_folder, write_columns
    from moesim.reports.progress import progress_bar
    from moesim.reports.tables.compare import compare_report
    from moesim.reports.text import console, print_json
    from moesim.sim.comparison.comparison import CompareEffort
    from moesim.sim.comparison.comparison import compare as compared
    from moesim.sim.comparison.upcycling import DenseParent
    from moesim.sim.plan.words import token_count
    from moesim.sim.question.scenario import ScenarioError

    if route and not upcycled_from:
        raise ScenarioError(f"--route {route[:40]} says how a mixture starts from a dense model: add --upcycled-from")
    parent = DenseParent(upcycled_from, route) if route else upcycled_from
    if out is not None:
        check_folder(out)
    with progress_bar(lines=True) as show:
        comparison = compared(
            list(scenarios),
            twin=twin,
            tokens=token_count(tokens),
            upcycled_from=parent,
            break_even=break_even,
            effort=CompareEffort(best_each=best_each, workers=workers or usable_cores(), dask=dask),
            progress=show,
        )
    if json:
        print_json(comparison.to_dict())
    else:
        console().print(compare_report(comparison))
    if out is not None:
        write_columns(comparison, out)
    return 0
