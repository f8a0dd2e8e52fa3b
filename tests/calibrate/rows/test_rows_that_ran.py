"""Memory of published training runs: what ran fitted, wherever a row says what it ran again."""

from __future__ import annotations

import pytest

from moesim.calibrate.rows.cells import Row, text_of
from moesim.calibrate.rows.files import published_rows
from moesim.calibrate.rows.training import scenario_of
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.fitting import step_fits
from moesim.sim.train.job import resolve
from moesim.sim.train.prices import StepPrices

# rows whose stated recompute is not all that saved memory: the report's settings name offloading and more (MXFP8
# activations), which no column holds
UNSAID = {"mcoremoe-Qwen3-235B-A22B-GB200-MXFP8-256g-4096-tok"}


def rows_of(name: str) -> tuple[Row, ...]:
    return next(file.rows for file in published_rows() if file.name == name)


def fits(row: Row) -> bool:
    resolved = resolve(parse_scenario(scenario_of(row)[0]))
    return step_fits(StepPrices(resolved.job, resolved.kernels, resolved.tuning()))


@pytest.mark.parametrize("name", ["training.csv", "training_sweeps.csv"])
def test_runs_that_say_what_they_ran_again_fit(name: str) -> None:
    # a row without its pipeline has no layout
    said = [row for row in rows_of(name) if text_of(row, "recompute") and (text_of(row, "pp") or text_of(row, "dp"))]
    assert len(said) > 100
    assert {row["id"] for row in said if not fits(row)} <= UNSAID
