"""What each fitted constant buys where nothing of a source was seen; what buys nothing goes back to its prior.

A fit to many rows of few sources always gets better with one constant more; the next source need not. So a constant is
judged by errors of sources left out, with it free and with it at its prior, all others fitted again to what is left
(linearised at the optimum).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moesim.calibrate.fit.regression import (
    Fitted,
    Problem,
    Records,
    members,
    prior_of,
    robust_weights,
    without_each,
    write_gone,
)

Array = NDArray[np.float64]
_MOVES = 1e-3  # a prediction that moves less per unit of log constant does not depend on it
_MOST_LOG = 0.5  # an error counts no more than that: no single row decides


@dataclass(frozen=True, slots=True)
class Worth:
    """Points of mean error, in percent, that fitting a constant takes away from the left-out rows that it moves."""

    key: str
    rows: int
    sources: int
    source_pct: float | None  # whole sources left out; None where one source alone moves it
    family_pct: float  # families left out

    @property
    def buys_pct(self) -> float:
        """The better of both: a constant stays if it helps the next source or the next model of a known one."""
        return self.family_pct if self.source_pct is None else max(self.source_pct, self.family_pct)


class Linear:
    """A fit at its optimum: errors as a linear function of log constants."""

    def __init__(self, problem: Problem, records: Records, fitted: Fitted, sources: Sequence[str]) -> None:
        self.keys = list(problem.keys)
        self.error: Array = np.array(problem.predict(fitted.values)) - np.array(problem.log_measured)
        self.jacobian: Array = fitted.jacobian
        self.spread: Array = np.array([float(records[k]["fit"]) for k in self.keys])
        self.to_prior: Array = np.array([log(prior_of(records[k]) / fitted.values[k]) for k in self.keys])
        self.weight: Array = robust_weights(problem, self.error)
        self.groups = {"source": members(sources), "family": members(problem.families)}
        self.sources = np.array(sources)
        self.moved = np.abs(self.jacobian) > _MOVES

    def left_out(self, held: frozenset[int], by: str) -> Array:
        """Errors of all rows, each with its group left out; constants of `held` at their priors."""
        free = [j for j in range(len(self.keys)) if j not in held]
        at = sorted(held)
        jac, start = self.jacobian[:, free], self.error + self.jacobian[:, at] @ self.to_prior[at]
        weighted, pull = jac * self.weight[:, None], self.to_prior[free] / self.spread[free] ** 2
        normal = weighted.T @ jac + np.diag(1.0 / self.spread[free] ** 2)
        fitted = start + jac @ np.linalg.solve(normal, pull - weighted.T @ start)
        errors: Array = without_each(fitted, jac, self.weight, self.spread[free], self.groups[by])
        return errors

    def mean(self, errors: Array, key: int) -> float:
        """Mean size of the errors that a constant moves, every source alike; percent."""
        rows = self.moved[:, key]
        sizes, names = np.minimum(np.abs(errors[rows]), _MOST_LOG), self.sources[rows]
        return 100.0 * float(np.mean([sizes[names == name].mean() for name in dict.fromkeys(names)]))


def worth(linear: Linear, held: frozenset[int] = frozenset()) -> list[Worth]:
    """Of every constant that is still free, the least worth first."""
    base = {by: linear.left_out(held, by) for by in linear.groups}

    def buys(j: int, by: str) -> float:
        return linear.mean(linear.left_out(held | {j}, by), j) - linear.mean(base[by], j)

    found = []
    for j in (j for j in range(len(linear.keys)) if j not in held):
        rows = linear.moved[:, j]
        count = len(set(linear.sources[rows]))
        source = buys(j, "source") if count > 1 else None
        found.append(Worth(linear.keys[j], int(rows.sum()), count, source, buys(j, "family") if count else 0.0))
    return sorted(found, key=lambda w: w.buys_pct)


def thinned(linear: Linear, least_pct: float, said: Callable[[str], None]) -> tuple[list[str], list[Worth]]:
    """Constants that buy less than `least_pct` points, and what the others then buy.

    They go in rounds, the least worth third of them at a time: what one buys depends on which others are free.
    """
    gone: list[str] = []
    while True:
        left = worth(linear, frozenset(linear.keys.index(key) for key in gone))
        little = [w for w in left if w.buys_pct < least_pct]
        said(f"{len(gone)} gone, {len(left)} left, {len(little)} of them buy less than {least_pct:g} points")
        if not little:
            return gone, left
        gone += [w.key for w in little[: max(1, len(little) // 3)]]


def table(gone: Sequence[str], left: Sequence[Worth]) -> str:
    """Markdown: what each constant buys, and which went."""
    lines = ["| constant | rows | sources | buys, source left out | buys, family left out |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for w in sorted(left, key=lambda w: -w.buys_pct):
        source = "one source" if w.source_pct is None else f"{w.source_pct:+.2f}"
        lines.append(f"| {w.key} | {w.rows} | {w.sources} | {source} | {w.family_pct:+.2f} |")
    return "\n".join([*lines, "", f"Gone, at their priors: {', '.join(gone) or 'none'}."]) + "\n"


def thin(linear: Linear, records: Records, least_pct: float, path: Path | None, said: Callable[[str], None]) -> str:
    """The table of what constants buy; with a path, those that buy less go back to their priors there."""
    gone, left = thinned(linear, least_pct, said)
    if path is not None:
        write_gone(gone, records, path)
    return table(gone, left)
