"""What is off where a fit had not seen the source: log errors of fit rows, in a file that bands are made from.

Fitting takes hours and bands seconds, so the errors are kept: calibrate/published/unseen/{training,serving,comm}.csv.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Unseen:
    """Log errors (predicted over measured) of one metric of one row, by what the constants had not seen."""

    id: str
    metric: str
    source: str  # team, and where one team ran many: stack and GPU
    seen_log: float  # nothing left out
    family_log: float  # rows of the same machine, stack and model left out
    source_log: float  # the whole source left out


def write_unseen(errors: Iterable[Unseen], path: Path) -> None:
    """One line an error, six digits."""
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        names = [f.name for f in fields(Unseen)]
        writer.writerow(names)
        for error in errors:
            cells = (getattr(error, name) for name in names)
            writer.writerow([f"{c:.6f}" if isinstance(c, float) else c for c in cells])


def read_unseen(kind: str) -> tuple[Unseen, ...]:
    """The shipped errors of a kind of rows: training, serving or comm."""
    text = files("moesim.calibrate").joinpath("published", "unseen", f"{kind}.csv").read_text(encoding="utf-8")
    return tuple(
        Unseen(r["id"], r["metric"], r["source"], float(r["seen_log"]), float(r["family_log"]), float(r["source_log"]))
        for r in csv.DictReader(text.splitlines())
    )
