"""The sample table: one row per measurement in a CSV that grows while measuring, so that an interruption loses nothing.

A question is asked in several rounds; rows that repeat it are that. Columns: `op`, `phase`, `dtype`, `sizes`
(name=number;...) say what was run (calibrate/measure/asks.py); `seconds` one unit of it (calibrate/measure/clock.py),
`spread` half the middle half of the repeats over it, `repeats`, `disturbed_share` of repeats far slower; `ranks`
processes at once on the machine, `threads` of each; `backend` the kernel that ran; `machine`, `torch`, `measured_at`
(UTC) where and when.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moesim.calibrate.measure.asks import OPS, Ask, check, parse_sizes
from moesim.files.opening import Opening, opened
from moesim.refusal import Refusal

COLUMNS = (
    "op", "phase", "dtype", "sizes", "seconds", "spread", "repeats", "disturbed_share", "ranks", "threads", "backend",
    "machine", "torch", "measured_at",
)  # fmt: skip


class BadSamples(Refusal):
    """A table of samples that cannot be used; the message names file, line and what would do."""


_TABLES = Opening("table of samples", 50_000_000, BadSamples, "moesim calibrate writes one")
_MOST_SECONDS = 1e4  # of one unit of work
_MOST_COUNT = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One row of the table."""

    ask: Ask
    seconds: float
    spread: float
    repeats: int
    disturbed_share: float
    ranks: int
    threads: int
    backend: str
    machine: str
    torch: str
    measured_at: str

    @property
    def key(self) -> tuple[str, int]:
        """What makes it the same measurement: the question and how many ranks ran at once."""
        return self.ask.key, self.ranks

    def cells(self) -> tuple[str, ...]:
        """The row as the table writes it."""
        a = self.ask
        numbers = (f"{self.seconds:.9g}", f"{self.spread:.4g}", str(self.repeats), f"{self.disturbed_share:.4g}")
        where = (str(self.ranks), str(self.threads), self.backend, self.machine, self.torch, self.measured_at)
        return (a.op, a.phase, a.dtype, a.sizes, *numbers, *where)


def append(path: Path, rows: Iterable[Measured]) -> None:
    """Add rows to the table, with its header where the file is new."""
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow(row.cells())
        handle.flush()


def mend(path: Path) -> None:
    """Cut off a last line that an interruption left unfinished."""
    if not path.exists():
        return
    whole = path.read_bytes()
    if whole and not whole.endswith(b"\n"):
        path.write_bytes(whole[: whole.rfind(b"\n") + 1])


def load_samples(path: Path) -> list[Measured]:
    """All rows. BadSamples for a file that is missing, another table, or holds numbers that no clock gives."""
    try:
        with opened(path, _TABLES) as handle:
            lines = list(csv.reader(handle, strict=True))
    except csv.Error:
        raise BadSamples(f"{path} is not a CSV of samples") from None
    if not lines or tuple(lines[0]) != COLUMNS:
        raise BadSamples(f"{path} is not a table of samples; its header must be {','.join(COLUMNS)}")
    if len(lines) == 1:
        raise BadSamples(f"{path} holds a header and no samples; `moesim calibrate` measures some")
    return [_row(cells, f"{path}, line {number}") for number, cells in enumerate(lines[1:], start=2)]


def _row(cells: Sequence[str], where: str) -> Measured:
    if len(cells) != len(COLUMNS):
        raise BadSamples(f"{where}: {len(cells)} cells under {len(COLUMNS)} columns")
    row = dict(zip(COLUMNS, cells, strict=True))
    if row["op"] not in OPS:
        raise BadSamples(f"{where}: op {row['op'][:40]!r} is none of {', '.join(OPS)}")
    try:
        seconds, spread, share = (float(row[name]) for name in ("seconds", "spread", "disturbed_share"))
        repeats, ranks, threads = (int(row[name]) for name in ("repeats", "ranks", "threads"))
        asked = Ask(row["op"], row["phase"], row["dtype"], parse_sizes(row["sizes"]))
    except ValueError:
        raise BadSamples(
            f"{where}: a cell under seconds to threads is no number, or sizes are not name=number;..."
        ) from None
    try:
        check(asked)
    except ValueError as error:
        raise BadSamples(f"{where}: {error}") from None
    if not 0.0 < seconds < _MOST_SECONDS or not 0.0 <= spread < _MOST_SECONDS or not 0.0 <= share <= 1.0:
        raise BadSamples(f"{where}: seconds={seconds:g} spread={spread:g} is no measured time; remove the row")
    if not all(1 <= number <= _MOST_COUNT for number in (repeats, ranks, threads)):
        raise BadSamples(f"{where}: repeats, ranks and threads are numbers from 1 to {_MOST_COUNT:,}")
    return Measured(
        ask=asked,
        seconds=seconds,
        spread=spread,
        repeats=repeats,
        disturbed_share=share,
        ranks=ranks,
        threads=threads,
        backend=row["backend"],
        machine=row["machine"],
        torch=row["torch"],
        measured_at=row["measured_at"],
    )


def calmest(samples: Iterable[Measured]) -> list[Measured]:
    """One sample per question and number of ranks: the fastest of its rounds, which others disturbed least."""
    best: dict[tuple[str, int], Measured] = {}
    for s in samples:
        if s.key not in best or s.seconds < best[s.key].seconds:
            best[s.key] = s
    return list(best.values())
