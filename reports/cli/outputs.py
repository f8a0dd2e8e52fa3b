"""Files of a command: none that it writes is one that it reads, nor one that it writes already."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from moesim.files.whole import OutputError, check_writable


def check_outputs(scenarios: Iterable[Path], read: Iterable[Path | None], written: Iterable[Path | None]) -> None:
    """OutputError where a file cannot be written, or an answer would overwrite the question or another answer.

    scenarios: files of questions, with the files that they name. read: other files that are read.
    """
    outputs = [path for path in written if path is not None]
    if not outputs:
        return
    inputs = {os.path.realpath(path) for path in (*scenarios, *_named_by(scenarios), *read) if path is not None}
    seen: set[str] = set()
    for path in outputs:
        real = os.path.realpath(path)
        if real in inputs:
            raise OutputError(f"{str(path)[:200]} is a file of the question, which the answer would overwrite; "
                              "give another file")  # fmt: skip
        if real in seen and os.path.realpath(os.devnull) != real:
            raise OutputError(f"{str(path)[:200]} is asked for twice, and one would overwrite the other; "
                              "give each its own file")  # fmt: skip
        seen.add(real)
        check_writable(path)


def _named_by(scenarios: Iterable[Path]) -> list[Path]:
    """Files that scenarios name; a scenario that cannot be read is refused by its reader."""
    from moesim.sim.question.paths import files_named
    from moesim.sim.question.scenario import ScenarioError, read_mapping

    found: list[Path] = []
    for path in scenarios:
        try:
            found += [Path(name) for name in files_named(read_mapping(path))]
        except ScenarioError:
            continue
    return found
