"""Many steps of a run as a picture: how long each took, and how they are spread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moesim.files.words import counted
from moesim.reports.figures.palette import INK, LIMIT, PHASES
from moesim.reports.tables.steps import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moesim.sim.train.many_steps import ManySteps

STEPS_INCHES = 2.5  # height of the panel
_FOOT, _HEAD, _GAP = 0.52, 0.45, 1.6
_BLUE = PHASES["F"]


def add_steps(figure: Figure, run: ManySteps, bottom: float, left: float, right: float) -> None:
    """Step after step on the left, their distribution on the right, on one scale of seconds; positions in inches."""
    wide, high = figure.get_size_inches()
    inner, room = STEPS_INCHES - _FOOT - _HEAD, right - left
    series = figure.add_axes((left / wide, (bottom + _FOOT) / high, 0.62 * room / wide, inner / high))
    share = figure.add_axes(
        ((left + 0.62 * room + _GAP) / wide, (bottom + _FOOT) / high, (0.38 * room - _GAP) / wide, inner / high)
    )
    draw_series(series, run)
    draw_distribution(share, run)


def draw_series(axes: Axes, run: ManySteps) -> None:
    """Seconds of every step, with median and 99 % quantile."""
    seconds, say = [step.step_time_s for step in run.steps], shown(run)
    axes.plot(range(len(seconds)), seconds, color=_BLUE, linewidth=0.8, marker="o", markersize=2.2)
    for share, style in ((0.5, "-"), (0.99, "--")):
        value = run.quantile_s(share)
        axes.axhline(value, color=LIMIT, linewidth=1.0, linestyle=style)
        axes.annotate(
            f"p{round(100 * share)} {say(value)} s", (1.0, value), xycoords=("axes fraction", "data"), xytext=(3, 0),
            textcoords="offset points", va="center", fontsize=8, color=LIMIT, annotation_clip=False,
        )  # fmt: skip
    axes.set_xlabel("step")
    axes.set_ylabel("seconds")
    axes.set_xlim(-0.5, len(seconds) - 0.5)
    axes.ticklabel_format(useOffset=False, axis="y")
    title = f"{counted(len(seconds), 'step')}: {say(run.mean_s)} s, standard deviation {run.sd_s / run.mean_s:.2%}"
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)


def draw_distribution(axes: Axes, run: ManySteps) -> None:
    """Share of the steps that take at most so long."""
    ordered = sorted(step.step_time_s for step in run.steps)
    shares = [(i + 1) / len(ordered) for i in range(len(ordered))]
    axes.step(ordered, shares, where="post", color=_BLUE, linewidth=1.4)
    axes.axvline(run.mean_s, color=INK, linewidth=0.8)
    axes.annotate("mean", (run.mean_s, 1.02), xytext=(0, 1), textcoords="offset points", ha="center", fontsize=8)
    axes.set_ylim(0.0, 1.0)
    axes.set_xlabel("seconds of a step")
    axes.set_ylabel("share of steps below")
    axes.ticklabel_format(useOffset=False, axis="x")
    axes.locator_params(axis="x", nbins=5)
    axes.spines[["top", "right"]].set_visible(False)
