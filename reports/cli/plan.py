"""`moesim plan`: the best layout of a training job, or the best deployment of a load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesim.reports.cli.emit import Folder, Target, check_emit, give_files, with_files
from moesim.reports.cli.outputs import check_outputs

if TYPE_CHECKING:
    from rich.console import RenderableType

    from moesim.sim.plan.fleet.fleet import Fleet
    from moesim.sim.plan.serve.plan import ServePlan
    from moesim.sim.plan.train.plan import Plan
    from moesim.sim.plan.train.search import Progress
    from moesim.sim.question.scenario import Scenario

_TRAINED, _SERVED = 1000, 100  # simulated at most per cluster, where --most is not given


_Objective = Annotated[
    str,
    typer.Option(
        help="Training: step_time (default), cost, tokens_per_dollar, gpu_hours or goodput. "
        "Serving: goodput (default), cost, tokens_per_dollar, tokens_per_s_per_gpu, ttft or tpot."
    ),
]
_Fix = Annotated[
    list[str] | None,
    typer.Option("--set", help="Values of one axis, for example tp=4,8, recompute=none, pools=no or kv_dtype=bf16."),
]
_Traffic = Annotated[
    Path | None,
    typer.Option(help="Size a serving fleet for a day: CSV of hour,requests_per_s[,input_tokens,output_tokens]."),
]
_Fact = Annotated[list[str] | None, typer.Option(help="Another fact of the fleet, for example power_usd_per_kwh=0.12.")]
_Most = Annotated[int, typer.Option(help="Candidates to simulate per cluster at most (0: 1000; serving 100).", min=0)]
_Minutes = Annotated[
    float, typer.Option(help="Of a serving search: answer with what it has after so many (0: no end).", min=0)
]
_Out = Annotated[Path | None, typer.Option(help="Write the best as a scenario that runs; into a folder: every answer.")]


def plan(  # noqa: PLR0913  # one argument per option of the command
    scenario: Annotated[Path, typer.Argument(help="Scenario file in YAML; its layout is open.", show_default=False)],
    gpus: Annotated[str, typer.Option(help="Sizes of the cluster: 64,128 or 64..512 (doubling).")] = "",
    objective: _Objective = "",
    slo: Annotated[str, typer.Option(help="Limits of serving: ttft=1s,tpot=50ms[,share=0.9].")] = "",
    fix: _Fix = None,
    traffic: _Traffic = None,
    growth: Annotated[float, typer.Option(help="Of the traffic a year: 0.2 is 20 %.")] = 0.0,
    spare: Annotated[int, typer.Option(help="Replicas on top of those that are needed (N+1: 1).")] = 1,
    fact: _Fact = None,
    top: Annotated[int, typer.Option(help="How many answers to show.", min=1, max=1000)] = 5,
    most: _Most = 0,
    minutes: _Minutes = 0.0,
    workers: Annotated[int, typer.Option(help="Processes of a training search; 0: one per core.", min=0)] = 0,
    dask: Annotated[str, typer.Option(help="Address of a Dask scheduler to run a training search on.")] = "",
    out: _Out = None,
    emit: Target = "",
    emit_out: Folder = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    figure: Annotated[Path | None, typer.Option(help="Draw the front (.png, .svg or .pdf).")] = None,
) -> int:
    """Search layouts of a training job, or replicas, pools, limits and features that serve a load within limits."""
    from moesim.reports.progress import progress_bar
    from moesim.reports.text import console, print_json
    from moesim.sim.plan.plan import about_serving
    from moesim.sim.question.scenario import ScenarioError, load_scenario

    check_outputs([scenario], [traffic], [None if out is not None and out.is_dir() else out, figure])
    if figure is not None:
        from moesim.reports.figures.files import check_format

        check_format(figure)
    check_emit(emit, emit_out)
    asked = load_scenario(scenario)
    if emit and not about_serving(asked, slo) and traffic is None:
        raise ScenarioError("--emit writes deployments: it is for scenarios with a serve section; --out writes layouts")
    name = asked.model if isinstance(asked.model, str) else asked.model.get("name", "the model")
    day = None if traffic is None else _Day(traffic, growth, spare, tuple(fact or ()))
    title = f"plan for {name} ({scenario})"
    question = _Question(
        asked, title, gpus, objective, slo, tuple(fix or ()), top, most, workers, day, minutes or None, dask
    )
    with progress_bar(lines=True) as show:
        answer, table = _answered(question, show)
    files = _files(answer, emit) if emit else {}
    if json:
        print_json(with_files(answer.to_dict(), files))
    else:
        console().print(table)
    if out is not None:
        from moesim.reports.emit.scenario import write_answer

        write_answer(answer, title, out)
    give_files(files, emit_out, json)
    if figure is not None:
        _draw(answer, figure)
    return 0


def _files(answer: Plan | ServePlan | Fleet, target: str) -> dict[str, str]:
    from moesim.reports.emit.scenario import emitted_answer

    return emitted_answer(answer, target)


def _answered(q: _Question, show: Progress) -> _Answer:
    if q.day is not None:
        return _fleet(q, show)
    from moesim.sim.plan.plan import about_serving

    return _serving(q, show) if about_serving(q.scenario, q.slo) else _training(q, show)


def _draw(answer: Plan | ServePlan | Fleet, figure: Path) -> None:
    from moesim.reports.figures.plan import write_plan_figure
    from moesim.reports.text import note
    from moesim.sim.plan.fleet.fleet import Fleet

    write_plan_figure(answer.plan if isinstance(answer, Fleet) else answer, figure)
    note(f"figure: {figure}")


@dataclass(frozen=True, slots=True)
class _Question:
    """What was asked on the command line."""

    scenario: Scenario
    title: str
    gpus: str
    objective: str
    slo: str
    fix: tuple[str, ...]
    top: int
    most: int
    workers: int
    day: _Day | None
    minutes: float | None
    dask: str


@dataclass(frozen=True, slots=True)
class _Day:
    """A fleet's traffic."""

    traffic: Path
    growth: float
    spare: int
    facts: tuple[str, ...]


