"""Options of plan and serve that write what starts a deployment, and what is done with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Target = Annotated[
    str, typer.Option("--emit", help="Print what starts the deployment: vllm, sglang, trtllm, dynamo or llm-d.")
]
Folder = Annotated[
    Path | None, typer.Option("--emit-out", help="Folder for what --emit would print.", show_default=False)
]


def check_emit(target: str, folder: Path | None) -> None:
    """ScenarioError for a target that is not known, OutputError for a folder that cannot be; before the work starts."""
    if target or folder is not None:
        from moesim.reports.emit.files import check_target

        check_target(target, folder)


def with_files(answer: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    """An answer as JSON with the files that start its deployment, where there are any."""
    return answer | ({"emitted": files} if files else {})


def give_files(files: dict[str, str], folder: Path | None, json: bool) -> None:
    """Print files or write them; with JSON and no folder they are in there already."""
    if files and (folder is not None or not json):
        from moesim.reports.emit.scenario import give

        give(files, folder)
