"""A comparison as tables: one column per model, then where the other one starts to win, and what it rests on."""

from __future__ import annotations

from collections.abc import Callable

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moesim.reports.tables.serve import PART_TITLES
from moesim.reports.tables.train import CATEGORY_TITLES
from moesim.reports.text import count, gib, seconds, three
from moesim.sim.comparison.break_even import ESTIMATED, BreakEven
from moesim.sim.comparison.comparison import Comparison
from moesim.sim.comparison.side import Column, ServeSide, TrainSide
from moesim.sim.comparison.upcycling import Upcycling, route_called
from moesim.sim.train.whole_run import TrainingRun

_DAY = 86400.0


def compare_report(comparison: Comparison) -> RenderableType:
    """Everything a person asks about two models."""
    parts: list[RenderableType] = [*(Text(line, style="bold") for line in comparison.verdicts()), _columns(comparison)]
    if comparison.break_evens:
        parts.append(_break_evens(comparison.break_evens))
    if comparison.upcycling is not None:
        parts.append(_upcycling(comparison.upcycling))
    for column in comparison.columns:
        parts += [Text(f"- {column.name}: {note}") for note in column.notes]
        parts += [Text(f"- {column.name}, {section}: {why}") for section, why in column.refusals.items()]
    return Group(*parts)


