"""`moesim serve`: predict how a deployment serves a load of requests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesim.reports.cli.emit import Folder, Target, check_emit, give_files, with_files
from moesim.reports.cli.outputs import check_outputs

if TYPE_CHECKING:
    from moesim.sim.serve.prediction import ServePrediction


_Trace = Annotated[
    Path | None,
    typer.Option(
        help="Trace instead of the scenario's requests, as published: CSV of arrival_s,input_tokens,output_tokens"
        "[,prefix], Azure, BurstGPT, Mooncake, Bailian or ShareGPT; .gz too."
    ),
]
_Records = Annotated[Path | None, typer.Option(help="Write one line a request here: .csv or .jsonl.")]
_Result = Annotated[
    list[str] | None,
    typer.Option(
        help="Write a summary as a benchmark does: vllm=FILE, sglang=FILE or genai-perf=FILE. Tokens of a request "
        "come at even distances: ITL spreads over requests only.",
        show_default=False,
    ),
]
_Traffic = Annotated[
    Path | None,
    typer.Option(
        help="Serve a whole day instead: CSV of hour,requests_per_s[,input_tokens,output_tokens]. Replicas come "
        "and go as serve.autoscale says.",
        show_default=False,
    ),
]
_Figure = Annotated[
    Path | None, typer.Option(help="Draw latencies, the throughput-interactivity frontier, batch and KV over time.")
]


def serve(  # noqa: PLR0913  # one argument per option of the command
    scenario: Annotated[Path, typer.Argument(help="Scenario file in YAML with a serve section.", show_default=False)],
    json: Annotated[bool, typer.Option("--json", help="Print the whole prediction as JSON.")] = False,
    requests: _Trace = None,
    records: _Records = None,
    result: _Result = None,
    traffic: _Traffic = None,
    emit: Target = "",
    emit_out: Folder = None,
    figure: _Figure = None,
) -> int:
    """Predict latency, throughput and cost of serving requests."""
    from moesim.reports.results import check_records, result_asked
    from moesim.sim.question.scenario import ScenarioError
    from moesim.sim.serve.predict import predict_serve

    if figure is not None:
        from moesim.reports.figures.files import check_format

        check_format(figure)
    check_emit(emit, emit_out)
    if traffic is not None:
        if requests is not None or records is not None or result or emit:
            raise ScenarioError(
                "--traffic goes with --json and --figure; leave out --requests, --records, --result, --emit"
            )
        check_outputs([scenario], [traffic], [figure])
        _day(scenario, traffic, json, figure)
        return 0
    if records is not None:
        check_records(records)
    results = [result_asked(text) for text in result or ()]
    check_outputs([scenario], [requests], [records, figure, *(path for _, path in results)])
    prediction = predict_serve(scenario, requests=requests)
    files = {}
    if emit:
        from moesim.reports.emit.scenario import emitted_served

        files = emitted_served(prediction, scenario, emit)
    _show(prediction, files, json, records, results)
    give_files(files, emit_out, json)
    if figure is not None:
        from moesim.reports.figures.serve import write_serve_figure
        from moesim.reports.text import note

        write_serve_figure(prediction, figure)
        note(f"figure: {figure}")
    return 0


def _show(
    prediction: ServePrediction,
    files: dict[str, str],
    json: bool,
    records: Path | None,
    results: list[tuple[str, Path]],
) -> None:
    """The answer, and tables of its requests that were asked for."""
    from moesim.reports.results import write_records, write_result
    from moesim.reports.tables.serve import serve_report
    from moesim.reports.text import console, note, print_json

    if json:
        print_json(with_files(prediction.to_dict(), files))
    else:
        console().print(serve_report(prediction))
    if records is not None:
        write_records(prediction, records)
        note(f"records: {records}")
    for tool, path in results:
        write_result(prediction, tool, path)
        note(f"result as {tool} writes it: {path}")


def _day(scenario: Path, traffic: Path, json: bool, figure: Path | None) -> None:
    """A day of traffic: its answer, and its picture."""
    from moesim.reports.progress import progress_bar
    from moesim.reports.tables.day import day_report
    from moesim.reports.text import console, note, print_json
    from moesim.sim.serve.day import predict_day

    with progress_bar(lines=True) as show:
        answer = predict_day(scenario, traffic, progress=show)
    if json:
        print_json(answer.to_dict())
    else:
        console().print(day_report(answer))
    if figure is not None:
        from moesim.reports.figures.day import write_day_figure

        write_day_figure(answer, figure)
        note(f"figure: {figure}")
