"""One picture of a training step: stages over time, where the seconds go, and what fills the memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.hwmodels.units import GIB
from moesim.reports.figures.experts import add_experts, experts_inches
from moesim.reports.figures.files import check_format, save
from moesim.reports.figures.gantt import Window, draw_lanes, windows
from moesim.reports.figures.many_steps import STEPS_INCHES, add_steps
from moesim.reports.figures.palette import BUBBLE, CLASS_OF, CLASSES, INK, LIMIT, MEMORY
from moesim.reports.figures.wires import add_wires, wires_inches
from moesim.reports.tables.train import CATEGORY_TITLES, batch_line, layout_line, lost_lines
from moesim.reports.text import seconds, three

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moesim.sim.train.many_steps import ManySteps
    from moesim.sim.train.prediction import Prediction

WIDTH = 15.0  # inches
_WIDE = 12.0  # inches from which a long legend has room in one row
_LEFT, _RIGHT = 0.9, 0.25  # inches beside the lanes
_TITLE_CHARACTERS = 165  # of the line of numbers, over the whole width
STYLE: Any = {
    "font.size": 9.0,
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.7,
    "axes.labelcolor": INK,
    "text.color": INK,
    "svg.hashsalt": "moesim",  # same picture, same bytes
}


def write_figure(p: Prediction, path: str | Path, run: ManySteps | None = None) -> None:
    """Draw the step (and many of them). OutputError for an unknown format or a file that cannot be written."""
    from matplotlib import rc_context

    check_format(path)
    with rc_context(STYLE):
        save(step_figure(p, run), path)


def step_figure(p: Prediction, run: ManySteps | None = None) -> Figure:
    """The picture as a matplotlib figure, without pyplot: nothing global is touched.

    Below the step: who got the tokens, where experts were drawn, and many steps, where they were run.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    categories = len(_shown_categories(p))
    lanes = lanes_inches(p)
    lower = max(2.3, 0.2 * categories + 0.3)
    view = p.experts if p.experts is not None and p.experts.drawn else None
    steps = STEPS_INCHES if run is not None else 0.0
    experts = experts_inches(view) if view is not None else 0.0
    wires = wires_inches(p.wires)
    head, legend, foot = 1.08, 1.05, 0.55 + steps + experts + wires
    height = head + lanes + legend + lower + foot
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    _title(figure, p, height)
    bottom = (foot + lower + legend) / height
    drawn = add_lanes(figure, p, bottom, lanes / height)
    add_legend(figure, drawn, (foot + lower + 0.36) / height)
    if p.resolved.job.layout.vpp > 1 or p.resolved.job.layout.schedule == "dualpipe":
        note = "numbers: micro-batches; lighter shades: a rank's further model chunks"
        figure.text(_LEFT / WIDTH, (foot + lower + 0.16) / height, note, fontsize=8.8, va="center", color="#555555")
    left = figure.add_axes((3.05 / WIDTH, foot / height, 5.2 / WIDTH, (lower - 0.25) / height))
    _breakdown(left, p)
    right = figure.add_axes((9.35 / WIDTH, foot / height, 3.9 / WIDTH, (lower - 0.25) / height))
    _memory(right, p)
    if wires:
        add_wires(figure, p.wires, steps + experts, _LEFT, WIDTH - _RIGHT)
    if view is not None:
        add_experts(figure, view, steps, _LEFT, WIDTH - _RIGHT)
    if run is not None:
        add_steps(figure, run, 0.0, _LEFT, WIDTH - _RIGHT)
    return figure


def lanes_inches(p: Prediction) -> float:
    """Height of the Gantt chart in inches."""
    return min(9.0, max(1.1, 0.34 * len(p.step.timeline.ranks())))


def _title(figure: Figure, p: Prediction, height: float) -> None:
    job = p.resolved.job
    x = _LEFT / WIDTH
    head = f"{job.arch.name} on {job.cluster.name}: {seconds(p.step_time_s)} per step"
    figure.text(x, 1 - 0.32 / height, head, fontsize=15, fontweight="bold", va="center")
    bubble = p.breakdown_s.get("bubble", 0.0) / p.step_time_s
    numbers = (
        f"90 % interval {three(p.low_s)} to {seconds(p.high_s)}   |   "
        f"{p.tokens_per_s_per_gpu:,.0f} tokens/s per GPU   |   MFU {p.mfu:.1%}   |   bubble {bubble:.1%}"
    )
    for line in lost_lines(p):  # as many as the picture is wide
        numbers += f"   |   {line}" if len(numbers) + len(line) < _TITLE_CHARACTERS else ""
    figure.text(x, 1 - 0.6 / height, numbers, fontsize=10.5, va="center")
    layout = f"{layout_line(p)}; {batch_line(p)}; stack {job.stack.name}"
    figure.text(x, 1 - 0.82 / height, layout, fontsize=9.5, va="center", color="#555555")


def add_lanes(
    figure: Figure, p: Prediction, bottom: float, height: float, wide: float = WIDTH
) -> list[tuple[str, Any]]:
    """The Gantt chart: one pair of axes, or two with a cut between them."""
    inches = wide - _LEFT - _RIGHT
    parts = windows(p, inches)
    gap = 0.012 if len(parts) > 1 else 0.0
    width = (inches / wide - gap) / len(parts)
    drawn: dict[str, Any] = {}
    for i, window in enumerate(parts):
        axes = figure.add_axes((_LEFT / wide + i * (width + gap), bottom, width, height))
        drawn |= dict(draw_lanes(axes, p, window))
        _finish_lanes(axes, p, window, first=i == 0)
        if len(parts) > 1:
            _cut(axes, at_right=i == 0)
    if len(parts) > 1:
        hidden = parts[1].start_s - parts[0].end_s
        text = f"{seconds(hidden)} of steady state not shown"
        x, y = _LEFT / wide + width + gap / 2, bottom - 0.4 * height / lanes_inches(p)
        figure.text(x, y, text, ha="center", va="center", fontsize=9, color="#555555")
    return list(drawn.items())


