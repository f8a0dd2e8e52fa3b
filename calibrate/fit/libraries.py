"""Fit what libraries add to kernels that others were measured with: `-m moesim.calibrate.fit.libraries ROWS.csv`.

Every record of hwmodels/profiles/comm/libraries.yaml may move, on rows marked `fit` of its library and kernel alone;
residuals are log errors with a soft loss, a prior keeps each near its start. Rows marked `test` are never read.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import Any

from moesim.calibrate.fit.comm import Sample, load_samples
from moesim.hwmodels.exchange_kernels import exchange_s
from moesim.hwmodels.facts import comm_records
from moesim.hwmodels.work import ExpertExchange

PATH = Path(__file__).parents[2] / "hwmodels" / "profiles" / "comm" / "libraries.yaml"


def rows_of(key: str, samples: Sequence[Sample]) -> list[Sample]:
    """The rows of the library and kernel that a constant post_s[library,kernel] is of."""
    return [
        s
        for s in samples
        if isinstance(s.question.work, ExpertExchange)
        and key == f"post_s[{s.question.library.name},{s.question.work.kernel}]"
    ]


def error(sample: Sample, post_s: float) -> float:
    """Log error of an exchange whose copies take a CPU `post_s` seconds each."""
    work = sample.question.work
    assert isinstance(work, ExpertExchange)
    return log(exchange_s(replace(work, copy_s=post_s), sample.question.cluster)) - sample.log_s


def fit_one(key: str, record: Mapping[str, Any], samples: Sequence[Sample]) -> float:
    """The value of one constant; its prior where no row is of it."""
    import numpy as np
    from scipy.optimize import least_squares

    rows = rows_of(key, samples)
    prior, spread = float(record["prior"]), float(record["fit"])

    def residual(x: Any) -> Any:
        return np.array([*(error(s, prior * exp(x[0])) for s in rows), 0.05 * x[0] / spread])

    solution = least_squares(residual, [0.05], bounds=(-1.5, 1.5), loss="soft_l1", f_scale=0.05, diff_step=0.02)
    return prior * exp(float(solution.x[0]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument(
        "--write", action="store_true", help="write constants into hwmodels/profiles/comm/libraries.yaml"
    )
    options = parser.parse_args(arguments)
    samples, text = load_samples(options.rows), PATH.read_text(encoding="utf-8")
    for key, record in comm_records("libraries").items():
        if "fit" not in record:
            continue
        value = fit_one(key, record, samples)
        sys.stdout.write(f"{key}: {record['value']} -> {value:.4g}, {len(rows_of(key, samples))} rows\n")
        text = re.sub(rf"(?m)^({re.escape(key)}: {{value: )[^,]+", rf"\g<1>{value:.4e}", text)
    if options.write:
        PATH.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
