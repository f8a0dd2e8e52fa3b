"""Published rows that are most like a question: same model family, GPU generation and software, as far as there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from math import log

from moesim.calibrate.record.validate import Record, family_of, validate_files
from moesim.calibrate.rows.files import RowFile, published_rows
from moesim.calibrate.rows.kinds import SERVING, TRAINING, Table
from moesim.calibrate.rows.training import stack_of
from moesim.hwmodels.facts import FactError
from moesim.hwmodels.gpu import load_gpu

ENOUGH = 4  # rows; with fewer, the next wider class is taken
MOST = 30  # rows predicted for one answer, nearest in number of GPUs first


@dataclass(frozen=True, slots=True)
class Alike:
    """What makes a row comparable; `software` is a training stack or a serving engine."""

    family: str
    generation: str
    software: str
    gpus: int


@dataclass(frozen=True, slots=True)
class Comparable:
    """How rows most like a question came out, and in which words they are alike."""

    rule: str
    rows: int  # rows of that class; at most MOST of them are predicted
    records: tuple[Record, ...]


Rule = tuple[str, Callable[[Mapping[str, str], Alike], bool]]


def _family(row: Mapping[str, str], a: Alike) -> bool:
    return family_of(row["model"]) == a.family


def _generation(row: Mapping[str, str], a: Alike) -> bool:
    return _generation_of(row["gpu"].strip()) == a.generation


def _software(row: Mapping[str, str], a: Alike) -> bool:
    return _software_of(dict(row)) == a.software


_RULES: tuple[Rule, ...] = (
    (
        "same model family, GPU generation and software",
        lambda r, a: _family(r, a) and _generation(r, a) and _software(r, a),
    ),
    ("same model family and GPU generation, any software", lambda r, a: _family(r, a) and _generation(r, a)),
    ("same model family, any GPU and software", _family),
    ("other models on the same GPU generation and software", lambda r, a: _generation(r, a) and _software(r, a)),
    ("other models on the same GPU generation", _generation),
)


@cache
def _generation_of(gpu: str) -> str:
    try:
        return load_gpu(gpu).generation
    except FactError:  # a row of hardware that is not in the catalogue is comparable with nothing
        return ""


def _software_of(row: dict[str, str]) -> str:
    return row["engine"].strip() if "engine" in row else stack_of(row)[0]


@lru_cache(maxsize=32)
def comparable_training(alike: Alike) -> Comparable:
    """Training steps most like a question."""
    return _comparable(alike, TRAINING)


@lru_cache(maxsize=32)
def comparable_serving(alike: Alike) -> Comparable:
    """Served loads most like a question."""
    return _comparable(alike, SERVING)


def _comparable(alike: Alike, table: Table) -> Comparable:
    rows_of = [file for file in published_rows() if file.table is table]
    for words, test in _RULES:
        kept = [replace(f, rows=tuple(r for r in f.rows if test(r, alike))) for f in rows_of]
        rows = sum(len(f.rows) for f in kept)
        if rows >= ENOUGH or (rows and (words, test) == _RULES[-1]):
            files = _nearest(kept, alike.gpus)
            return Comparable(words, rows, tuple(r for r in validate_files(files) if r.measured is not None))
    return Comparable("none", 0, ())


def _nearest(kept: list[RowFile], gpus: int) -> list[RowFile]:
    """At most MOST rows over all files, those nearest in number of GPUs."""
    every = [
        (abs(log(max(1.0, float(r["gpus"])) / gpus)), n, i) for n, f in enumerate(kept) for i, r in enumerate(f.rows)
    ]
    chosen = {(n, i) for _, n, i in sorted(every)[:MOST]}
    files = [replace(f, rows=tuple(r for i, r in enumerate(f.rows) if (n, i) in chosen)) for n, f in enumerate(kept)]
    return [f for f in files if f.rows]
