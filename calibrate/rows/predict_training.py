"""Predict one published row with the ordinary simulator: a value per metric, or a refusal with its reason."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moesim.calibrate.rows.cells import Row
from moesim.calibrate.rows.training import scenario_of
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.fitting import step_fits
from moesim.sim.train.job import Resolved, resolve
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import StepResult, simulate_step

# modules that vendors' MoE recipes recompute, in the order in which they give memory back for little time
_RECIPES = (
    frozenset({"moe_act", "layernorm", "mla_up_proj"}),
    frozenset({"moe_act", "layernorm", "mla_up_proj", "mlp", "shared_experts", "core_attention"}),
    frozenset({"full"}),
)


@dataclass(frozen=True, slots=True)
class RowResult:
    """A simulated row."""

    resolved: Resolved
    step: StepResult
    prices: StepPrices


def simulate_row(row: Row, overrides: dict[str, float] | None = None, events: bool = False) -> RowResult:
    """Simulate one row; ValueErrors (scenario, layout, architecture, fit) carry the reason of a refusal."""
    raw, assumed = scenario_of(row)
    resolved = resolve(parse_scenario(raw))
    resolved = replace(resolved, assumptions=(*assumed, *resolved.assumptions))
    prices = StepPrices(resolved.job, resolved.kernels, resolved.tuning(overrides))
    if not (row.get("recompute") or "").strip() and not any("(recipe of" in note for note in assumed):
        resolved, prices = _with_recipe(resolved, prices, overrides)
    return RowResult(resolved, simulate_step(prices, events), prices)


def _with_recipe(
    resolved: Resolved, prices: StepPrices, overrides: dict[str, float] | None
) -> tuple[Resolved, StepPrices]:
    """Where a row does not say what it recomputed and would not have fitted without, the least that lets it fit.

    Tuned MoE stacks only: dense recipes of that size keep or offload everything (assumed). The row ran, so it fitted.
    """
    job = resolved.job
    if job.stack.constants_of != "megatron-tuned" or not job.arch.is_moe or step_fits(prices):
        return resolved, prices
    for modules in _RECIPES:
        job = replace(resolved.job, recompute=modules)
        candidate = StepPrices(job, prices.profile, resolved.tuning(overrides))
        if step_fits(candidate):
            break
    enough = (
        "needed to fit" if step_fits(candidate) else "and yet it would not fit: something that saves memory is missing"
    )
    note = f"recompute = {', '.join(sorted(modules))} (not stated; {enough})"
    return replace(resolved, job=job, assumptions=(*resolved.assumptions, note)), candidate
