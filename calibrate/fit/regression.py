"""Fit constants to measured values: robust Gauss-Newton on logarithms with priors, and left-out errors.

Residuals are log errors with a Cauchy loss, each family of samples weighted alike; a prior keeps every constant near
its starting value unless samples disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any, Protocol

from moesim.calibrate.fit.bands import family_weights

STEP = 0.02  # log step of the finite differences
GONE = "its prior, fitting it buys nothing left out; "  # what a constant that went is said to be
FEWEST = 2  # samples that must depend on a constant before it may move: none is fitted to a single one
_LAST_FIT = "# Last fit"
_MOST_MOVED = 1.0  # assumed: of the log of a prediction, by leaving a group out
_REWEIGHTED = 8  # solutions of the robust problem per Jacobian
SCALE = 0.05  # Cauchy loss: a sample that is 20 % off for every model pulls like one that is 1 % off

Records = Mapping[str, Mapping[str, Any]]  # constants by key: value, fit (log spread), prior, why


class Problem(Protocol):
    """Samples and what a model predicts for them as a function of constants."""

    keys: list[str]  # of the free constants
    families: list[str]  # of every sample
    log_measured: list[float]
    scales: list[float]  # how much noisier than others a sample is, 1 or more

    def predict(self, values: Mapping[str, float]) -> list[float]:
        """Logarithms of the predicted values."""
        ...

    def jacobian(self, values: Mapping[str, float], base: Any) -> Any:
        """d log(prediction) / d log(constant), shape [samples, keys], near the prediction `base`."""
        ...


def prior_of(record: Mapping[str, Any]) -> float:
    """Where a free constant stands before any sample is read."""
    return float(record.get("prior", record["value"]))


def _weights(problem: Problem) -> Any:
    """Each family counts like the square root of its samples; noisy samples count less."""
    import numpy as np

    return np.array(family_weights(problem.families)) / np.array(problem.scales) ** 2


@dataclass(frozen=True, slots=True)
class Fitted:
    """Constants at the optimum, and the sensitivities of the last round."""

    values: dict[str, float]
    jacobian: Any  # [samples, keys]


def fit(problem: Problem, records: Records, rounds: int, log_: Callable[[str], None]) -> Fitted:
    """Gauss-Newton with a Cauchy loss and a Gaussian prior on log constants; no rounds: the constants as they are."""
    import numpy as np

    chosen = [records[k] for k in problem.keys]
    prior = np.array([log(prior_of(r)) for r in chosen])
    spread = np.array([float(r["fit"]) for r in chosen])
    theta = np.array([log(float(r["value"])) for r in chosen])
    measured, weight, scale = np.array(problem.log_measured), _weights(problem), SCALE * np.array(problem.scales)
    noise = np.array(problem.scales)
    values = dict(zip(problem.keys, np.exp(theta), strict=True))
    base = np.array(problem.predict(values))

    def cost(error: Any, at: Any) -> float:
        misfit = float((weight * noise**2 * np.log1p((error / scale) ** 2)).sum())
        return misfit + float((((at - prior) / spread) ** 2).sum())

    jac = np.zeros((len(measured), len(theta))) if rounds else problem.jacobian(values, base)
    for turn in range(rounds):
        jac = problem.jacobian(values, base)
        error, move = base - measured, np.zeros(len(theta))
        for _ in range(_REWEIGHTED):  # weights follow the errors that the linear model foresees
            ahead = error + jac @ move
            robust = weight * noise**2 / (1.0 + (ahead / scale) ** 2) / scale**2
            left = (jac * robust[:, None]).T @ jac + np.diag(1.0 / spread**2)
            right = -(jac * robust[:, None]).T @ error + (prior - theta) / spread**2
            move = np.clip(np.linalg.solve(left, right), -0.7, 0.7)
        trials = []
        for share in (1.0, 0.5, 0.2):
            at = theta + share * move
            trial = dict(zip(problem.keys, np.exp(at), strict=True))
            predicted = np.array(problem.predict(trial))
            trials.append((cost(predicted - measured, at), share, trial, predicted))
        best = min(trials, key=lambda t: t[0])
        theta, values, base = theta + best[1] * move, best[2], best[3]
        errors = np.abs(np.exp(base - measured) - 1)
        log_(
            f"round {turn + 1}: cost {best[0]:.1f}, median {np.median(errors):.2%}, p90 {np.quantile(errors, 0.9):.2%}"
        )
    return Fitted({k: float(v) for k, v in values.items()}, jac)


def left_out(problem: Problem, records: Records, fitted: Fitted, groups: Sequence[str] | None = None) -> list[float]:
    """Log error of every sample if its whole family had been left out of the fit (linearised near the optimum).

    With H the hat matrix of the weighted, regularised problem, the errors of family f become (I - H_ff)^-1 e_f.
    `groups`: a name per sample where something wider than its family is left out, for example its source.
    """
    import numpy as np

    error = np.array(problem.predict(fitted.values)) - np.array(problem.log_measured)
    spread = np.array([float(records[k]["fit"]) for k in problem.keys])
    names = problem.families if groups is None else groups
    unseen = without_each(error, fitted.jacobian, robust_weights(problem, error), spread, members(names))
    return [float(e) for e in unseen]


def robust_weights(problem: Problem, error: Any) -> Any:
    """What each sample counts near the optimum: its family's weight, less where it is far off."""
    import numpy as np

    scale = SCALE * np.array(problem.scales)
    return np.array(family_weights(problem.families)) / (1.0 + (error / scale) ** 2) / scale**2