def _finish_lanes(axes: Axes, p: Prediction, window: Window, first: bool) -> None:
    ranks = p.step.timeline.ranks()
    axes.set_xlim(window.start_s, window.end_s)
    axes.set_ylim(-0.1, len(ranks) + 0.02)
    axes.set_xlabel("seconds since the step began")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if not first:
        axes.set_yticks([])
        return
    every = max(1, len(ranks) // 16)
    shown = [row for row in range(len(ranks)) if row % every == 0]
    axes.set_yticks([len(ranks) - 0.5 - row for row in shown], [f"rank {ranks[row]}" for row in shown], fontsize=8.5)


def _cut(axes: Axes, at_right: bool) -> None:
    """The slanted marks of a cut axis."""
    x = 1.0 if at_right else 0.0
    slash: Any = [(-0.35, -1.0), (0.35, 1.0)]
    style: dict[str, Any] = {
        "linestyle": "none",
        "markersize": 11,
        "color": "#666666",
        "mew": 1.1,
        "clip_on": False,
    }
    axes.plot([x, x], [0.0, 1.0], marker=slash, transform=axes.transAxes, **style)


def add_legend(figure: Figure, drawn: list[tuple[str, Any]], y: float, wide: float = WIDTH) -> None:
    """One row that says what the colours of the lanes are, at height `y` of the figure."""
    from matplotlib.patches import Patch

    ordered = [pair for pair in drawn if pair[1] != BUBBLE] + [pair for pair in drawn if pair[1] == BUBBLE]
    handles = [Patch(facecolor=colour, label=label) for label, colour in ordered]
    figure.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(_LEFT / wide - 0.008, y),
        ncols=len(handles) if wide >= _WIDE or len(handles) <= 5 else -(-len(handles) // 2),
        frameon=False,
        fontsize=8.8,
        handlelength=1.2,
        columnspacing=1.3,
    )


def _breakdown(axes: Axes, p: Prediction) -> None:
    """One bar per category, largest first, coloured by what kind of time it is."""
    from matplotlib.patches import Patch

    parts = _shown_categories(p)
    for row, (key, value) in enumerate(parts):
        colour = CLASSES[CLASS_OF.get(key, "waiting")]
        axes.barh(row, value, color=colour, height=0.74)
        axes.annotate(
            f"{three(value)} s   {value / p.step_time_s:.1%}",
            (value, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    axes.set_yticks(range(len(parts)), [CATEGORY_TITLES.get(k, k) for k, _ in parts], fontsize=8.5)
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.set_xlim(0, max(v for _, v in parts) * 1.2)
    axes.set_xlabel("seconds of the step, mean over ranks")
    axes.set_title("Where the step goes", loc="left", fontsize=10.5, fontweight="bold")
    _bare(axes)
    used = {CLASS_OF.get(k, "waiting") for k in p.breakdown_s}
    handles = [Patch(facecolor=c, label=name) for name, c in CLASSES.items() if name in used]
    axes.legend(handles=handles, loc="lower right", frameon=False, fontsize=8.5)


def _shown_categories(p: Prediction) -> list[tuple[str, float]]:
    """Categories, largest first; what is below 0.1 % of the step is put together."""
    limit = 0.001 * p.step_time_s
    shown = sorted(((k, v) for k, v in p.breakdown_s.items() if v >= limit), key=lambda kv: -kv[1])
    rest = sum(v for v in p.breakdown_s.values() if v < limit)
    return shown + ([("everything else", rest)] if rest > 0 else [])


def _memory(axes: Axes, p: Prediction) -> None:
    """One stacked bar per rank, with the limit of the GPU."""
    bottoms = [0.0] * len(p.memory)
    ranks = [m.rank for m in p.memory]
    for kind, colour in MEMORY.items():
        sizes = [m.by_kind().get(kind, 0.0) / GIB for m in p.memory]
        axes.bar(ranks, sizes, bottom=bottoms, color=colour, label=kind, width=0.8)
        bottoms = [b + s for b, s in zip(bottoms, sizes, strict=True)]
    limit = p.usable_bytes / GIB
    axes.axhline(limit, color=LIMIT, lw=1.4, ls="--")
    axes.annotate(
        f"{limit:.1f} GiB usable", (1, limit), xycoords=("axes fraction", "data"), xytext=(-2, 3),
        textcoords="offset points", ha="right", fontsize=8.5, color=LIMIT,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0},
    )  # fmt: skip
    axes.set_ylim(0, max(limit, *bottoms) * 1.14)
    axes.set_xlim(min(ranks) - 0.6, max(ranks) + 0.6)
    axes.set_xticks(ranks[:: max(1, len(ranks) // 16)])
    axes.set_xlabel("pipeline rank")
    axes.set_ylabel("GiB at the peak")
    axes.set_title("Memory per GPU", loc="left", fontsize=10.5, fontweight="bold")
    _bare(axes)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8.5)


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5)
