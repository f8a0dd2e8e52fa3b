"""`moesim show`, `init` and `schema`: what the catalogues hold, and how a scenario is written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def show(
    name: Annotated[
        str | None,
        typer.Argument(help="A model, GPU, node, fabric, stack or profile; or the path of a model's config.json."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    figure: Annotated[Path | None, typer.Option(help="Draw the network of a node or GPU (.png, .svg or .pdf).")] = None,
    gpus: Annotated[int, typer.Option(help="GPUs of the drawn network.", max=4096)] = 32,
    fabric: Annotated[str | None, typer.Option(help="Fabric of the drawn network.")] = None,
) -> int:
    """Show what the catalogues hold, or one entry with its sources."""
    from moesim.reports.show import show_all, show_one
    from moesim.reports.tables.show import entry_report, overview_report
    from moesim.reports.text import console, print_json

    if figure is not None:
        _draw(name, gpus, fabric, figure)
        if not json:
            return 0
    if name is None:
        overview = show_all()
        if json:
            print_json(overview)
        else:
            console().print(overview_report(overview))
        return 0
    entries = show_one(name)
    if json:
        print_json(entries[0] if len(entries) == 1 else entries)
    else:
        for entry in entries:
            console().print(entry_report(entry))
    return 0


def _draw(name: str | None, gpus: int, fabric: str | None, path: Path) -> None:
    """The network of a cluster of `gpus` GPUs as a picture."""
    from moesim.files.whole import OutputError, check_writable
    from moesim.hwmodels.cluster import build_cluster, node_for_gpu, node_names
    from moesim.hwmodels.topology import build_topology
    from moesim.reports.figures.comm import write_topology_figure
    from moesim.reports.text import note

    if name is None:
        raise OutputError("--figure draws one cluster: name a node, for example dgx-h100")
    check_writable(path)
    node = name if name in node_names() else node_for_gpu(name)
    write_topology_figure(build_topology(build_cluster(node, gpus, fabric)), path)
    note(f"figure: {path}")


def init(
    path: Annotated[
        Path | None, typer.Argument(help="Where to write it; without: scenario.yaml, my-hardware.yaml or model.yaml.")
    ] = None,
    hardware: Annotated[
        bool, typer.Option("--hardware", help="GPUs, nodes and fabrics of your own, for cluster.hardware.")
    ] = False,
    model: Annotated[bool, typer.Option("--model", help="A model of your own.")] = False,
) -> int:
    """Write a commented scenario to start from, or a file of hardware, or a model. Never overwrites a file."""
    from moesim.files.whole import OutputError, write_new
    from moesim.reports.model_template import MODEL
    from moesim.reports.template import HARDWARE, SCENARIO
    from moesim.reports.text import note

    if hardware and model:
        raise OutputError("--hardware and --model write a file each; give one of them")
    kind = "hardware" if hardware else "model" if model else "scenario"
    text, usual, verb = {
        "scenario": (SCENARIO, "scenario.yaml", "train"),
        "hardware": (HARDWARE, "my-hardware.yaml", "show"),
        "model": (MODEL, "model.yaml", "show"),
    }[kind]
    file = path or Path(usual)
    write_new(file, text)
    note(f"wrote {file}; next: moesim {verb} {file}")
    return 0


def schema() -> int:
    """Print the JSON Schema of the scenario file."""
    from moesim.reports.text import print_json
    from moesim.sim.question.scenario import Scenario

    print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **Scenario.model_json_schema()})
    return 0
