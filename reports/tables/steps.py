"""Many steps of a run as a table: how long they take, how far they lie apart, and what they wait for."""

from __future__ import annotations

from itertools import pairwise
from math import floor, log10

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moesim.reports.tables.train import CATEGORY_TITLES
from moesim.sim.train.many_steps import ManySteps

WAITS = ("imbalance", "slow_gpu", "bubble")  # categories that the spread of ranks and steps moves
_BARS = "▁▂▃▄▅▆▇█"
_WIDE = 50  # characters of the row of bars


def steps_report(run: ManySteps) -> RenderableType:
    """Everything that a person wants to see of many steps."""
    table = Table(box=box.ROUNDED, show_header=False, pad_edge=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    say = shown(run)
    seconds = [step.step_time_s for step in run.steps]
    count = len(seconds)
    if run.alike:
        table.add_row("all alike", f"{say(run.mean_s)} s: nothing is drawn (balanced routing, no jitter)")
    else:
        table.add_row("mean", f"{say(run.mean_s)} s, standard deviation {say(run.sd_s)} s ({_share(run)})")
        quantiles = "   ".join(f"p{round(100 * q)} {say(run.quantile_s(q))} s" for q in (0.5, 0.95, 0.99))
        table.add_row("quantiles", quantiles)
        table.add_row("range", f"{say(min(seconds))} to {say(max(seconds))} s")
        table.add_row("first, last", f"{say(seconds[0])} s, {say(seconds[-1])} s")
        table.add_row("over the run", _bars(seconds))
    table.add_row("busiest rank", _busiest(run))
    for key in WAITS:
        if run.breakdown_s.get(key, 0.0) > 0.0:
            share = run.breakdown_s[key] / run.mean_s
            table.add_row(CATEGORY_TITLES[key], f"{say(run.breakdown_s[key])} s a step on average ({share:.1%})")
    title = Text(f"\n{count:,} step{'' if count == 1 else 's'}, 0 to {count - 1:,}", style="bold")
    return Group(title, table)


def shown(run: ManySteps) -> Digits:
    """How to print seconds of these steps so that what sets them apart can be seen."""
    size = run.sd_s if run.sd_s > 0.0 else run.mean_s / 10.0
    return Digits(min(9, max(0, 1 - floor(log10(size)))))


class Digits:
    """Prints seconds with so many decimals."""

    def __init__(self, decimals: int) -> None:
        self.decimals = decimals

    def __call__(self, value: float) -> str:
        """The number alone."""
        return f"{value:,.{self.decimals}f}"


def _share(run: ManySteps) -> str:
    return f"{run.sd_s / run.mean_s:.2%} of the mean"


def _busiest(run: ManySteps) -> str:
    each = [step.busiest_ratio for step in run.steps]
    if max(each) == 1.0:
        return "every expert-parallel rank gets as many rows"
    text = f"{run.busiest_ratio:.3f} times the rows of the mean rank"
    return text if min(each) == max(each) else f"{text} ({min(each):.3f} to {max(each):.3f})"


def _bars(seconds: list[float]) -> str:
    """One character per step, or per stretch of steps (their mean), low to high."""
    stretches = min(_WIDE, len(seconds))
    edges = [round(i * len(seconds) / stretches) for i in range(stretches + 1)]
    means = [sum(seconds[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    if high == low:
        return _BARS[0] * stretches
    return "".join(_BARS[round((m - low) / (high - low) * (len(_BARS) - 1))] for m in means)
