"""Fit the constants of networks and exchange kernels on rows marked `fit`: `-m moesim.calibrate.fit.comm ROWS.csv`.

Every record of hwmodels/profiles/comm/{fabric,exchange}.yaml with a `fit:` range may move; residuals are log errors
with a soft loss, a prior keeps each near its start. Rows marked `test` are never read. Errors with a fifth of the rows
and with whole sources left out are kept for the intervals (calibrate/fit/widths.py).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import log
from pathlib import Path
from typing import Any

from moesim.calibrate.fit.bands import weighted_quantile
from moesim.calibrate.fit.unseen import Unseen, write_unseen
from moesim.calibrate.rows.comm import CommRow, comm_row
from moesim.calibrate.rows.sources import comm_source_of
from moesim.hwmodels.collectives import FabricFit, choose
from moesim.hwmodels.exchange_kernels import ExchangeFit, exchange_s
from moesim.hwmodels.facts import comm_records
from moesim.hwmodels.profile import load_profile
from moesim.hwmodels.work import Comm

_FOLDER = Path(__file__).parents[2] / "hwmodels" / "profiles" / "comm"
_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured transfer and its log seconds."""

    id: str
    source: str
    metric: str  # the one that was measured
    question: CommRow
    log_s: float


def load_samples(path: Path) -> list[Sample]:
    """Rows marked fit, whose time is printed or follows from a bandwidth."""
    samples = []
    with path.open(newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            if row["split"] != "fit":
                continue
            question = comm_row(row)
            if row["time_us"]:
                seconds = float(row["time_us"]) * 1e-6
            else:
                seconds = question.logical_bytes / (float(row["bandwidth_gbs"]) * 1e9)
            metric = "time_us" if row["time_us"] else "bandwidth_gbs"
            samples.append(Sample(row["id"], comm_source_of(row), metric, question, log(seconds)))
    return samples


class Constants:
    """All constants of both files by key, and the records that formulas take for a generation."""

    def __init__(self, values: Mapping[str, float]) -> None:
        self._values = values
        self._fits: dict[tuple[type, str], Any] = {}

    def of(self, cls: type, generation: str) -> Any:
        """A FabricFit or ExchangeFit for this generation."""
        constants = self._fits.get((cls, generation))
        if constants is None:
            pick = {f.name: self._values.get(f"{f.name}[{generation}]", self._values.get(f.name)) for f in fields(cls)}
            constants = self._fits[(cls, generation)] = cls(**pick)
        return constants


def predicted(question: CommRow, constants: Constants) -> float:
    """Log seconds of one row."""
    work, cluster = question.work, question.cluster
    generation = cluster.gpu.generation
    if isinstance(work, Comm):
        fit = load_profile(cluster.gpu.name).collectives
        return log(choose(work, cluster, fit, constants.of(FabricFit, generation))[1])
    return log(exchange_s(work, cluster, constants.of(ExchangeFit, generation)))


def fit(samples: Sequence[Sample], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Fitted values by file and key."""
    import numpy as np
    from scipy.optimize import least_squares

    fitted: dict[str, dict[str, float]] = {}
    for name in names:
        cls: type = FabricFit if name == "fabric" else ExchangeFit
        wanted = [s for s in samples if isinstance(s.question.work, Comm) == (cls is FabricFit)]
        records = comm_records(name)
        free = [k for k, r in records.items() if "fit" in r]
        fixed = {k: float(r["value"]) for k, r in records.items()}
        prior = np.array([float(records[k]["prior"]) for k in free])
        spread = np.array([float(records[k]["fit"]) for k in free])

        def residual(
            x: Any,
            wanted: Sequence[Sample] = wanted,
            free: Sequence[str] = free,
            fixed: Mapping[str, float] = fixed,
            prior: Any = prior,
            spread: Any = spread,
        ) -> Any:
            constants = Constants({**fixed, **dict(zip(free, (prior * np.exp(x)).tolist(), strict=True))})
            errors = [predicted(s.question, constants) - s.log_s for s in wanted]
            return np.concatenate([np.array(errors), 0.05 * x / spread])

        limit = np.full(len(free), 1.5)
        solution = least_squares(residual, np.zeros(len(free)), bounds=(-limit, limit), loss="soft_l1", f_scale=0.05)
        fitted[name] = fixed | dict(zip(free, (prior * np.exp(solution.x)).tolist(), strict=True))
    return fitted


def errors(samples: Sequence[Sample], fitted: Mapping[str, Mapping[str, float]]) -> list[float]:
    """Log errors of the samples."""
    of = {name: Constants(values) for name, values in fitted.items()}
    names = ["fabric" if isinstance(s.question.work, Comm) else "exchange" for s in samples]
    return [predicted(s.question, of[name]) - s.log_s for s, name in zip(samples, names, strict=True)]


def left_out(samples: Sequence[Sample], names: Sequence[str], groups: Sequence[object]) -> list[float]:
    """Log error of every sample by constants fitted without the samples of its group."""
    unseen = [0.0] * len(samples)
    for group in dict.fromkeys(groups):
        inside = [s for s, g in zip(samples, groups, strict=True) if g != group]
        outside = [i for i, g in enumerate(groups) if g == group]
        fitted = fit(inside, names)
        for i, error in zip(outside, errors([samples[i] for i in outside], fitted), strict=True):
            unseen[i] = error
    return unseen


def _write(name: str, values: Mapping[str, float], note: str) -> None:
    lines = []
    path = _FOLDER / f"{name}.yaml"
    for line in path.read_text(encoding="utf-8").splitlines():
        key = line.split(": {", 1)[0]
        record = comm_records(name).get(key)
        if record and "fit" in record:
            old = f"value: {line.split('value: ', 1)[1].split(',', 1)[0]}"
            line = line.replace(old, f"value: {values[key]:.4e}", 1)
        lines.append(f"# Last fit: {note}." if line.startswith("# Last fit: ") else line)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _unseen(samples: Sequence[Sample], names: Sequence[str], strangers: Sequence[Sample]) -> list[Unseen]:
    """Errors with nothing, a fifth, and the whole source left out.

    Of the rows of `strangers` libraries learned their own constants (calibrate/fit/libraries.py): left out with them.
    """
    fitted = fit(samples, names)
    fifth = left_out(samples, names, [i % _FOLDS for i in range(len(samples))])
    source = left_out(samples, names, [s.source for s in samples])
    kept = [
        Unseen(s.id, s.metric, s.source, *of)
        for s, *of in zip(samples, errors(samples, fitted), fifth, source, strict=True)
    ]
    near, far = errors(strangers, fitted), errors([_as_unknown(s) for s in strangers], fitted)
    return kept + [Unseen(s.id, s.metric, s.source, n, f, f) for s, n, f in zip(strangers, near, far, strict=True)]


def _as_unknown(sample: Sample) -> Sample:
    """The same transfer by a library of which nothing is known."""
    work = sample.question.work
    if isinstance(work, Comm):
        return sample
    return replace(sample, question=replace(sample.question, work=replace(work, copy_s=0.0)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--write", action="store_true", help="write constants into hwmodels/profiles/comm")
    parser.add_argument("--unseen", type=Path, help="file of errors with a fifth and with sources left out to write")
    parser.add_argument("--strangers", type=Path, help="rows that are judged in that file and not fitted")
    options = parser.parse_args(arguments)
    samples, names = load_samples(options.rows), ("fabric", "exchange")
    fitted = fit(samples, names)
    for name in names:
        for key, value in fitted[name].items():
            sys.stdout.write(f"{name} {key}: {comm_records(name)[key]['value']} -> {value:.4g}\n")
    strangers = load_samples(options.strangers) if options.strangers else []
    unseen = _unseen(samples, names, strangers)
    sizes = [(abs(u.family_log), 1.0) for u in unseen[: len(samples)]]
    note = f"{len(samples)} measured rows, left-out error {weighted_quantile(sizes, 0.5):.1%} median"
    note += f", {weighted_quantile(sizes, 0.9):.1%} p90"
    sys.stdout.write(note + "\n")
    if options.unseen:
        write_unseen(unseen, options.unseen)
    if options.write:
        for name in names:
            _write(name, fitted[name], note)


if __name__ == "__main__":
    main()
