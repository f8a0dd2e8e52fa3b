"""Predict one published row with the ordinary simulator: a value per metric, or a refusal with its reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from moesim.calibrate.rows.cells import Row, text_of
from moesim.calibrate.rows.least import fitted
from moesim.calibrate.rows.training import left_open, scenario_of
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.fitting import step_fits
from moesim.sim.train.job import Resolved, resolve
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import StepResult, simulate_step


@dataclass(frozen=True, slots=True)
class RowResult:
    """A simulated row."""

    resolved: Resolved
    step: StepResult
    prices: StepPrices


def simulate_row(row: Row, overrides: dict[str, float] | None = None, events: bool = False) -> RowResult:
    """Simulate one row; ValueErrors (scenario, layout, architecture, fit) carry the reason of a refusal."""
    resolved, prices = prices_of_row(row, overrides)
    return RowResult(resolved, simulate_step(prices, events), prices)


def prices_of_row(row: Row, overrides: dict[str, float] | None = None) -> tuple[Resolved, StepPrices]:
    """One row as a job whose prices nobody has asked for yet; what it leaves open is set so that it fits."""
    raw, assumed = scenario_of(row)
    resolved, prices = _priced(raw, overrides)
    if not text_of(row, "scenario") and not step_fits(prices):
        raw, more = fitted(raw, prices.job, left_open(row, raw), lambda other: step_fits(_priced(other, overrides)[1]))
        resolved, prices = _priced(raw, overrides)
        assumed = [*assumed, *more]
    return replace(resolved, assumptions=(*assumed, *resolved.assumptions)), prices


def _priced(raw: dict[str, Any], overrides: dict[str, float] | None) -> tuple[Resolved, StepPrices]:
    resolved = resolve(parse_scenario(raw))
    return resolved, StepPrices(resolved.job, resolved.kernels, resolved.tuning(overrides))
