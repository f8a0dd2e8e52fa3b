"""What-if answers as tables: what each change does, and how near the run is to its limits."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from reports.text import gib, seconds, si, three
from sim.plan.whatif import WhatIf


def whatif_report(found: WhatIf, title: str) -> RenderableType:
    """The run as asked, every change, the roofline."""
    usd = "" if found.usd_per_million_tokens is None else f", ${three(found.usd_per_million_tokens)} per million tokens"
    memory = f"{gib(found.free_bytes)} GiB free" if found.free_bytes >= 0 else f"{gib(-found.free_bytes)} GiB too large"
    head = f"step {seconds(found.step_time_s)}, {found.tokens_per_s:,.0f} tokens/s{usd}, {memory}"
    return Group(Text(title, style="bold"), Text(head), _changes(found), _roofline(found))


def _changes(found: WhatIf) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="one thing changed at a time", title_justify="left")
    for name in ("what", "change", "step", "tokens/s", "worth it up to", ""):
        table.add_column(name, justify="left" if name in ("what", "") else "right")
    for knob, outcomes in found.by_knob():
        for i, o in enumerate(outcomes):
            cells = [knob if i == 0 else "", o.change, seconds(o.step_time_s), f"{o.speed_factor - 1.0:+.1%}"]
            price = found.usd_per_hour
            worth = "" if price is None else f"${price * o.speed_factor:.2f} a GPU-hour"
            table.add_row(*cells, worth, "" if o.fits else "does not fit")
        table.add_section()
    return table


def _roofline(found: WhatIf) -> Table:
    title = "roofline: where the seconds go, and what the data sheet alone would take"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for name in ("work", "busy", "FLOP/s", "HBM", "of its limit", "bound by"):
        table.add_column(name, justify="left" if name in ("work", "bound by") else "right")
    for p in found.parts:
        if p.busy_s > 0.0:
            rates = [si(p.flops / p.busy_s, "FLOP/s") if p.flops else "", si(p.hbm_bytes / p.busy_s, "B/s")]
            limit = f"{p.floor_share:.0%}" if p.hbm_bytes else ""
            table.add_row(p.category, seconds(p.busy_s), rates[0], rates[1] if p.hbm_bytes else "", limit, p.bound)
    return table
