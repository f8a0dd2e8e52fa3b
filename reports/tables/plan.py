"""The answer of a layout search as tables: the best, what else is on the front, how obvious choices fared."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moesim.reports.text import gib, seconds, three
from moesim.sim.plan.train.plan import Option, Plan


def plan_report(plan: Plan, title: str) -> RenderableType:
    """Everything a person asks about the answer."""
    looked, fit = sum(s.looked_at for s in plan.searches), sum(s.may_fit for s in plan.searches)
    run = sum(s.simulated for s in plan.searches)
    parts: list[RenderableType] = [
        Text(title, style="bold"),
        Text(
            f"{looked:,} layouts judged by bounds, {fit:,} may fit, {run:,} simulated; best first by {plan.objective}"
        ),
        *([Text(f"$ per GPU-hour: {plan.price.text}")] if plan.price else []),
        _options("best", plan.options),
    ]
    if len(plan.pareto) > 1:
        several = len(plan.searches) > 1
        front = "faster or cheaper" if several else "faster or smaller"
        parts.append(_options(f"the front: nothing else is both {front}", plan.pareto, why=False))
    parts.append(_verdicts(plan))
    parts += [Text(f"- {note}") for note in plan.notes]
    return Group(*parts)


def _options(title: str, options: Sequence[Option], why: bool = True) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for name in ("GPUs", "layout", "step (90 %)", "GiB, free", "$/Mtok"):
        table.add_column(name, justify="left" if name == "layout" else "right")
    if why:
        table.add_column("why", overflow="fold")
    for o in options:
        usd = "" if o.usd_per_million_tokens is None else three(o.usd_per_million_tokens)
        f = o.finalist
        within = f"({three(f.low_s)} to {three(f.high_s)})"
        step = f"{seconds(f.step_time_s)} {within}" if f.drawn else f"about {seconds(f.step_time_s)}"
        cells = [f"{o.gpus:,}", f.candidate.title, step, f"{gib(f.memory_bytes)}, {gib(o.headroom_bytes)}", usd]
        table.add_row(*cells, *([o.why] if why else []))
    return table


def _verdicts(plan: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="the best of every obvious choice", title_justify="left")
    table.add_column("choice")
    table.add_column("its best layout")
    table.add_column("step", justify="right")
    table.add_column("beside the best of all", overflow="fold")
    for v in plan.verdicts:
        table.add_row(
            v.choice, v.candidate, "" if v.step_time_s is None else f"{v.about}{seconds(v.step_time_s)}", v.why
        )
    return table
