"""`moesim plan`: the best layout of a training job, on one number of GPUs or several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def plan(  # noqa: PLR0913  # one argument per option of the command
    scenario: Annotated[
        Path, typer.Argument(help="Scenario file in YAML; its layout is left open.", show_default=False)
    ],
    gpus: Annotated[str, typer.Option(help="Sizes of the cluster: 64,128 or 64..512 (doubling).")] = "",
    objective: Annotated[str, typer.Option(help="step_time, cost, tokens_per_dollar or gpu_hours.")] = "step_time",
    fix: Annotated[
        list[str] | None, typer.Option("--set", help="Values of one axis, for example tp=4,8 or recompute=none.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many layouts to show.", min=1, max=1000)] = 5,
    most: Annotated[int, typer.Option(help="Simulate at most so many per cluster.", min=1)] = 1000,
    workers: Annotated[int, typer.Option(help="Processes; 0: one per core.", min=0)] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> int:
    """Search tensor, pipeline, expert, context and data parallelism, micro-batch, recompute and schedule."""
    from calibrate.row_outcomes import usable_cores
    from reports.plan_table import plan_report
    from reports.progress import progress_bar
    from reports.text import console, print_json
    from sim.plan.ask import axes, sizes
    from sim.plan.plan import plan_train
    from sim.plan.search import Effort
    from sim.scenario import load_scenario

    asked = load_scenario(scenario)
    effort = Effort(max(top, 10), most, workers or usable_cores())
    with progress_bar() as show:
        found = plan_train(
            asked, gpus=sizes(gpus), objective=objective, given=axes(fix or ()), effort=effort, progress=show
        )
    found = found.first(top)
    if json:
        print_json(found.to_dict())
    else:
        model = asked.model if isinstance(asked.model, str) else asked.model.get("name", "the model")
        console().print(plan_report(found, f"plan for {model} ({scenario})"))
    return 0