def members(names: Sequence[str]) -> dict[str, list[int]]:
    """Samples of every group, by its name."""
    found: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        found.setdefault(name, []).append(i)
    return found


def without_each(error: Any, jacobian: Any, weight: Any, spread: Any, groups: Mapping[str, list[int]]) -> Any:
    """Errors at the optimum -> errors of every group had it been left out: (I - H_ff)^-1 e_f, H the hat matrix."""
    import numpy as np

    inverse = np.linalg.inv((jacobian * weight[:, None]).T @ jacobian + np.diag(1.0 / spread**2))
    unseen = error.copy()
    for rows in groups.values():
        hat = jacobian[rows] @ inverse @ (jacobian[rows] * weight[rows, None]).T
        moved = np.linalg.solve(np.eye(len(rows)) - hat, error[rows]) - error[rows]
        # where rows of one group decide a constant alone, a line reaches too far: no left-out time is a factor e away
        unseen[rows] = error[rows] + np.clip(moved, -_MOST_MOVED, _MOST_MOVED)
    return unseen


def write_constants(
    values: Mapping[str, float],
    records: Records,
    note: str,
    path: Path,
    held: Mapping[str, float] | None = None,
    what: str = "",
) -> None:
    """Write values into the constants file, line by line: comments and order stay; one names the last fit.

    Those of `held` stayed at their priors and are called assumed. `what`: which constants a fit of some was about; it
    gets a line of its own after that of the last fit of all.
    """
    said, of_all = f"{_LAST_FIT}{f' of {what}' if what else ''}: ", f"{_LAST_FIT}: "
    there = f"\n{said}" in "\n" + path.read_text(encoding="utf-8")
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        key = line.split(": {", 1)[0]
        if key in values and ": {" in line:
            record = dict(records[key])
            record["value"] = float(f"{values[key]:.4g}")
            record["kind"] = "assumed" if key in (held or {}) else "fitted"
            record["prior"] = prior_of(records[key])
            line = f"{key}: {{{', '.join(_item(k, v) for k, v in record.items())}}}"
        lines.append(f"{said}{note}." if line.startswith(said) else line)
        if line.startswith(of_all) and not there:
            lines.append(f"{said}{note}.")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_gone(gone: Sequence[str], records: Records, path: Path) -> None:
    """Put constants back to their priors in the constants file, as assumed ones that no fit moves."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        key = line.split(": {", 1)[0]
        if key in gone and ": {" in line:
            why = f"{GONE}{records[key]['why']}"
            record = {"value": prior_of(records[key]), "kind": "assumed", "why": why}
            line = f"{key}: {{{', '.join(_item(k, v) for k, v in record.items())}}}"
        lines.append(line)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _item(key: str, value: Any) -> str:
    if key == "why":
        return f'{key}: "{value}"'
    return f"{key}: {value:.6g}" if isinstance(value, float) else f"{key}: {value}"
