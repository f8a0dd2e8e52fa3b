"""A serving fleet as tables: the day, the years, what rent and ownership cost, and what all of it rests on."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moesim.files.words import counted
from moesim.reports.text import three
from moesim.sim.plan.fleet.fleet import CHOICES, Fleet

_BAR = 30


def fleet_report(fleet: Fleet, title: str) -> RenderableType:
    """Everything a person asks about a fleet."""
    g = fleet.group
    return Group(
        Text(title, style="bold"),
        Text(answer(fleet)),
        Text(f"replicated: {g.deployment} on {g.gpus} x {fleet.plan.searches[0].judge.base.cluster.gpu.name}; "
             f"limits: {fleet.plan.slo.text}"),
        _day(fleet),
        _years(fleet),
        _money(fleet),
        *(Text(f"- {name}: {text}") for name, text in fleet.sources.items()),
    )  # fmt: skip


def answer(fleet: Fleet) -> str:
    """The fleet and its cheapest form in a sentence or two."""
    first, last = fleet.years[0], fleet.years[-1]
    known = {k: v for k, v in fleet.usd.items() if v is not None}
    room = f"{counted(first.gpus, 'GPU')}, {counted(first.racks, 'rack')}, {three(first.power_w / 1e3)} kW"
    span = _between(first.intervals, "replicas")
    size = f"{counted(first.fixed, 'replica')} ({f'p10 to p90: {span}; ' if span else ''}{room}) for the first year"
    grown = (
        f", {last.fixed} ({counted(last.gpus, 'GPU')}) for year {last.year + 1}" if last.fixed != first.fixed else ""
    )
    if not known:
        return f"{size}{grown}; no price is known."
    best = min(known, key=lambda k: (known[k], k))
    sure = fleet.usd_intervals.get(best)
    ends = "" if sure is None else f" (p10 {money(sure['p10'])}, p90 {money(sure['p90'])})"
    return f"{size}{grown}. Cheapest over {len(fleet.years)} years: {best}, {money(known[best])}{ends}."


def money(usd: float) -> str:
    """'$1.23 M', '$450 k'."""
    return f"${usd / 1e6:,.2f} M" if usd >= 1e6 else f"${usd / 1e3:,.0f} k"


def _day(fleet: Fleet) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="the first year's day", title_justify="left")
    for name in ("hour", "requests/s", "one replica sustains", "replicas", ""):
        table.add_column(name, justify="left" if not name else "right")
    first = fleet.years[0]
    for h, hour in enumerate(fleet.day):
        n = first.replicas[h]
        bar = "█" * max(1, round(_BAR * n / first.fixed))
        table.add_row(str(h), three(hour.requests_per_s), three(fleet.group.sustained_per_s[h]), str(n), bar)
    return table


def _years(fleet: Fleet) -> Table:
    title = f"the fixed fleet by year, {fleet.spare} spare among its replicas"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    sizes = ("year", "peak", "replicas", "p10 to p90", "GPUs", "p10 to p90", "servers", "racks")
    for name in (*sizes, "kW", "MWh at the meter", "GPU-hours, autoscaled"):
        table.add_column(name, justify="right")
    for y in fleet.years:
        scaled = f"{y.autoscaled_gpu_hours:,.0f} ({y.autoscaled_gpu_hours / (y.gpus * 8760.0):.0%})"
        replicas, gpus = (_between(y.intervals, name) for name in ("replicas", "gpus"))
        table.add_row(
            str(y.year + 1), f"{three(y.peak_per_s)}/s", f"{y.fixed:,}", replicas, f"{y.gpus:,}",
            gpus, f"{y.servers:,}", f"{y.racks:,}", three(y.power_w / 1e3), three(y.facility_energy_mwh), scaled,
        )  # fmt: skip
    return table


def _money(fleet: Fleet) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="dollars a year", title_justify="left")
    for name in ("year", *CHOICES, "cheapest"):
        table.add_column(name, justify="left" if name == "cheapest" else "right")
    for y in fleet.years:
        cells = ["?" if v is None else money(v) for v in (y.usd[c] for c in CHOICES)]
        table.add_row(
            str(y.year + 1), *cells, (y.cheapest or "") + (f" (own {y.owned_base})" if y.cheapest == CHOICES[3] else "")
        )
    total = ["?" if v is None else money(v) for v in (fleet.usd[c] for c in CHOICES)]
    table.add_section()
    table.add_row("all", *total, "")
    if fleet.usd_intervals:
        for quantile in ("p10", "p90"):
            each = [fleet.usd_intervals.get(choice) for choice in CHOICES]
            table.add_row(quantile, *("?" if usd is None else money(usd[quantile]) for usd in each), "")
    return table


def _between(intervals: Mapping[str, Mapping[str, float]], name: str) -> str:
    """'9 to 14'; nothing where it is not known."""
    known = intervals.get(name)
    return "" if known is None else f"{known['p10']:,.0f} to {known['p90']:,.0f}"
