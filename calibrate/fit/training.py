"""Fit the constants of training steps on rows marked `fit`: `python -m moesim.calibrate.fit.training ROWS.csv...`

Every constant in sim/software/stacks/constants.yaml with a `fit:` range may move (calibrate/fit/regression.py); the
others stay, and so does, at its prior, a constant that changes fewer than two rows.
Rows marked `test` are never read. Left-out errors: what each family's error would be had the constants been fitted
without it, from the linearised problem at the optimum (block leave-one-out).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import exp, isclose, log
from pathlib import Path
from typing import Any

from moesim.calibrate.fit.bands import describe
from moesim.calibrate.fit.regression import FEWEST, STEP, Fitted, fit, left_out, prior_of, write_constants
from moesim.calibrate.fit.unseen import Unseen, write_unseen
from moesim.calibrate.fit.worth import Linear, thin
from moesim.calibrate.rows.cells import Row
from moesim.calibrate.rows.predict_training import simulate_row
from moesim.calibrate.rows.sources import source_of
from moesim.calibrate.rows.training import stack_of
from moesim.sim.software.stack import constants

_MOVES = 1e-6  # a step time that moves less than this per unit of log constant does not depend on it


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


def _predict(task: tuple[Row, Mapping[str, float]]) -> tuple[float, list[str]] | None:
    """(log step time, keys of the constants used); None for a row that is refused."""
    row, overrides = task
    try:
        result = simulate_row(row, dict(overrides))
    except ValueError:
        return None
    return log(result.step.step_time_s), list(result.prices.tuning.used)


class Problem:
    """Predictions of all samples as a function of the free constants; evaluates only what a constant touches."""

    def __init__(self, samples: list[Sample], keys: list[str], pool: ProcessPoolExecutor) -> None:
        self._pool = pool
        start = {k: float(constants()[k]["value"]) for k in keys}
        first = list(pool.map(_predict, [(s.row, start) for s in samples], chunksize=4))
        moved = set(keys)
        kept = [(s, p) for s, p in zip(samples, first, strict=True) if p is not None and moved & set(p[1])]
        self.samples = [s for s, _ in kept]
        self.families = [s.family for s in self.samples]
        self.log_measured = [log(s.measured_s) for s in self.samples]
        self.scales = [1.0] * len(self.samples)
        self.uses = [set(p[1]) for _, p in kept]
        self._first: tuple[dict[str, float], Any] | None = None
        self.held: dict[str, float] = {}  # constants that too few rows depend on, at their priors
        self.keys = [k for k in keys if any(k in u for u in self.uses)]
        first_jacobian = self.jacobian(start, [p[0] for _, p in kept])
        used = (abs(first_jacobian) > _MOVES).sum(axis=0) >= FEWEST
        self.held = {k: prior_of(constants()[k]) for k, moves in zip(self.keys, used, strict=True) if not moves}
        self.keys = [k for k in self.keys if k not in self.held]
        # minutes of work that a fit without rounds, and every first round, would do again
        self._first = ({k: start[k] for k in self.keys}, first_jacobian[:, used])

    def predict(self, values: Mapping[str, float]) -> list[float]:
        """Log step times of all samples."""
        tasks = [(s.row, {**self.held, **values}) for s in self.samples]
        return [p[0] for p in self._pool.map(_predict, tasks, chunksize=4) if p is not None]

    def jacobian(self, values: Mapping[str, float], base: Any) -> Any:
        """d log(step time) / d log(constant), shape [samples, keys], by forward differences."""
        import numpy as np

        if self._first is not None and all(isclose(values[k], v, rel_tol=1e-9) for k, v in self._first[0].items()):
            return self._first[1]
        tasks: list[tuple[Row, Mapping[str, float]]] = []
        where: list[tuple[int, int]] = []
        for j, key in enumerate(self.keys):
            moved = {**self.held, **values, key: values[key] * exp(STEP)}
            for i, used in enumerate(self.uses):
                if key in used:
                    tasks.append((self.samples[i].row, moved))
                    where.append((i, j))
        matrix = np.zeros((len(self.samples), len(self.keys)))
        for (i, j), prediction in zip(where, self._pool.map(_predict, tasks, chunksize=16), strict=True):
            if prediction is not None:
                matrix[i, j] = (prediction[0] - base[i]) / STEP
        return matrix


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--write", type=Path, help="constants file to update")
    parser.add_argument("--every", type=int, default=1, help="take every n-th row of families with more than 12 rows")
    parser.add_argument("--unseen", type=Path, help="file of errors with families and sources left out to write")
    parser.add_argument("--stack", help="only rows of this stack")
    parser.add_argument("--only", action="append", default=[], help="constants that may move, by how they begin")
    parser.add_argument("--thin", type=float, help="constants that buy fewer points of error left out than this go")
    options = parser.parse_args(arguments)
    samples = _thinned(load_samples(options.rows), options.every)
    if options.stack:
        samples = [s for s in samples if stack_of(s.row)[0] == options.stack]
    keys = [k for k, r in constants().items() if "fit" in r and k.startswith(tuple(options.only) or "")]
    with ProcessPoolExecutor(2) as pool:
        problem = Problem(samples, keys, pool)
        _say(f"{len(problem.samples)} rows, {len(problem.keys)} free constants")
        fitted = fit(problem, constants(), options.rounds, _say)
        if options.thin is not None:
            sources = [source_of(s.row["source"]) for s in problem.samples]
            linear = Linear(problem, constants(), fitted, sources)
            sys.stdout.write(thin(linear, constants(), options.thin, options.write, _say))
            return
        unseen = left_out(problem, constants(), fitted) if options.unseen or options.only else []
        if options.unseen:
            write_unseen(_unseen(problem, fitted), options.unseen)
    for key, value in problem.held.items():
        sys.stdout.write(f"{key}: stays at {value:.4g}, fewer than {FEWEST} rows depend on it\n")
    for key in problem.keys:
        sys.stdout.write(f"{key}: {constants()[key]['value']} -> {fitted.values[key]:.4g}\n")
    note = f"{len(problem.samples)} published fit rows"
    if unseen:
        error = describe(unseen, problem.families)
        _say(f"left-out error by family: {error}")
        note += f", left-out error {error}"
    if options.write:
        what = " and ".join(options.only) + (f" of {options.stack}" if options.stack else "")
        values = {**problem.held, **fitted.values}
        write_constants(values, constants(), note, options.write, problem.held, what if options.only else "")


def _unseen(problem: Problem, fitted: Fitted) -> list[Unseen]:
    """Errors of all samples with nothing, their family, and their whole source left out."""
    sources = [source_of(s.row["source"]) for s in problem.samples]
    predicted = problem.predict(fitted.values)
    seen = [p - m for p, m in zip(predicted, problem.log_measured, strict=True)]
    family, source = (left_out(problem, constants(), fitted, names) for names in (None, sources))
    return [
        Unseen(s.row["id"], "step_time_s", name, a, b, c)
        for s, name, a, b, c in zip(problem.samples, sources, seen, family, source, strict=True)
    ]


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
