"""Fit the constants of training steps on published rows marked `fit`: `python -m calibrate.fit_training ROWS.csv...`

Every constant in sim/stacks/constants.yaml with a `fit:` range may move; the others stay, and so does, at its prior,
one that fewer than two rows can feel. Residuals are log errors with a Cauchy loss, each family of rows weighted alike;
a prior keeps every constant near its starting value unless rows disagree. Rows marked `test` are never read. Left-out
errors: what each family's error would be had the constants been fitted without it, from the linearised problem at the
optimum (block leave-one-out).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any

from calibrate.cells import Row
from calibrate.fit_bands import bands, describe, write_bands
from calibrate.predict_row import simulate_row
from calibrate.rows import stack_of
from sim.interval import band_keys
from sim.stack import constants

_STEP = 0.02  # log step of the finite differences
_LAST_FIT = "# Last fit: "
_FELT = 1e-6  # a step time that moves less than this per unit of log constant does not feel it
_FEWEST = 2  # rows that must feel a constant before it may move: none is fitted to a single row
_SCALE = 0.05  # Cauchy loss: a row that is 20 % off for every model pulls like one that is 1 % off


@dataclass(frozen=True, slots=True)
class Sample:
    """One fit row: its cells, measured log seconds, and the weight of its family."""

    row: Row
    measured_s: float
    family: str


def family_of(row: Row) -> str:
    """Rows that share machine, stack and model count as one family: they repeat each other's errors."""
    model = row.get("model") or "gpt"
    size = f"{row.get('layers', '')}x{row.get('hidden', '')}" if row.get("hidden") else ""
    return "/".join(
        (stack_of(row)[0], row["gpu"], model, size, row.get("precision", "")[:4], row.get("release", "")[:18])
    )


def load_samples(paths: Sequence[Path]) -> list[Sample]:
    """All rows marked fit that carry a step time."""
    samples = []
    for path in paths:
        with path.open(newline="", encoding="utf-8") as handle:
            for row in csv.DictReader(handle):
                if row.get("split") == "fit" and row.get("step_time_s"):
                    samples.append(Sample(row, float(row["step_time_s"]), family_of(row)))
    return samples


def _predict(task: tuple[Row, Mapping[str, float]]) -> tuple[float, list[str], list[str]] | None:
    """(log step time, keys of the constants used, classes of the run); None for a row that is refused."""
    row, overrides = task
    try:
        result = simulate_row(row, dict(overrides))
    except ValueError:
        return None
    return log(result.step.step_time_s), list(result.simulator.tuning.used), band_keys(result.resolved.job)


def prior_of(key: str) -> float:
    """Where a free constant stands before any row is read."""
    record = constants()[key]
    return float(record.get("prior", record["value"]))


class Problem:
    """Predictions of all samples as a function of the free constants; evaluates only what a constant touches."""

    def __init__(self, samples: list[Sample], keys: list[str], pool: ProcessPoolExecutor) -> None:
        self._pool = pool
        self.held: dict[str, float] = {}  # constants that too few rows can feel, at their priors
        start = {k: float(constants()[k]["value"]) for k in keys}
        first = list(pool.map(_predict, [(s.row, start) for s in samples], chunksize=4))
        kept = [(s, p) for s, p in zip(samples, first, strict=True) if p is not None]
        self.samples = [s for s, _ in kept]
        self.uses = [set(p[1]) for _, p in kept]
        self.classes = [p[2] for _, p in kept]
        self.keys = [k for k in keys if any(k in u for u in self.uses)]
        felt = (abs(self.jacobian(start, [p[0] for _, p in kept])) > _FELT).sum(axis=0) >= _FEWEST
        self.held = {k: prior_of(k) for k, moves in zip(self.keys, felt, strict=True) if not moves}
        self.keys = [k for k in self.keys if k not in self.held]

    def predict(self, values: Mapping[str, float]) -> list[float]:
        """Log step times of all samples."""
        tasks = [(s.row, {**self.held, **values}) for s in self.samples]
        return [p[0] for p in self._pool.map(_predict, tasks, chunksize=4) if p is not None]

    def jacobian(self, values: Mapping[str, float], base: Any) -> Any:
        """d log(step time) / d log(constant), shape [samples, keys], by forward differences."""
        import numpy as np

        tasks: list[tuple[Row, Mapping[str, float]]] = []
        where: list[tuple[int, int]] = []
        for j, key in enumerate(self.keys):
            moved = {**self.held, **values, key: values[key] * exp(_STEP)}
            for i, used in enumerate(self.uses):
                if key in used:
                    tasks.append((self.samples[i].row, moved))
                    where.append((i, j))
        matrix = np.zeros((len(self.samples), len(self.keys)))
        for (i, j), found in zip(where, self._pool.map(_predict, tasks, chunksize=16), strict=True):
            if found is not None:
                matrix[i, j] = (found[0] - base[i]) / _STEP
        return matrix


def _weights(samples: Sequence[Sample]) -> list[float]:
    """Each family counts like the square root of its rows."""
    counts: dict[str, int] = {}
    for s in samples:
        counts[s.family] = counts.get(s.family, 0) + 1
    return [counts[s.family] ** -0.5 for s in samples]


