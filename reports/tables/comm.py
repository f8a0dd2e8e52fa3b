"""The answer about one transfer, and a sweep over sizes and algorithms, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moesim.hwmodels.units import MIB
from moesim.reports.text import binary, seconds, sureness_lines
from moesim.sim.transfer.beside import Together
from moesim.sim.transfer.predict import LOW_LATENCY_TOKENS, CommAnswer
from moesim.sim.transfer.question import CommQuestion


def comm_report(answer: CommAnswer) -> RenderableType:
    """Time with its interval, algorithm, bandwidths, and what every kind of link carries."""
    q, p = answer.question, answer.prediction
    what = f"{q.op} of {_amount(q)} on {q.ranks} x {answer.cluster.gpu.name} ({q.node}, {answer.cluster.fabric})"
    table = Table(box=box.ROUNDED, show_header=False)
    table.add_row("time", f"{seconds(p.time_s)}   (90 % interval {seconds(p.low_s)} to {seconds(p.high_s)})")
    table.add_row("interval", "\n".join(sureness_lines(p.sureness)))
    table.add_row("algorithm", p.algorithm + _why(q))
    table.add_row("algorithm bandwidth", f"{p.algbw_bytes_per_s / 1e9:.1f} GB/s")
    table.add_row("bus bandwidth", f"{p.busbw_bytes_per_s / 1e9:.1f} GB/s")
    if answer.traffic is not None:
        t = answer.traffic
        table.add_row("copies per token", f"{t.node_copies:.2f} domains, {t.rank_copies:.2f} ranks")
        table.add_row("rows of the busiest rank", f"{t.imbalance:.2f} x the mean")
        table.add_row("stretched by hot experts", f"{answer.imbalance:.2f} x (the busiest link)")
    if answer.cluster.degraded:
        slow = ", ".join(f"{fault.link} at {fault.factor:g}" for fault in answer.cluster.degraded)
        table.add_row("degraded links", f"{slow} of their rate: {answer.degraded_factor:.2f} x")
    name, carried = answer.loads.bottleneck()
    table.add_row("busiest link", f"{name}: {carried / MIB:.1f} MiB, {seconds(answer.loads.seconds)} at its rate")
    parts: list[RenderableType] = [Text(what, style="bold"), table, _loads(answer)]
    if answer.together:
        parts.append(_together(answer.together))
    parts += [Text(f"- {line}") for line in (*answer.assumptions, p.sureness.note) if line]
    return Group(*parts)


def _why(q: CommQuestion) -> str:
    if q.algorithm != "auto":
        return " (forced)"
    if not q.routed:
        return " (chosen: the fastest a library would take by itself)"
    return f" (chosen: serving engines take low_latency below {LOW_LATENCY_TOKENS} tokens per rank, normal above)"


def _amount(q: CommQuestion) -> str:
    if q.routed:
        return f"{q.tokens:,} tokens x {q.hidden} {q.dtype}, top {q.top_k} of {q.experts} experts"
    return binary(q.size_bytes)


def _loads(answer: CommAnswer) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, title in enumerate(("links", "busiest", "mean", "rate", "busy")):
        table.add_column(title, justify="left" if i == 0 else "right")
    for name, load in answer.loads.summary().items():
        table.add_row(
            name,
            f"{load['busiest_bytes'] / MIB:,.1f} MiB",
            f"{load['mean_bytes'] / MIB:,.1f} MiB",
            f"{load['link_bytes_per_s'] / 1e9:.0f} GB/s",
            seconds(load["busy_s"]),
        )
    return table


def _together(rows: Sequence[Together]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="beside each other, max-min fair")
    for i, title in enumerate(("transfer", "alone", "together", "times", "busiest link of its own")):
        table.add_column(title, justify="right" if 0 < i < 4 else "left")
    for row in rows:
        stretch = f"{row.together_s / row.alone_s:.2f}"
        table.add_row(row.title, seconds(row.alone_s), seconds(row.together_s), stretch, row.busiest_link)
    return table


def sweep_report(q: CommQuestion, table: Mapping[str, Sequence[tuple[float, float]]]) -> Table:
    """Seconds per size and algorithm; the fastest of a line is bold."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="seconds by algorithm")
    shown.add_column("tokens per rank" if q.routed else "bytes per rank", justify="right")
    for name in table:
        shown.add_column(name, justify="right")
    lines = next(iter(table.values()))
    for i, (size, _) in enumerate(lines):
        times = [line[i][1] for line in table.values()]
        label = f"{size:,.0f}" if q.routed else binary(size)
        shown.add_row(label, *(Text(seconds(t), style="bold" if t == min(times) else "") for t in times))
    return shown
