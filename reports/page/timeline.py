"""The step as a Gantt chart of pipeline ranks, as a picture inside the page."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import TYPE_CHECKING

from moesim.reports.figures.step import STYLE, add_lanes, add_legend, lanes_inches
from moesim.reports.figures.wires import add_wires, wires_inches
from moesim.reports.page.section import Section
from moesim.reports.page.train_case import TrainCase
from moesim.reports.text import seconds
from moesim.sim.train.prediction import Prediction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 10.5  # inches: text as large as the page's
_AXIS, _LEGEND = 0.5, 0.6  # inches below the lanes


def timeline(case: TrainCase) -> Section:
    """Ranks over time."""
    p = case.asked
    data = {
        "ranks": len(p.step.timeline.ranks()),
        "micro_batches": p.resolved.job.micro_batches,
        "schedule": p.resolved.job.layout.schedule,
        "makespan_s": p.step.timeline.makespan_s,
        "bubble_s": p.breakdown_s.get("bubble", 0.0),
        "wires": p.wires.to_dict(),
    }
    shown = {"picture": picture(lanes_figure(p)), "alt": f"timeline of one step of {case.name}"}
    if p.wires.loads:
        shown |= {"wires": picture(wires_figure(p)), "wires_alt": f"wires in use in one step of {case.name}"}
    return Section("timeline", "The step over time", _lead(p), data, shown)


def _lead(p: Prediction) -> str:
    lay, job = p.resolved.job.layout, p.resolved.job
    if lay.pp == 1:
        return f"No pipeline: all GPUs do the same {job.micro_batches} micro-batches side by side."
    bubble = p.breakdown_s.get("bubble", 0.0)
    return (
        f"{lay.pp} pipeline ranks, {job.micro_batches} micro-batches, schedule {lay.schedule}: ranks stand idle for "
        f"{seconds(bubble)} of {seconds(p.step_time_s)} ({bubble / p.step_time_s:.0%})."
    )


def lanes_figure(p: Prediction) -> Figure:
    """The Gantt chart alone."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lanes = min(5.0, lanes_inches(p))
    height = lanes + _AXIS + _LEGEND + 0.1
    with rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, height), facecolor="white")
        FigureCanvasAgg(figure)
        drawn = add_lanes(figure, p, (_AXIS + _LEGEND) / height, lanes / height, _WIDTH)
        add_legend(figure, drawn, 0.4 * _LEGEND / height, _WIDTH)
    return figure


def wires_figure(p: Prediction) -> Figure:
    """How full NICs and scale-up links are over the step, alone."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, wires_inches(p.wires)), facecolor="white")
        FigureCanvasAgg(figure)
        add_wires(figure, p.wires, 0.0, 0.85, _WIDTH - 0.2)
    return figure


def picture(figure: Figure) -> str:
    """A figure as a data URI: SVG with text as outlines, the same bytes every time."""
    from matplotlib import rc_context

    buffer = BytesIO()
    with rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + b64encode(buffer.getvalue()).decode("ascii")