def fit(problem: Problem, rounds: int, log_: Callable[[str], None]) -> dict[str, float]:
    """Gauss-Newton with a Cauchy loss and a Gaussian prior on log constants, inside their ranges."""
    import numpy as np

    records = [constants()[k] for k in problem.keys]
    prior = np.array([log(prior_of(k)) for k in problem.keys])
    spread = np.array([float(r["fit"]) for r in records])
    theta = np.array([log(float(r["value"])) for r in records])
    measured = np.array([log(s.measured_s) for s in problem.samples])
    weight = np.array(_weights(problem.samples))
    values = dict(zip(problem.keys, np.exp(theta), strict=True))
    base = np.array(problem.predict(values))
    for turn in range(rounds):
        jac = problem.jacobian(values, base)
        error = base - measured
        robust = weight / (1.0 + (error / _SCALE) ** 2)
        best = None
        left = (jac * robust[:, None]).T @ jac / _SCALE**2 + np.diag(1.0 / spread**2)
        right = -(jac * robust[:, None]).T @ error / _SCALE**2 + (prior - theta) / spread**2
        move = np.clip(np.linalg.solve(left, right), -0.5, 0.5)
        for share in (1.0, 0.5, 0.2):
            trial = dict(zip(problem.keys, np.exp(theta + share * move), strict=True))
            predicted = np.array(problem.predict(trial))
            cost = _cost(predicted - measured, weight) + float((((theta + share * move - prior) / spread) ** 2).sum())
            if best is None or cost < best[0]:
                best = (cost, share, trial, predicted)
        assert best is not None
        theta, values, base = theta + best[1] * move, best[2], best[3]
        errors = np.abs(np.exp(base - measured) - 1)
        log_(
            f"round {turn + 1}: cost {best[0]:.1f}, median {np.median(errors):.2%}, p90 {np.quantile(errors, 0.9):.2%}"
        )
    return {k: float(v) for k, v in values.items()}


def left_out(problem: Problem, values: Mapping[str, float]) -> list[float]:
    """Log error of every sample if its whole family had been left out of the fit (linearised at `values`).

    With H the hat matrix of the weighted, regularised problem, the errors of family f become (I - H_ff)^-1 e_f.
    """
    import numpy as np

    base = np.array(problem.predict(values))
    measured = np.array([log(s.measured_s) for s in problem.samples])
    error = base - measured
    spread = np.array([float(constants()[k]["fit"]) for k in problem.keys])
    weight = np.array(_weights(problem.samples)) / (1.0 + (error / _SCALE) ** 2) / _SCALE**2
    jac = problem.jacobian(values, base)
    inverse = np.linalg.inv((jac * weight[:, None]).T @ jac + np.diag(1.0 / spread**2))
    found = error.copy()
    for family in {s.family for s in problem.samples}:
        rows = [i for i, s in enumerate(problem.samples) if s.family == family]
        hat = jac[rows] @ inverse @ (jac[rows] * weight[rows, None]).T
        found[rows] = np.linalg.solve(np.eye(len(rows)) - hat, error[rows])
    return [float(e) for e in found]


def _cost(error: Any, weight: Any) -> float:
    import numpy as np

    return float((weight * np.log1p((error / _SCALE) ** 2)).sum())


def write_constants(values: Mapping[str, float], held: Mapping[str, float], note: str, path: Path) -> None:
    """Write fitted and held values into the constants file, line by line: comments and order stay."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        key = line.split(": {", 1)[0]
        if (key in values or key in held) and ": {" in line:
            record = {**constants()[key], "prior": prior_of(key)}
            record["value"] = float(f"{values[key]:.4g}") if key in values else held[key]
            record["kind"] = "fitted" if key in values else "assumed"
            line = f"{key}: {{{', '.join(_item(k, v) for k, v in record.items())}}}"
        lines.append(f"{_LAST_FIT}{note}." if line.startswith(_LAST_FIT) else line)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _item(key: str, value: Any) -> str:
    if key == "why":
        return f'{key}: "{value}"'
    return f"{key}: {value:.6g}" if isinstance(value, float) else f"{key}: {value}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--write", type=Path, help="constants file to update")
    parser.add_argument("--every", type=int, default=1, help="take every n-th row of families with more than 12 rows")
    parser.add_argument("--bands", type=Path, help="file of interval half-widths to write, from left-out errors")
    parser.add_argument("--stack", help="only rows of this stack")
    options = parser.parse_args(arguments)
    samples = _thinned(load_samples(options.rows), options.every)
    if options.stack:
        samples = [s for s in samples if stack_of(s.row)[0] == options.stack]
    keys = [k for k, r in constants().items() if "fit" in r]
    with ProcessPoolExecutor(2) as pool:
        problem = Problem(samples, keys, pool)
        _say(f"{len(problem.samples)} rows, {len(problem.keys)} free constants")
        values = fit(problem, options.rounds, _say)
        unseen = left_out(problem, values) if options.bands else []
    for key, value in problem.held.items():
        sys.stdout.write(f"{key}: stays at {value:.4g}, fewer than {_FEWEST} rows feel it\n")
    for key in problem.keys:
        sys.stdout.write(f"{key}: {constants()[key]['value']} -> {values[key]:.4g}\n")
    note = f"{len(problem.samples)} published fit rows"
    if options.bands:
        families = [s.family for s in problem.samples]
        error = describe(unseen, families)
        _say(f"left-out error by family: {error}")
        note += f", left-out error {error}"
        write_bands(bands(problem.classes, unseen, families), note, options.bands)
    if options.write:
        write_constants(values, problem.held, note, options.write)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _thinned(samples: list[Sample], every: int) -> list[Sample]:
    counts: dict[str, int] = {}
    kept = []
    for s in samples:
        n = counts.get(s.family, 0)
        counts[s.family] = n + 1
        if n < 6 or n % every == 0:
            kept.append(s)
    return kept


if __name__ == "__main__":
    main()
