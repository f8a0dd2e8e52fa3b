"""`moesim train --beside`: several jobs on one fabric."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Others = Annotated[
    list[Path] | None,
    typer.Option(help="Another job on the same fabric at the same time (repeatable): what each of them loses."),
]
SpreadOption = Annotated[
    str | None,
    typer.Option(help="Hosts of jobs beside each other: contiguous (one job after the other) or interleaved."),
]


def check_spread(spread: str | None) -> None:
    """ScenarioError where one job alone is to be spread."""
    from moesim.sim.question.scenario import ScenarioError

    if spread is not None:
        raise ScenarioError("--spread says how hosts of several jobs lie, and there is one; add --beside OTHER.yaml")


def jobs_beside(files: list[Path], spread: str | None, json: bool, check_memory: bool, others: list[str]) -> int:
    """Several jobs on one fabric; `others`: options that were given and are about one job."""
    from typing import cast

    from moesim.reports.tables.beside import beside_report
    from moesim.reports.text import console, print_json
    from moesim.sim.layout.uplinks import Spread
    from moesim.sim.question.scenario import ScenarioError
    from moesim.sim.train.beside import train_beside

    if others:
        raise ScenarioError(f"--{others[0]} is about one job, and --beside about several: leave one of the two out")
    answer = train_beside(files, spread=cast(Spread, spread or "contiguous"), check_memory=check_memory)
    if json:
        print_json(answer.to_dict())
    else:
        console().print(beside_report(answer))
    return 0
