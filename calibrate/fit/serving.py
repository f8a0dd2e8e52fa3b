"""Fit the constants of serving on published rows marked `fit`: `python -m moesim.calibrate.fit.serving ROWS.csv`

Every constant in sim/software/engines/constants.yaml with a `fit:` range may move (calibrate/fit/regression.py).
A sample is one metric of one row; TTFT is noisier than the rest and counts less. Rows marked `test` are never read.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any

from moesim.calibrate.fit.bands import describe
from moesim.calibrate.fit.regression import FEWEST, STEP, Fitted, fit, left_out, prior_of, write_constants
from moesim.calibrate.fit.unseen import Unseen, write_unseen
from moesim.calibrate.fit.worth import Linear, thin
from moesim.calibrate.rows.arrivals import CLOSED, arrival_of
from moesim.calibrate.rows.cells import Row
from moesim.calibrate.rows.predict_serving import predict_serving_row
from moesim.calibrate.rows.sources import serving_source_of
from moesim.sim.serve.simulate import PricedJobs
from moesim.sim.software.serving_engine import engine_constants

# metric -> how much noisier (8 % median between runs against 4 %, p75 30 %); what follows from the two latencies of a
# closed loop says nothing more about constants
METRICS = {
    "tpot_ms": 1.0, "ttft_ms": 3.0, "output_tokens_per_s": 1.0, "output_tokens_per_s_per_gpu": 1.0,
    "derived_tokens_per_s_per_gpu": 1000.0,
}  # fmt: skip
# published runs that something else broke: never fitted, always shown by validate
_BROKEN = {
    "gpustack-126": "gpt-oss-120b on SGLang 0.5.3, A100: 8 times slower than vLLM beside it, a fallback kernel",
    "gpustack-142": "gpt-oss-120b on SGLang 0.5.3, H100: 6 times slower, a fallback kernel",
    "gpustack-143": "gpt-oss-120b on TensorRT-LLM 1.0.0, H100: 7 times slower, a fallback kernel",
    "gpustack-160": "gpt-oss-20b on SGLang 0.5.4, A100: 6.2 s per token, a fallback kernel",
}
_MOST, _MOST_OF_POOLS = 512, 48  # clients: rows of more take seconds each and say little that others do not


_PRICED = PricedJobs()  # of this process: free constants do not enter the prices of kernels


@dataclass(frozen=True, slots=True)
class Answer:
    """What one row came to: logarithms by metric, the constants it used."""

    logs: dict[str, float]
    used: tuple[str, ...]


def family_of(row: Row) -> str:
    """Rows of one engine, GPU, model and precision repeat each other's errors."""
    return "/".join((row["engine"], row["gpu"], row["model"], row["precision"].lower(), row["prefill_workers"] and "p"))


def _predict(task: tuple[Row, Mapping[str, float]]) -> Answer | None:
    """None for a row that is refused."""
    row, overrides = task
    try:
        result = predict_serving_row(row, overrides, _PRICED)
    except ValueError:
        return None
    logs = {m: log(v) for m, v in result.values.items() if m in METRICS and v > 0}
    return Answer(logs, tuple(result.tuning.used))


class ServingProblem:
    """Predictions of all (row, metric) samples as a function of the free constants."""

    def __init__(
        self, rows: Sequence[Row], keys: Sequence[str], pool: ProcessPoolExecutor, users_only: bool = False
    ) -> None:
        """`users_only`: rows that use none of these constants say nothing about them and are left out."""
        self._pool = pool
        start = {k: float(engine_constants()[k]["value"]) for k in keys}
        first = list(pool.map(_predict, [(row, start) for row in rows], chunksize=4))
        answered = [(row, a) for row, a in zip(rows, first, strict=True) if a is not None]
        kept = [(row, a) for row, a in answered if not users_only or set(keys) & set(a.used)]
        self.rows = [row for row, _ in kept]
        self._uses = [set(a.used) for _, a in kept]
        self.samples = [(i, m) for i, (row, a) in enumerate(kept) for m in METRICS if row.get(m) and m in a.logs]
        users = {k: sum(k in used for used in self._uses) for k in keys}
        self.keys = [k for k in keys if users[k] >= FEWEST]
        self.held = {k: prior_of(engine_constants()[k]) for k in keys if users[k] < FEWEST}  # too few rows to say
        self.families = [family_of(self.rows[i]) + ("/ttft" if m == "ttft_ms" else "") for i, m in self.samples]
        self.log_measured = [log(float(self.rows[i][m])) for i, m in self.samples]
        self.scales = [METRICS[m] for _, m in self.samples]

    def _answers(self, tasks: Sequence[tuple[Row, Mapping[str, float]]]) -> list[Answer | None]:
        return list(self._pool.map(_predict, tasks, chunksize=8))

    def predict(self, values: Mapping[str, float]) -> list[float]:
        """Logarithms of all samples."""
        answers = self._answers([(row, values) for row in self.rows])
        return [_log_of(answers[i], m) for i, m in self.samples]

    def jacobian(self, values: Mapping[str, float], base: Any) -> Any:
        """By forward differences; only rows that use a constant are run again."""
        import numpy as np

        where = [(i, j) for j, key in enumerate(self.keys) for i, used in enumerate(self._uses) if key in used]
        tasks = [(self.rows[i], {**values, self.keys[j]: values[self.keys[j]] * exp(STEP)}) for i, j in where]
        matrix = np.zeros((len(self.samples), len(self.keys)))
        lines: dict[int, list[tuple[int, str]]] = {}
        for n, (i, metric) in enumerate(self.samples):
            lines.setdefault(i, []).append((n, metric))
        for (i, j), answer in zip(where, self._answers(tasks), strict=True):
            for n, metric in lines.get(i, ()):
                matrix[n, j] = (_log_of(answer, metric) - base[n]) / STEP
        return matrix


