"""Does the model put layouts in the right order? Rank correlation within groups of alternatives, and pairs in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from moesim.calibrate.record.validate import Record

_GROUP = 4  # alternatives that make a group worth a rank correlation
_TIE = 0.01  # measured times closer than this are the same


@dataclass(frozen=True, slots=True)
class Ranking:
    """Order of alternatives: median rank correlation over groups, and the share of pairs in the right order."""

    groups: int
    spearman_median: float
    spearman_low: float  # the tenth percentile over groups
    pairs: int
    pairs_right_pct: float
    release_pairs: int
    release_pairs_right_pct: float

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation of two equally long sequences, -1 to 1; ties rank by order of appearance."""
    a, b = _ranks(first), _ranks(second)
    n = len(a)
    return 1.0 - 6.0 * sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / (n * (n * n - 1)) if n > 1 else 1.0


def _ranks(values: Sequence[float]) -> list[int]:
    order = sorted(range(len(values)), key=lambda i: values[i])
    ranks = [0] * len(values)
    for rank, index in enumerate(order):
        ranks[index] = rank
    return ranks


def _pairs_right(groups: Iterable[list[tuple[float, float]]]) -> tuple[int, int]:
    """(pairs, pairs in the right order) over (measured, predicted) alternatives; measured ties do not count."""
    total = right = 0
    for group in groups:
        for (m1, p1), (m2, p2) in combinations(group, 2):
            if abs(m1 - m2) > _TIE * max(m1, m2):
                total += 1
                right += (m1 < m2) == (p1 < p2)
    return total, right


def ranking(records: Sequence[Record], metric: str = "step_time_s") -> Ranking | None:
    """Order within groups of one model, GPU count and batch, and within releases; None without such groups."""
    alternatives: dict[str, list[tuple[float, float]]] = {}
    releases: dict[str, list[tuple[float, float]]] = {}
    for r in records:
        if r.metric == metric and r.measured is not None and r.predicted is not None:
            alternatives.setdefault(r.task, []).append((r.measured, r.predicted))
            if r.release:
                releases.setdefault(r.release, []).append((r.measured, r.predicted))
    groups = [g for g in alternatives.values() if len(g) >= _GROUP]
    if not groups:
        return None
    rho = sorted(spearman([m for m, _ in g], [p for _, p in g]) for g in groups)
    pairs, right = _pairs_right(g for g in alternatives.values() if len(g) > 1)
    of_releases, releases_right = _pairs_right(releases.values())
    return Ranking(
        groups=len(groups),
        spearman_median=rho[len(rho) // 2],
        spearman_low=rho[len(rho) // 10],
        pairs=pairs,
        pairs_right_pct=100.0 * right / max(1, pairs),
        release_pairs=of_releases,
        release_pairs_right_pct=100.0 * releases_right / max(1, of_releases),
    )