_Answer = tuple["Plan | ServePlan | Fleet", "RenderableType"]


def _training(q: _Question, show: Progress) -> _Answer:
    from moesim.calibrate.rows.outcomes import usable_cores
    from moesim.reports.tables.plan import plan_report
    from moesim.sim.plan.train.plan import plan_train
    from moesim.sim.plan.train.search import Effort
    from moesim.sim.plan.words import axes, sizes
    from moesim.sim.question.scenario import ScenarioError

    if q.slo:
        raise ScenarioError("--slo is about serving; this scenario has no serve section")
    effort = Effort(q.top, q.most or _TRAINED, q.workers or usable_cores(), q.dask)
    plan = plan_train(
        q.scenario,
        gpus=sizes(q.gpus),
        objective=q.objective or "step_time",
        given=axes(q.fix),
        effort=effort,
        progress=show,
    ).first(q.top)
    return plan, plan_report(plan, q.title)


def _serving(q: _Question, show: Progress) -> _Answer:
    from moesim.reports.tables.serve_plan import serve_plan_report
    from moesim.sim.plan.serve.plan import plan_serve
    from moesim.sim.plan.serve.search import ServeEffort
    from moesim.sim.plan.serve.space import serve_axes
    from moesim.sim.plan.words import sizes
    from moesim.sim.question.scenario import ScenarioError

    if q.dask:
        raise ScenarioError("--dask runs searches of training layouts; one of deployments runs in this process")
    effort = ServeEffort(q.top, q.most or _SERVED, q.minutes)
    plan = plan_serve(
        q.scenario,
        gpus=sizes(q.gpus),
        slo=q.slo,
        objective=q.objective,
        given=serve_axes(q.fix),
        effort=effort,
        progress=show,
    ).first(q.top)
    return plan, serve_plan_report(plan, q.title)


def _fleet(q: _Question, show: Progress) -> _Answer:
    from moesim.reports.tables.fleet import fleet_report
    from moesim.sim.plan.fleet.facts import read_facts
    from moesim.sim.plan.fleet.plan import FleetAsk, plan_fleet
    from moesim.sim.plan.serve.search import ServeEffort
    from moesim.sim.plan.serve.space import serve_axes
    from moesim.sim.plan.words import sizes

    assert q.day is not None  # asked before
    ask = FleetAsk(
        growth=q.day.growth,
        spare=q.day.spare,
        gpus=sizes(q.gpus),
        slo=q.slo,
        given=serve_axes(q.fix),
        facts=read_facts(q.day.facts),
        effort=ServeEffort(q.top, q.most or _SERVED, q.minutes),
    )
    fleet = plan_fleet(q.scenario, q.day.traffic, ask, show)
    return fleet, fleet_report(fleet, q.title)
