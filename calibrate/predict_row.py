"""Predict one published row with the ordinary simulator: a value per metric, or a refusal with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from calibrate.rows import Row, scenario_of
from hwmodels.profile import load_profile
from sim.resolve import Resolved, resolve
from sim.scenario import parse_scenario
from sim.stack import Tuning
from sim.step_result import StepResult
from sim.train import StepSimulator


@dataclass(frozen=True, slots=True)
class RowResult:
    """A simulated row."""

    resolved: Resolved
    step: StepResult
    simulator: StepSimulator


def simulate_row(row: Row, overrides: dict[str, float] | None = None, events: bool = False) -> RowResult:
    """Simulate one row; ValueErrors (scenario, layout, architecture, fit) carry the reason of a refusal."""
    raw, _ = scenario_of(row)
    resolved = resolve(parse_scenario(raw))
    simulator = StepSimulator(resolved.job, load_profile(resolved.profile), Tuning(overrides))
    return RowResult(resolved, simulator.simulate(events), simulator)
