"""plan: the verb that searches the best layout of a training job, or the best deployment of a load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from moesim.sim.plan.serve.plan import ServePlan, plan_serve
from moesim.sim.plan.serve.search import ServeEffort
from moesim.sim.plan.serve.space import serve_axes
from moesim.sim.plan.train.plan import Plan, plan_train
from moesim.sim.plan.train.search import Effort, Progress
from moesim.sim.plan.words import MOST_GPUS, axes
from moesim.sim.question.scenario import Asked, Scenario, ScenarioError, scenario_of


def about_serving(scenario: Scenario, slo: str = "") -> bool:
    """Whether a plan or what-if of this scenario is about its deployment: no train section, or limits were given."""
    return scenario.serve is not None and (scenario.train is None or bool(slo))


def plan(
    scenario: Asked,
    *,
    gpus: Sequence[int] = (),
    objective: str = "",
    slo: str = "",
    given: Mapping[str, Iterable[object] | object] | None = None,
    effort: Effort | ServeEffort | None = None,
    progress: Progress | None = None,
) -> Plan | ServePlan:
    """Search the best layout of a training job, or the best deployment of a load; the scenario's layout is left open.

    scenario: a file's path, a mapping or a Scenario. One with a serve section and no train section (or with `slo`) is
        planned as a deployment.
    gpus: sizes of the cluster to try, in GPUs; the scenario's own where none is given.
    objective: training: step_time (the default), cost, tokens_per_dollar, gpu_hours or goodput; serving: goodput (the
        default), cost, tokens_per_dollar, tokens_per_s_per_gpu, ttft or tpot.
    slo: limits of serving, "ttft=1s,tpot=50ms,share=0.9"; those of the scenario stand for what is not said.
    given: axes that are fixed, in the words of the command line: {"tp": (4, 8), "recompute": "none", "pools": "no"}.
    effort: how many answers must be certain, how many candidates are simulated at most, and on how many processes (of
        a training search; all cores where it is not given).
    progress: called with what is being done, how much of it, of how much.

    The answer's `options` are the best first, with seconds, dollars and what they leave free; `to_dict()` is JSON.
    Every option is simulated, and none that was left out can be better than the bounds say.

    Raises ScenarioError for objectives, limits and axes that do not exist and for searches that nothing fits; other
    kinds of Refusal as the predictions do.
    """
    asked = scenario_of(scenario)
    words, gpus = fixed_axes(given), checked_sizes(gpus)
    if about_serving(asked, slo):
        if isinstance(effort, Effort):
            raise ScenarioError("effort: a deployment is planned with ServeEffort(top, most), in one process")
        return plan_serve(
            asked, gpus=gpus, slo=slo, objective=objective, given=serve_axes(words), effort=effort, progress=progress
        )
    if slo:
        raise ScenarioError("slo is about serving; this scenario has no serve section")
    if isinstance(effort, ServeEffort):
        raise ScenarioError("effort: a training job is planned with Effort(top, most, workers)")
    objective = objective or "step_time"
    return plan_train(asked, gpus=gpus, objective=objective, given=axes(words), effort=effort, progress=progress)


def fixed_axes(given: object) -> list[str]:
    """Axes and values as the command line writes them, 'tp=4,8'. ScenarioError for what is no mapping."""
    if given is not None and not isinstance(given, Mapping):
        raise ScenarioError(f'given is {type(given).__name__}; write axes and values, for example {{"tp": (4, 8)}}')
    return [f"{axis}={_spelled(values)}" for axis, values in (given or {}).items()]


def checked_sizes(gpus: object) -> tuple[int, ...]:
    """Sizes of the cluster. ScenarioError for anything but a list of whole numbers that a cluster may have."""
    if not isinstance(gpus, Sequence) or isinstance(gpus, (str, bytes)):
        raise ScenarioError(f"gpus={gpus!r} is not a list of numbers; write for example (64, 128)")
    for count in gpus:
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_GPUS:
            raise ScenarioError(f"gpus: {count!r} is not a number of GPUs from 1 to {MOST_GPUS:,}")
    return tuple(gpus)


def _spelled(values: Iterable[object] | object) -> str:
    """Values of an axis as the command line writes them."""
    several = isinstance(values, Iterable) and not isinstance(values, str)
    return ",".join(str(value) for value in values) if several and isinstance(values, Iterable) else str(values)
