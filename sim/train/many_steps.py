"""Many steps of one run: routing, age of the placement's plan and jitter are drawn anew in every one of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from threading import get_ident
from typing import Any

import numpy as np

from moesim.sim.question.paths import whole_paths
from moesim.sim.question.scenario import Asked, Scenario, ScenarioError, scenario_of
from moesim.sim.train.fitting import require_memory
from moesim.sim.train.job import Resolved, resolve
from moesim.sim.train.memory import step_memory
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import corrected, simulate_step
from moesim.sim.train.workers import answers

MOST_STEPS = 1_000_000
Progress = Callable[[str, int, int], None]  # what is being done, how much of it, of how much


@dataclass(frozen=True, slots=True)
class OneStep:
    """A step among many: seconds, where they went, rows of the busiest expert rank over the mean (mean over layers)."""

    step_time_s: float
    breakdown_s: Mapping[str, float]
    busiest_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ManySteps:
    """Steps 0, 1, 2, ... of a run. Quantiles lie between the two nearest steps; `sd_s` is 0 for a single step.

    The spread is what routing, drift, the plan's age and jitter bring about. How far all steps together may be off is
    the interval of `predict_train`.
    """

    steps: tuple[OneStep, ...]  # by number
    breakdown_s: dict[str, float]  # mean over steps; sums to mean_s
    alike: bool  # nothing is drawn: one step was run and stands for all
    resolved: Resolved

    def quantile_s(self, share: float) -> float:
        """Seconds that this share of the steps does not exceed."""
        return float(np.quantile([step.step_time_s for step in self.steps], share))

    @property
    def mean_s(self) -> float:
        """Of all steps."""
        return sum(step.step_time_s for step in self.steps) / len(self.steps)

    @property
    def sd_s(self) -> float:
        """Standard deviation, of a sample; 0 for one step."""
        seconds = [step.step_time_s for step in self.steps]
        return float(np.std(seconds, ddof=1)) if len(seconds) > 1 and not self.alike else 0.0

    @property
    def busiest_ratio(self) -> float:
        """Rows of the busiest expert rank over the mean, averaged over layers and steps; 1 where ranks get as many."""
        return sum(step.busiest_ratio for step in self.steps) / len(self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; `each` lists the steps by number."""
        seconds = [step.step_time_s for step in self.steps]
        busiest = [step.busiest_ratio for step in self.steps]
        return {
            "steps": len(self.steps),
            "alike": self.alike,
            "step_time_s": {
                "mean": self.mean_s,
                "sd": self.sd_s,
                "min": min(seconds),
                "p50": self.quantile_s(0.5),
                "p95": self.quantile_s(0.95),
                "p99": self.quantile_s(0.99),
                "max": max(seconds),
                "first": seconds[0],
                "last": seconds[-1],
            },
            "busiest_rank_over_mean": {"mean": self.busiest_ratio, "min": min(busiest), "max": max(busiest)},
            "breakdown_s": self.breakdown_s,
            "each": {"step_time_s": seconds, "busiest_rank_over_mean": busiest},
        }


def many_steps(
    scenario: Asked,
    steps: int,
    *,
    check_memory: bool = True,
    workers: int = 1,
    dask: str = "",
    progress: Progress | None = None,
) -> ManySteps:
    """Run steps 0 to steps - 1 of a training scenario, each with draws of its own.

    scenario: a file's path, a mapping or a Scenario, with a train section.
    workers: processes. dask: the address of a scheduler to run on instead. Same answer either way.

    Where nothing is drawn (balanced routing, no jitter) one step is run and stands for all.
    ScenarioError for a number of steps that cannot be, DoesNotFit when a stage needs more memory than its GPU has (in
    step 0, as `predict_train`), and what `predict_train` raises.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MOST_STEPS:
        raise ScenarioError(f"steps={steps!r} must be a whole number from 1 to {MOST_STEPS:,}")
    asked = scenario_of(scenario)
    text = json.dumps(whole_paths(asked.model_dump(mode="json", exclude_unset=True)))
    resolved, prices = _prices(text, get_ident())
    if check_memory:
        require_memory(prices, tuple(step_memory(prices)))
    alike = not prices.varies and not resolved.job.unlike.jitter_share
    todo = range(1 if alike else steps)
    done: dict[int, OneStep] = {}
    for number, step in answers(partial(_one, text), todo, workers, dask):
        done[number] = step
        if progress is not None:
            progress("running steps", len(done), len(todo))
    ordered = tuple(done[0 if alike else number] for number in range(steps))
    return ManySteps(steps=ordered, breakdown_s=_mean(ordered), alike=alike, resolved=resolved)


def _mean(steps: tuple[OneStep, ...]) -> dict[str, float]:
    """The mean of what steps were spent on."""
    total: dict[str, float] = {}
    for step in steps:
        for key, seconds in step.breakdown_s.items():
            total[key] = total.get(key, 0.0) + seconds / len(steps)
    return total


@lru_cache(maxsize=32)
def _prices(scenario: str, thread: int) -> tuple[Resolved, StepPrices]:
    """The prices of a worker, made when its first step arrives: one each, also among threads, for they remember."""
    resolved = resolve(Scenario.model_validate_json(scenario))
    return resolved, StepPrices(resolved.job, resolved.kernels, resolved.tuning())


def _one(scenario: str, number: int) -> tuple[int, OneStep]:
    resolved, prices = _prices(scenario, get_ident())
    step = simulate_step(prices, events=False, number=number)
    if resolved.correction is not None:
        step = corrected(step, resolved.correction.factor)
    busiest = prices.routed(number).imbalance if prices.varies else {}
    ratio = sum(busiest.values()) / len(busiest) if busiest else 1.0
    spent = {key: seconds for key, seconds in step.breakdown_s.items() if seconds}
    return number, OneStep(step.step_time_s, spent, ratio)
