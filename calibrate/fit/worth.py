"""What each fitted constant buys where nothing of a source was seen; what buys nothing goes back to its prior.

A fit to many rows of few sources always gets better with one constant more; the next source need not. So a constant is
judged by errors of sources left out, with it free and with it at its prior, all others fitted again to what is left
(linearised at the optimum). One that the rows of a single source move is judged by families left out: that is all there
is, and the table says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from moesim.calibrate.fit.bands import family_weights
from moesim.calibrate.fit.regression import SCALE, Fitted, Problem, Records, prior_of

Array = NDArray[np.float64]
_MOVES = 1e-3  # a prediction that moves less per unit of log constant does not depend on it
_MOST_LOG = 0.5  # an error counts no more than that: no single row decides


@dataclass(frozen=True, slots=True)
class Worth:
    """Mean error, in percent, of left-out rows that a constant moves: with it fitted and at its prior."""

    key: str
    rows: int
    sources: int
    fitted_pct: float
    prior_pct: float

    @property
    def buys_pct(self) -> float:
        """Points of error that it takes away; below zero where it harms."""
        return self.prior_pct - self.fitted_pct


class Linear:
    """A fit at its optimum: errors as a linear function of log constants."""

    def __init__(self, problem: Problem, records: Records, fitted: Fitted, sources: Sequence[str]) -> None:
        self.keys = list(problem.keys)
        self.error: Array = np.array(problem.predict(fitted.values)) - np.array(problem.log_measured)
        self.jacobian: Array = fitted.jacobian
        self.spread: Array = np.array([float(records[k]["fit"]) for k in self.keys])
        self.to_prior: Array = np.array([log(prior_of(records[k]) / fitted.values[k]) for k in self.keys])
        scale = SCALE * np.array(problem.scales)
        self.weight: Array = np.array(family_weights(problem.families)) / (1.0 + (self.error / scale) ** 2) / scale**2
        self.groups = {"source": _members(sources), "family": _members(problem.families)}
        self.sources = np.array(sources)
        self.moved = np.abs(self.jacobian) > _MOVES

    def left_out(self, held: frozenset[int], by: str) -> Array:
        """Errors of all rows, each with its group left out; constants of `held` at their priors."""
        free = [j for j in range(len(self.keys)) if j not in held]
        at = sorted(held)
        jac, start = self.jacobian[:, free], self.error + self.jacobian[:, at] @ self.to_prior[at]
        weighted, pull = jac * self.weight[:, None], self.to_prior[free] / self.spread[free] ** 2
        inverse = np.linalg.inv(weighted.T @ jac + np.diag(1.0 / self.spread[free] ** 2))
        fitted = start + jac @ (inverse @ (pull - weighted.T @ start))
        half, errors = jac @ inverse, np.empty_like(fitted)
        for rows in self.groups[by].values():
            hat = half[rows] @ weighted[rows].T  # of the others' fit: (I - H)^-1 e, as regression.left_out has it
            errors[rows] = np.linalg.solve(np.eye(len(rows)) - hat, fitted[rows])
        return errors

    def single(self, key: int) -> bool:
        """Whether rows of one source alone move a constant."""
        return len(set(self.sources[self.moved[:, key]])) < 2

    def mean(self, errors: Array, key: int) -> float:
        """Mean size of the errors that a constant moves, every source alike; percent."""
        rows = self.moved[:, key]
        sizes, names = np.minimum(np.abs(errors[rows]), _MOST_LOG), self.sources[rows]
        return 100.0 * float(np.mean([sizes[names == name].mean() for name in dict.fromkeys(names)]))


def _members(names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        found.setdefault(name, []).append(i)
    return found


def worth(linear: Linear, held: frozenset[int] = frozenset()) -> list[Worth]:
    """Of every constant that is still free, the least worth first."""
    base = {by: linear.left_out(held, by) for by in linear.groups}
    found = []
    for j in (j for j in range(len(linear.keys)) if j not in held):
        by = "family" if linear.single(j) else "source"
        without = linear.left_out(held | {j}, by)
        rows = linear.moved[:, j]
        count = len(set(linear.sources[rows]))
        means = (linear.mean(base[by], j), linear.mean(without, j)) if count else (0.0, 0.0)
        found.append(Worth(linear.keys[j], int(rows.sum()), count, *means))
    return sorted(found, key=lambda w: w.buys_pct)


def thinned(linear: Linear, least_pct: float, said: Callable[[str], None]) -> tuple[list[str], list[Worth]]:
    """Constants that buy less than `least_pct` points, and what the others then buy.

    They go in rounds, the least worth quarter of them at a time: what one buys depends on which others are free.
    """
    gone: list[str] = []
    while True:
        left = worth(linear, frozenset(linear.keys.index(key) for key in gone))
        little = [w for w in left if w.buys_pct < least_pct]
        said(f"{len(gone)} gone, {len(left)} left, {len(little)} of them buy less than {least_pct:g} points")
        if not little:
            return gone, left
        gone += [w.key for w in little[: max(1, len(little) // 4)]]


def table(gone: Sequence[str], left: Sequence[Worth]) -> str:
    """Markdown: what each constant buys, and which went."""
    lines = ["| constant | rows | sources | error left out, fitted | at its prior | buys |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for w in sorted(left, key=lambda w: -w.buys_pct):
        alone = " (families left out)" if w.sources < 2 else ""
        lines.append(
            f"| {w.key} | {w.rows} | {w.sources}{alone} | {w.fitted_pct:.1f} % | {w.prior_pct:.1f} % "
            f"| {w.buys_pct:+.1f} |"
        )
    return "\n".join([*lines, "", f"Gone, at their priors: {', '.join(gone) or 'none'}."]) + "\n"