def _log_of(answer: Answer | None, metric: str) -> float:
    if answer is None:
        raise RuntimeError("a row that was answered at first is refused with other constants")
    return answer.logs[metric]


def _clients(row: Row) -> int:
    """Of a closed loop; a burst of as many is over soon."""
    closed = arrival_of(row).kind == CLOSED
    return int(row["concurrency"]) if closed and row["concurrency"].isdigit() else 0


def load_rows_to_fit(paths: Sequence[Path], every: int) -> list[Row]:
    """Rows marked fit, every n-th of families with more than three."""
    counts: dict[str, int] = {}
    kept: list[Row] = []
    for path in paths:
        with path.open(newline="", encoding="utf-8") as handle:
            for row in csv.DictReader(handle):
                if row.get("split") != "fit" or row.get("id") in _BROKEN:
                    continue
                if _clients(row) > (_MOST_OF_POOLS if row["prefill_workers"] else _MOST):
                    continue
                family = family_of(row)
                n = counts[family] = counts.get(family, 0) + 1
                if n <= 3 or n % every == 0:
                    kept.append(row)
    return kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="take every n-th row of large families")
    parser.add_argument("--only", nargs="*", default=[], help="fit constants of these names or keys only")
    parser.add_argument("--write", type=Path, help="constants file to update")
    parser.add_argument("--unseen", type=Path, help="file of errors with families and sources left out to write")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--thin", type=float, help="constants that buy fewer points of error left out than this go")
    options = parser.parse_args(arguments)
    rows = load_rows_to_fit(options.rows, options.every)
    records = engine_constants()
    with ProcessPoolExecutor(options.workers) as pool:
        only = options.only
        free = [k for k, r in records.items() if "fit" in r and (not only or k in only or k.split("[")[0] in only)]
        problem = ServingProblem(rows, free, pool, bool(only))
        _say(f"{len(problem.rows)} rows, {len(problem.samples)} samples, {len(problem.keys)} free constants")
        fitted = fit(problem, records, options.rounds, _say)
        unseen = left_out(problem, records, fitted)
        if options.thin is not None:
            sources = [serving_source_of(problem.rows[i]) for i, _ in problem.samples]
            linear = Linear(problem, records, fitted, sources)
            sys.stdout.write(thin(linear, records, options.thin, options.write, _say))
            return
        if options.unseen:
            write_unseen(_unseen(problem, fitted), options.unseen)
    for key in problem.keys:
        sys.stdout.write(f"{key}: {records[key]['value']} -> {fitted.values[key]:.4g}\n")
    note = f"{len(problem.rows)} published fit rows"
    error = describe(unseen, problem.families)
    _say(f"left-out error by family: {error}")
    if options.write:
        write_constants(
            {**problem.held, **fitted.values}, records, note, options.write, problem.held, ", ".join(options.only)
        )


def _unseen(problem: ServingProblem, fitted: Fitted) -> list[Unseen]:
    """Errors of all samples with nothing, their family, and their whole source left out."""
    records = engine_constants()
    sources = [serving_source_of(problem.rows[i]) for i, _ in problem.samples]
    predicted = problem.predict(fitted.values)
    seen = [p - m for p, m in zip(predicted, problem.log_measured, strict=True)]
    family, source = (left_out(problem, records, fitted, names) for names in (None, sources))
    return [
        Unseen(problem.rows[i]["id"], metric, name, a, b, c)
        for (i, metric), name, a, b, c in zip(problem.samples, sources, seen, family, source, strict=True)
    ]


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
