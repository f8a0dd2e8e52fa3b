"""Learn from a user's own measured runs how far each is from its prediction, by deployment and place."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from moesim.calibrate.rows.files import RowFile, blinded, measured
from moesim.calibrate.rows.kinds import TRAINING
from moesim.calibrate.rows.predict_training import simulate_row
from moesim.refusal import Refusal
from moesim.sim.train.job import deployment_of
from moesim.sim.train.own_runs import OwnRun, OwnRuns, place_of


class BadDeployment(Refusal):
    """Rows from which nothing can be learned; the message says what would do."""


def learn(files: Sequence[RowFile]) -> list[OwnRuns]:
    """The measured runs of every deployment (model, GPU, stack, precision). BadDeployment when there is none."""
    kept: dict[str, list[OwnRun]] = {}
    for file in files:
        if file.table is not TRAINING:
            raise BadDeployment(
                f"{file.name} holds no training runs but rows of {file.table.name}; corrections are learned from "
                "step_time_s, and serving takes none: moesim validate compares its results"
            )
        for number, row in enumerate(file.rows, 1):
            value, why_not = measured(row, "step_time_s")
            if why_not:
                raise BadDeployment(f"{file.name}, row {number}: {why_not}; mend the cell, or leave it empty")
            if value is None:
                continue
            result = simulate_row(blinded(row))
            job = result.resolved.job
            run = OwnRun(log(value / result.step.step_time_s), place_of(job))
            kept.setdefault(deployment_of(job), []).append(run)
    if not kept:
        names = ", ".join(file.name for file in files)[:200]
        raise BadDeployment(f"{names}: no row has a measured step_time_s; without one nothing can be learned")
    return [OwnRuns(name, tuple(runs)) for name, runs in sorted(kept.items())]
