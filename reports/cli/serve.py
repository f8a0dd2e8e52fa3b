"""`moesim serve`: predict how a deployment serves a load of requests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    scenario: Annotated[Path, typer.Argument(help="Scenario file in YAML with a serve section.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print the whole prediction as JSON.")] = False,
    requests: Annotated[
        Path | None,
        typer.Option(help="Trace instead of the scenario's requests: arrival_s,input_tokens,output_tokens[,prefix]."),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw latencies, the throughput-interactivity frontier, batch and KV over time.")
    ] = None,
) -> int:
    """Predict latency, throughput and cost of serving requests."""
    from moesim.reports.failures import check_writable
    from moesim.reports.text import console, note, print_json
    from moesim.sim.serve.predict import predict_serve

    if figure is not None:
        from moesim.reports.figures.step import check_format

        check_writable(figure)
        check_format(figure)
    prediction = predict_serve(scenario, requests=requests)
    if json:
        print_json(prediction.to_dict())
    else:
        from moesim.reports.tables.serve import serve_report

        console().print(serve_report(prediction))
    if figure is not None:
        from moesim.reports.figures.serve import write_serve_figure

        write_serve_figure(prediction, figure)
        note(f"figure: {figure}")
    return 0
