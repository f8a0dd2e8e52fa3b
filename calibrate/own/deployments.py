"""Learn one correction per deployment from a user's own measured runs: a factor, and how far runs stray from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import exp, log
from pathlib import Path
from statistics import median

from moesim.calibrate.rows.files import RowFile, blinded, measured
from moesim.calibrate.rows.kinds import TRAINING
from moesim.calibrate.rows.predict_training import simulate_row
from moesim.refusal import Refusal
from moesim.sim.train.job import Correction, deployment_of

FEWEST = 3  # runs of a deployment: with fewer there is nothing left to judge a band by


class BadDeployment(Refusal):
    """Rows from which no correction can be learned; the message says what would do."""


def learn(file: RowFile) -> list[Correction]:
    """A correction for every deployment with FEWEST measured runs or more. BadDeployment when there is none.

    The factor is the median of measured over predicted. Its band holds every run when it is judged by the others
    (leave one out), so that it is learned, not assumed.
    """
    if file.table is not TRAINING:
        raise BadDeployment(f"{file.name} holds transfers; corrections are learned from training runs")
    logs: dict[str, list[float]] = {}
    for row in file.rows:
        value, _ = measured(row, "step_time_s")
        if value is None:
            continue
        result = simulate_row(blinded(row))
        ratio = log(value / result.step.step_time_s)
        logs.setdefault(deployment_of(result.resolved.job), []).append(ratio)
    corrections = [_correction(name, ratios) for name, ratios in sorted(logs.items()) if len(ratios) >= FEWEST]
    if not corrections:
        most = max((len(ratios) for ratios in logs.values()), default=0)
        what = "deployment (model, GPU, stack, precision)"
        raise BadDeployment(f"{file.name}: no {what} has {FEWEST} measured runs, the fullest has {most}")
    return corrections


def _correction(name: str, ratios: Sequence[float]) -> Correction:
    astray = [abs(r - median([*ratios[:i], *ratios[i + 1 :]])) for i, r in enumerate(ratios)]
    return Correction(deployment=name, factor=exp(median(ratios)), half_width=max(astray), rows=len(ratios))


def write_corrections(corrections: Sequence[Correction], path: Path) -> None:
    """Corrections as JSON, for `corrections:` in a scenario."""
    text = json.dumps({"corrections": [c.to_dict() for c in corrections]}, indent=1, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")
