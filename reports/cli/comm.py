"""`moesim comm`: one collective or expert exchange on a cluster, its algorithm, interval and link loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesim.reports.cli.outputs import check_outputs

if TYPE_CHECKING:
    from moesim.sim.transfer.question import CommQuestion


def comm(  # noqa: PLR0913  # one argument per option of the command
    cluster: Annotated[
        str, typer.Option(help="Node, GPU or rented instance, for example dgx-h100, b200-hgx or p5en.48xlarge.")
    ],
    op: Annotated[
        str,
        typer.Option(
            help="all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, send, moe_dispatch, moe_combine"
        ),
    ],
    ranks: Annotated[int, typer.Option(help="GPUs that take part.")],
    size: Annotated[str, typer.Option("--bytes", help="Buffer per rank, for example 64MiB.")] = "",
    algorithm: Annotated[str, typer.Option(help="Force one; auto takes what a library would.")] = "auto",
    library: Annotated[
        str, typer.Option(help="That carries it: nccl, rccl, deepep, uccl-ep, mori, ...; or generic.")
    ] = "",
    hardware: Annotated[str | None, typer.Option(help="A file of nodes and fabrics of your own.")] = None,
    profile: Annotated[str | None, typer.Option(help="Transfers of your own logs: moesim calibrate writes it.")] = None,
    fabric: Annotated[str | None, typer.Option(help="Fabric of the catalogue; default: the node's NICs.")] = None,
    oversubscription: Annotated[float | None, typer.Option(help="Of the uplinks from leaves to spines.")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens per rank: volumes then follow from routing.")] = 0,
    hidden: Annotated[int, typer.Option(help="Width of a token's vector.")] = 0,
    top_k: Annotated[int, typer.Option(help="Experts per token.")] = 0,
    experts: Annotated[int, typer.Option(help="Experts in all.")] = 0,
    groups: Annotated[int, typer.Option(help="Groups of experts of a group-limited router.")] = 1,
    top_groups: Annotated[int, typer.Option(help="Groups that may serve one token; 0: at most four.")] = 0,
    dtype: Annotated[str, typer.Option(help="bf16, fp8, mxfp8 or nvfp4.")] = "bf16",
    skew: Annotated[float, typer.Option(help="Sigma of the lognormal popularity of experts.")] = 0.0,
    sms: Annotated[int, typer.Option(help="Multiprocessors given to the kernel; 0: the library's default.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the sampled routing.")] = 0,
    ecmp: Annotated[
        bool, typer.Option("--ecmp", help="Fabric links picked by a hash, not by adaptive routing.")
    ] = False,
    beside: Annotated[
        list[str] | None,
        typer.Option(help="Another collective at the same time, OP:BYTES:RANKS[:STRIDE], as all_reduce:1GiB:8:8."),
    ] = None,
    degrade: Annotated[
        list[str] | None,
        typer.Option(help="A link at a share of its rate, as 'nic3 -> leaf3=0.5' ('-': both ways; 0: dead)."),
    ] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Every algorithm over a range of sizes.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    figure: Annotated[Path | None, typer.Option(help="Draw times over sizes and the link loads.")] = None,
) -> int:
    """Predict how long one transfer takes, and which link holds it up."""
    from moesim.hwmodels.units import parse_quantity
    from moesim.sim.transfer.beside import parse_beside
    from moesim.sim.transfer.question import CommQuestion

    question = CommQuestion(
        node=cluster, op=op, ranks=ranks, size_bytes=float(parse_quantity(size, "B")) if size else 0.0, fabric=fabric,
        hardware=hardware, profile=profile, oversubscription=oversubscription,
        algorithm=algorithm, library=library, tokens=tokens,
        hidden=hidden,
        top_k=top_k, experts=experts, groups=groups, top_groups=top_groups, dtype=dtype, sigma=skew, seed=seed, sms=sms,
        ecmp=ecmp, beside=tuple(parse_beside(text) for text in beside or ()), degrade=tuple(degrade or ()),
    )  # fmt: skip
    return _show(question, sweep, json, figure)


def _show(question: CommQuestion, sweep: bool, json: bool, figure: Path | None) -> int:
    """Answer the question as a table or JSON, and draw it where that is asked for."""
    from moesim.reports.tables.comm import comm_report, sweep_report
    from moesim.reports.text import console, note, print_json
    from moesim.sim.transfer.predict import predict_comm

    if figure is not None:
        from moesim.reports.figures.files import check_format

        named = [Path(name) for name in (question.hardware, question.profile) if isinstance(name, str)]
        check_outputs([], named, [figure])
        check_format(figure)
    answer = predict_comm(question)
    table = _sweep(question) if sweep or figure is not None else {}
    if json:
        print_json(answer.to_dict() | ({"sweep": {k: dict(v) for k, v in table.items()}} if sweep else {}))
    else:
        console().print(comm_report(answer))
        if sweep:
            console().print(sweep_report(question, table))
    if figure is not None:
        from moesim.reports.figures.comm import write_comm_figure

        write_comm_figure(answer, table, figure)
        note(f"figure: {figure}")
    return 0


def _sweep(question: CommQuestion) -> dict[str, list[tuple[float, float]]]:
    """Per algorithm: (bytes or tokens per rank, seconds)."""
    from dataclasses import replace

    from moesim.sim.transfer.predict import forced, predict_comm

    curves: dict[str, list[tuple[float, float]]] = {}
    sizes = [2.0**i for i in range(12, 33, 2)]
    for name in forced(question):
        line = curves.setdefault(name, [])
        if question.routed:
            for tokens in (1, 8, 32, 128, 512, 2048, 8192):
                asked = replace(question, tokens=tokens, algorithm=name, beside=())
                line.append((float(tokens), predict_comm(asked).prediction.time_s))
        else:
            for size in sizes:
                asked = replace(question, size_bytes=size, algorithm=name, beside=())
                line.append((size, predict_comm(asked).prediction.time_s))
    return curves
