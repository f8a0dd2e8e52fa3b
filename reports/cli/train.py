"""`moesim train`: predict one training step of a scenario file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesim.reports.cli.beside import Others, SpreadOption, check_spread, jobs_beside
from moesim.reports.cli.outputs import check_outputs

if TYPE_CHECKING:
    from moesim.sim.question.scenario import Scenario
    from moesim.sim.train.lost import Which
    from moesim.sim.train.many_steps import ManySteps
    from moesim.sim.train.prediction import Prediction

_Tokens = Annotated[
    str,
    typer.Option(help="Also the whole run of this many tokens, for example 14.8e12: days, dollars, energy, failures."),
]
_AGREE = 1e-9  # relative; the exact run adds the same numbers in another order
_NEAR = 2e-3  # where gathers or reductions beside slots slow them as a whole, not each of their operations


def train(  # noqa: PLR0913  # one argument per option of the command
    scenario: Annotated[
        Path, typer.Argument(help="Scenario file in YAML; `moesim init` writes one.", show_default=False)
    ],
    json: Annotated[bool, typer.Option("--json", help="Print the whole prediction as JSON.")] = False,
    timeline: Annotated[
        Path | None, typer.Option(help="Write the step as a Chrome trace (JSON; opens in ui.perfetto.dev).")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the step as a Gantt chart (.png, .svg or .pdf).")] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Also run every kernel as an event of its own, and compare.")
    ] = False,
    tokens: _Tokens = "",
    steps: Annotated[
        int | None, typer.Option(help="Also this many steps of the run, each with draws of its own.", min=1)
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that run --steps; 0: one per core.", min=0)] = 0,
    dask: Annotated[str, typer.Option(help="Address of a Dask scheduler to run --steps on instead.")] = "",
    lost: Annotated[
        bool,
        typer.Option("--lost", help="Also run the step without slow GPUs, jitter, bad links: what each of them costs."),
    ] = False,
    beside: Others = None,
    spread: SpreadOption = None,
    no_memory_check: Annotated[
        bool,
        typer.Option("--no-memory-check", help="Answer even if a stage needs more memory than its GPU has."),
    ] = False,
) -> int:
    """Predict the time, memory and cost of one training step."""
    if beside:
        asked = {"timeline": timeline, "figure": figure, "exact": exact, "tokens": tokens, "steps": steps,
                 "workers": workers, "dask": dask, "lost": lost}  # fmt: skip
        return jobs_beside([scenario, *beside], spread, json, not no_memory_check, [k for k, v in asked.items() if v])
    from moesim.reports.text import console, print_json
    from moesim.sim.plan.words import token_count
    from moesim.sim.question.scenario import load_scenario
    from moesim.sim.train.predict import predict_train
    from moesim.sim.train.whole_run import training_run

    check_spread(spread)
    _check_files(scenario, timeline, figure)
    many = _Many(steps, workers, dask)
    question = _comparable(load_scenario(scenario), exact)
    every: Which = "all" if lost or figure is not None else "cheap"
    prediction = predict_train(question, check_memory=not no_memory_check, lost=every, record=timeline is not None)
    run = training_run(prediction, wanted) if (wanted := token_count(tokens)) is not None else None
    stepped = many.run(question, check_memory=not no_memory_check)
    if json:
        others = {"run": run, "many_steps": stepped}
        print_json(prediction.to_dict() | {k: v.to_dict() for k, v in others.items() if v is not None})
    else:
        from moesim.reports.tables.run import run_report
        from moesim.reports.tables.steps import steps_report
        from moesim.reports.tables.train import train_report

        more = [*([steps_report(stepped)] if stepped else []), *([run_report(run)] if run is not None else [])]
        console().print(train_report(prediction), *more, sep="\n")
    _write(prediction, stepped, timeline, figure)
    return _compare_exact(scenario, prediction) if exact else 0


@dataclass(frozen=True, slots=True)
class _Many:
    """What is asked about many steps. ScenarioError where something else is asked without any."""

    steps: int | None
    workers: int
    dask: str

    def __post_init__(self) -> None:
        from moesim.sim.question.scenario import ScenarioError

        if self.steps is None and (self.workers or self.dask):
            raise ScenarioError("--workers and --dask run many steps, and one was asked for; add --steps 100")

    def run(self, question: Scenario, check_memory: bool) -> ManySteps | None:
        """The steps, with progress on stderr; None where one step is enough."""
        if self.steps is None:
            return None
        from moesim.calibrate.rows.outcomes import usable_cores
        from moesim.reports.progress import progress_bar
        from moesim.sim.train.many_steps import many_steps

        workers = self.workers or usable_cores()
        with progress_bar(lines=True) as show:
            return many_steps(
                question, self.steps, check_memory=check_memory, workers=workers, dask=self.dask, progress=show
            )


def _comparable(question: Scenario, exact: bool) -> Scenario:
    """The scenario. ScenarioError where the two runs that --exact compares would have draws of their own."""
    from moesim.sim.question.scenario import ScenarioError

    if exact and question.jitter:
        raise ScenarioError(
            "--exact cuts a step into operations, and jitter draws for every stretch of compute: the two runs that it "
            "compares would not have the same draws; leave jitter out"
        )
    return question


def _check_files(scenario: Path, timeline: Path | None, figure: Path | None) -> None:
    """Before anything is run."""
    check_outputs([scenario], [], [timeline, figure])
    if figure is not None:
        from moesim.reports.figures.files import check_format

        check_format(figure)


def _write(prediction: Prediction, stepped: ManySteps | None, timeline: Path | None, figure: Path | None) -> None:
    """The files that were asked for."""
    from moesim.reports.text import note

    if timeline is not None:
        from moesim.reports.chrometrace import write_chrome_trace

        write_chrome_trace(prediction, timeline)
        note(f"timeline: {timeline} (open it in https://ui.perfetto.dev)")
    if figure is not None:
        from moesim.reports.figures.step import write_figure

        write_figure(prediction, figure, stepped)
        note(f"figure: {figure}")


def _compare_exact(scenario: Path, replay: Prediction) -> int:
    """Run op by op; 0 when the step time is the replay's, 1 when it is not."""
    from time import perf_counter

    from moesim.reports.text import note
    from moesim.sim.clock.plan import Send
    from moesim.sim.train.predict import predict_train

    begin = perf_counter()
    step_s = predict_train(scenario, check_memory=False, exact=True).step_time_s
    wall_s = perf_counter() - begin
    difference = abs(step_s - replay.step_time_s) / replay.step_time_s
    near = difference < _NEAR and any(
        isinstance(item, Send) and item.sms_share > 0.0 for item in replay.step.timeline.program.items
    )
    verdict = "agrees with the replay" if difference < _AGREE else "DIFFERS from the replay: please report this"
    if near and difference >= _AGREE:
        verdict = "near the replay, whose slots are slowed as a whole by gathers and reductions beside them"
    note(f"exact: {step_s:.9g} s, {verdict} (relative difference {difference:.1e}); took {wall_s:.1f} s")
    return 0 if near or difference < _AGREE else 1