def _columns(comparison: Comparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for column in comparison.columns:
        table.add_column(column.name, justify="right", overflow="fold")

    def row(title: str, cell: Callable[[Column], str]) -> None:
        cells = [cell(c) for c in comparison.columns]
        if any(cells):
            table.add_row(title, *cells)

    row("parameters", lambda c: count(float(c.parameters)))
    row("active per token", lambda c: count(float(c.active_parameters)))
    row("cluster", lambda c: c.cluster)
    if any(c.train or "train" in c.refusals for c in comparison.columns):
        _train_rows(row, comparison)
        table.add_section()
    if any(c.serve or "serve" in c.refusals for c in comparison.columns):
        _serve_rows(row, comparison)
    return table


Row = Callable[[str, Callable[[Column], str]], None]


def _train_rows(row: Row, comparison: Comparison) -> None:
    def of(cell: Callable[[TrainSide], str]) -> Callable[[Column], str]:
        return lambda c: cell(c.train) if c.train else "does not fit" if "train" in c.refusals else ""

    def of_run(cell: Callable[[TrainingRun], str]) -> Callable[[Column], str]:
        return lambda c: cell(c.train.run) if c.train and c.train.run else ""

    row("training step", of(lambda s: f"{seconds(s.step_time_s)} ({three(s.low_s)} to {three(s.high_s)})"))
    row("tokens/s", of(lambda s: f"{s.tokens_per_s:,.0f}"))
    row("MFU", of(lambda s: f"{s.mfu:.1%}"))
    row("memory per GPU", of(lambda s: f"{gib(s.memory_bytes)} of {gib(s.usable_bytes)} GiB"))
    row("GPUs for the first's tokens/s", lambda c: _gpus(comparison, c, "train"))
    row("$ per GPU-hour", of(lambda s: _usd(s.usd_per_gpu_hour)))
    row("$ per million tokens", of(lambda s: _usd(s.usd_per_million_tokens)))
    row("kWh per million tokens, GPUs alone", of(lambda s: three(s.kwh_per_million_tokens)))
    row(
        "most of the step", of(lambda s: f"{CATEGORY_TITLES.get(s.bottleneck, s.bottleneck)}, {s.bottleneck_share:.0%}")
    )
    row("whole run, days (p10 to p90)", of_run(lambda r: _likely(r, "days")))
    row("whole run, $ (p10 to p90)", of_run(lambda r: _likely(r, "usd")))
    row("whole run, MWh of the GPUs (p10 to p90)", of_run(lambda r: _likely(r, "energy_mwh")))
    row("whole run, MWh with hosts and cooling", of_run(lambda r: _likely(r, "facility_energy_mwh")))


def _serve_rows(row: Row, comparison: Comparison) -> None:
    def of(cell: Callable[[ServeSide], str]) -> Callable[[Column], str]:
        return lambda c: cell(c.serve) if c.serve else "does not fit" if "serve" in c.refusals else ""

    row("first token, mean and p99", of(lambda s: f"{seconds(s.ttft_s)}, {seconds(s.ttft_p99_s)}"))
    row("each further token", of(lambda s: f"{seconds(s.tpot_s)}, {seconds(s.tpot_p99_s)}"))
    row("output tokens/s", of(lambda s: f"{s.output_tokens_per_s:,.0f}"))
    row("requests/s, at capacity", of(lambda s: f"{three(s.requests_per_s)}, {three(s.capacity_requests_per_s)}"))
    row("load", of(lambda s: s.label))
    row(
        "weights, KV used per GPU",
        of(lambda s: f"{gib(s.weights_bytes)}, {gib(s.kv_bytes)} of {gib(s.usable_bytes)} GiB"),
    )
    row("GPUs for the first's requests/s", lambda c: _gpus(comparison, c, "serve"))
    row("$ per GPU-hour", of(lambda s: _usd(s.usd_per_gpu_hour)))
    row("$ per million tokens, input and output alike", of(lambda s: _usd(s.usd_per_million_tokens)))
    row("$ per million output tokens, prompts paid by them", of(lambda s: _usd(s.usd_per_million_output_tokens)))
    row("kWh per million output tokens, GPUs alone", of(lambda s: three(s.kwh_per_million_output_tokens)))
    row("most of the time", of(lambda s: f"{PART_TITLES.get(s.bottleneck, s.bottleneck)}, {s.bottleneck_share:.0%}"))


def _gpus(comparison: Comparison, column: Column, section: str) -> str:
    needed = comparison.gpus_for_same_work(column, section)
    return "" if needed is None else f"{needed:,}"


def _likely(run: TrainingRun, name: str) -> str:
    """'56.6 (49.7 to 108)'; nothing where it is not known."""
    if name not in run.intervals:
        return ""
    values = run.intervals[name]
    return f"{three(values['p50'])} ({three(values['p10'])} to {three(values['p90'])})"


def _usd(value: float | None) -> str:
    return "" if value is None else three(value)


def _break_evens(points: tuple[BreakEven, ...]) -> Table:
    title = "break-even: where the other one wins per token, one thing varied for both"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("what", overflow="fold")
    table.add_column("searched", justify="right")
    table.add_column("answer", overflow="fold")
    previous = ("", "")
    for b in points:
        if (b.section, b.other) != previous:
            table.add_section()
            previous = (b.section, b.other)
        searched = f"{_number(b.low)} to {_number(b.high)}" if b.high > b.low else ""
        table.add_row(f"{b.section}: {b.axis}", searched, b.answer + (f" ({b.note})" if b.note else ""))
    if any(b.section == "train" for b in points):
        table.caption, table.caption_justify = ESTIMATED, "left"
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _upcycling(upcycling: Upcycling) -> Table:
    many, way = upcycling.parents > 1, route_called(upcycling.route).title
    title = f"{upcycling.model} from scratch, and {way} from {upcycling.parent}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for name in ("", "tokens", "days", "$", "MWh with hosts and cooling"):
        table.add_column(name, justify="right" if name else "left")
    rows = (
        ("from scratch", upcycling.scratch),
        (f"{way}, the {'parents' if many else 'parent'} being there", upcycling.upcycled),
        (
            f"each of {upcycling.parents} parents, were they not" if many else "the parent, were it not",
            upcycling.parent_run,
        ),
    )
    for name, run in rows:
        table.add_row(name, count(run.tokens), three(run.wall_s / _DAY), _usd(run.usd), three(run.facility_energy_mwh))
    table.caption = f"{count(upcycling.tokens_saved)} tokens saved: {upcycling.note}"
    table.caption_justify = "left"
    return table
