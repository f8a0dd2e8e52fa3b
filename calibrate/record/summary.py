"""How wrong predictions are: errors, bias and interval coverage by split, and by class of run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from moesim.calibrate.record.validate import Record

COUNTED = ("fit", "test", "own")  # other splits (stress) are shown, not counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Errors of a set of records in percent of the measured values."""

    rows: int  # measured and answered
    median_abs_pct: float
    mean_abs_pct: float
    p90_abs_pct: float
    median_bias_pct: float  # > 0: predicted too slow, or too much memory
    mean_bias_pct: float
    half_width_pct: float  # median interval: how far its upper end lies above the prediction
    coverage_pct: float  # measured values inside the interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of an accuracy table: which records, and how wrong."""

    metric: str
    dimension: str  # "all", "GPU", "source", ...
    value: str
    split: str
    accuracy: Accuracy

    @property
    def counted(self) -> bool:
        """False for splits that are shown but do not count."""
        return self.split in COUNTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A validation at a glance. `rows` are rows of the files, not records."""

    rows: int
    answered: int
    refused: dict[str, int]  # reason -> rows
    uncounted: dict[str, int]  # why a measured value that is written down does not count -> values
    splits: dict[str, int]  # split -> rows
    lines: tuple[Line, ...]

    def of(self, dimension: str, metric: str) -> tuple[Line, ...]:
        """The lines of one table."""
        return tuple(line for line in self.lines if (line.dimension, line.metric) == (dimension, metric))

    def dimensions(self) -> tuple[str, ...]:
        """Names of the breakdowns, in order."""
        return tuple(dict.fromkeys(line.dimension for line in self.lines if line.dimension != "all"))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "rows": self.rows,
            "answered": self.answered,
            "refused": self.refused,
            "uncounted": self.uncounted,
            "splits": self.splits,
            "accuracy": [
                {
                    "metric": line.metric,
                    "by": line.dimension,
                    "value": line.value,
                    "split": line.split,
                    "counted": line.counted,
                    **asdict(line.accuracy),
                }
                for line in self.lines
            ],
        }


def accuracy(records: Iterable[Record]) -> Accuracy | None:
    """Errors of the records that have both a measured and a predicted value; None when there is none."""
    counted = [r for r in records if r.error_pct is not None]
    if not counted:
        return None
    signed = np.array([r.error_pct for r in counted], dtype=np.float64)
    above = [r.high / r.predicted - 1.0 for r in counted if r.high is not None and r.predicted]
    size = np.abs(signed)
    return Accuracy(
        rows=len(counted),
        median_abs_pct=float(np.median(size)),
        mean_abs_pct=float(size.mean()),
        p90_abs_pct=float(np.quantile(size, 0.9)),
        median_bias_pct=float(np.median(signed)),
        mean_bias_pct=float(signed.mean()),
        half_width_pct=100.0 * float(np.median(above)),
        coverage_pct=100.0 * sum(bool(r.covered) for r in counted) / len(counted),
    )


def summarise(records: Sequence[Record]) -> Summary:
    """Counts, accuracy per split, and the same by GPU, model family, kind, source and release class."""
    metrics = list(dict.fromkeys(r.metric for r in records))
    rows = [r for r in records if r.counts_row]
    splits = Counter(r.split for r in rows)
    order = sorted(splits, key=lambda s: (s not in COUNTED, COUNTED.index(s) if s in COUNTED else 0, s))
    dimensions = list(dict.fromkeys(d for r in records for d in r.groups))
    lines: list[Line] = []
    for metric in metrics:
        of_metric = [r for r in records if r.metric == metric]
        lines += _lines(metric, "all", {"all": of_metric}, order)
        for dimension in dimensions:
            groups: dict[str, list[Record]] = {}
            for r in of_metric:
                if dimension in r.groups:
                    groups.setdefault(r.groups[dimension], []).append(r)
            lines += _lines(metric, dimension, dict(sorted(groups.items())), order)
    return Summary(
        rows=len(rows),
        answered=sum(r.predicted is not None for r in rows),
        refused=dict(Counter(r.reason for r in rows if r.predicted is None).most_common()),
        uncounted=dict(Counter(r.reason for r in records if r.predicted is not None and r.reason).most_common()),
        splits={split: splits[split] for split in order},
        lines=tuple(lines),
    )


def _lines(metric: str, dimension: str, groups: dict[str, list[Record]], splits: Sequence[str]) -> list[Line]:
    lines = []
    for value, records in groups.items():
        for split in splits:
            errors = accuracy(r for r in records if r.split == split)
            if errors is not None:
                lines.append(Line(metric=metric, dimension=dimension, value=value, split=split, accuracy=errors))
    return lines
