"""Who gets the tokens of a training step, and what it costs that ranks wait for the busiest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moesim.reports.figures.experts import add_experts, experts_inches
from moesim.reports.figures.step import STYLE
from moesim.reports.page.section import Section
from moesim.reports.page.timeline import picture
from moesim.reports.page.train_case import TrainCase
from moesim.reports.tables.train import LOST_TITLES
from moesim.reports.text import seconds
from moesim.sim.train.expert_view import ExpertView
from moesim.sim.train.prediction import Prediction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 12.0  # inches; three panels side by side
_LEFT, _RIGHT = 0.55, 0.1


def experts(case: TrainCase) -> list[Section]:
    """One section where experts get different numbers of tokens, none elsewhere."""
    p = case.asked
    if p.experts is None or not p.experts.drawn:
        return []
    lost = [
        (LOST_TITLES[name], seconds(abs(value)), f"{value / p.step_time_s:.1%}") for name, value in p.lost_s.items()
    ]
    data = {"experts": p.experts.to_dict(), "lost_s": p.lost_s}
    shown = {
        "picture": picture(experts_figure(p.experts)),
        "alt": f"tokens per expert and layer of {case.name}, and the busiest rank of every layer",
        "columns": ["what sets ranks apart", "costs", "of the step"],
        "lost": lost,
    }
    return [Section("experts", "Who gets the tokens", _lead(p, p.experts), data, shown)]


def _lead(p: Prediction, view: ExpertView) -> str:
    ranks = p.resolved.job.layout.ep
    busiest = f"The busiest expert of a layer gets {view.busiest_expert_ratio:.2f} times the mean"
    if ranks == 1:
        return f"{busiest}; every GPU holds all of them, so nobody waits for another."
    waits = f"{busiest}, the busiest of {ranks} ranks {view.busiest_rank_ratio:.2f} times; the others wait for it"
    if "busiest_rank" not in p.lost_s:
        return f"{waits}."
    lost = p.lost_s["busiest_rank"]
    return f"{waits}, which costs {seconds(max(0.0, lost))} of the step ({max(0.0, lost) / p.step_time_s:.0%})."


def experts_figure(view: ExpertView) -> Figure:
    """The panel alone."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, experts_inches(view)), facecolor="white")
        FigureCanvasAgg(figure)
        add_experts(figure, view, 0.0, _LEFT, _WIDTH - _RIGHT)
    return figure
