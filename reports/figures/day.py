"""One picture of a day of traffic: what came, who served it, how long the first token took, what was within limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moesim.reports.figures.files import check_format, save
from moesim.reports.figures.palette import LIMIT, PHASES
from moesim.reports.figures.step import STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moesim.sim.serve.day_answer import DayPrediction

_BLUE, _ORANGE, _GREEN = PHASES["F"], PHASES["B"], PHASES["W"]


def write_day_figure(p: DayPrediction, path: str | Path) -> None:
    """Draw the day and write it. OutputError for an unknown format or a file that cannot be written."""
    from matplotlib import rc_context

    check_format(path)
    with rc_context(STYLE):
        save(day_figure(p), path)


def day_figure(p: DayPrediction) -> Figure:
    """The picture as a matplotlib figure, without pyplot: nothing global is touched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, MultipleLocator

    figure = Figure(figsize=(11.0, 8.0), layout="constrained")
    FigureCanvasAgg(figure)
    job = p.resolved.deployment.job
    money = "" if p.usd is None else f", {p.usd:,.0f} dollars"
    figure.suptitle(
        f"{job.arch.name} on {job.cluster.gpu.name}: {p.requests:,} requests, {p.attained_share:.1%} within the limits"
        f"{money}",
        fontsize=11,
    )
    traffic, replicas, first, share = figure.subplots(4, 1, sharex=True)
    hours = np.array([part.begin_s for part in p.parts]) / 3600.0
    _steps(traffic, hours, [part.requests_per_s for part in p.parts], _BLUE, "requests/s")
    traffic.set_title("What came", loc="left")
    _steps(replicas, hours, [part.paid_replicas for part in p.parts], _ORANGE, "replicas", label="paid for")
    _steps(replicas, hours, [part.ready_replicas for part in p.parts], _GREEN, "replicas", label="taking requests")
    replicas.set_title("Who served it", loc="left")
    replicas.legend(frameon=False, fontsize=8, loc="upper left")
    _first_token(first, p, hours)
    _within(share, p, hours)
    replicas.yaxis.set_major_locator(MaxNLocator(integer=True))
    share.xaxis.set_major_locator(MultipleLocator(3 if hours[-1] < 25 else 12))
    share.set_xlabel("hour of the day")
    share.set_xlim(0.0, hours[-1] + (hours[1] - hours[0]))
    return figure


def _steps(ax: Axes, hours: np.ndarray, values: list[float], colour: str, unit: str, label: str | None = None) -> None:
    ax.step(hours, values, where="post", color=colour, linewidth=1.4, label=label)
    ax.set_ylabel(unit)
    ax.set_ylim(bottom=0.0)
    ax.grid(True, color="#E4E4E4", linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _first_token(ax: Axes, p: DayPrediction, hours: np.ndarray) -> None:
    came = [part.requests > 0 for part in p.parts]
    for name, colour, label in (("ttft_p99_s", _ORANGE, "p99"), ("ttft_p50_s", _BLUE, "median")):
        values = [getattr(part, name) if some else float("nan") for part, some in zip(p.parts, came, strict=True)]
        _steps(ax, hours, values, colour, "seconds", label=label)
    ax.axhline(p.resolved.ask.slo.ttft_s, color=LIMIT, linestyle=":", linewidth=1.2, label="limit")
    shown = [part for part in p.parts if part.requests]
    least, most = min(part.ttft_p50_s for part in shown), max(part.ttft_p99_s for part in shown)
    ax.set_yscale("log")
    ax.set_ylim(0.5 * least, 3.0 * max(most, p.resolved.ask.slo.ttft_s))
    ax.set_title("Time to the first token", loc="left")
    ax.legend(frameon=False, fontsize=8, loc="upper left", ncols=3)


def _within(ax: Axes, p: DayPrediction, hours: np.ndarray) -> None:
    values = [100.0 * part.attained_share if part.requests else float("nan") for part in p.parts]
    _steps(ax, hours, values, _GREEN, "% of requests")
    ax.axhline(90.0, color=LIMIT, linestyle=":", linewidth=1.2)
    ax.set_ylim(0.0, 103.0)
    title = "Within the limits"
    if p.overloaded_since_s is not None:
        ax.axvspan(p.overloaded_since_s / 3600.0, hours[-1] + 1.0, color=LIMIT, alpha=0.12)
        title += f": overloaded since hour {p.overloaded_since_s / 3600.0:.4g}"
    ax.set_title(title, loc="left")
