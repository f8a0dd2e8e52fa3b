"""Who gets the tokens of a training step or of a deployment's passes, and what waiting for the busiest rank costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from moesim.reports.figures.experts import LoadInSight, add_experts, experts_inches
from moesim.reports.figures.step import STYLE
from moesim.reports.page.section import Section
from moesim.reports.page.serve_case import ServeCase
from moesim.reports.page.timeline import picture
from moesim.reports.page.train_case import TrainCase
from moesim.reports.tables.serve import waiting_text
from moesim.reports.tables.train import LOST_TITLES
from moesim.reports.text import seconds, three
from moesim.sim.train.expert_view import ExpertView
from moesim.sim.train.prediction import Prediction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLE = "Who gets the tokens"
_WIDTH = 12.0  # inches; three panels side by side
_LEFT, _RIGHT = 0.55, 0.1


def experts(case: TrainCase) -> list[Section]:
    """One section where experts get different numbers of tokens, none elsewhere."""
    p = case.asked
    if p.experts is None or not p.experts.drawn:
        return []
    lost = [
        (LOST_TITLES[name], _costs(value), f"{value / p.step_time_s:.1%}", _usd(p.lost_usd.get(name)))
        for name, value in p.lost_s.items()
    ]
    data = {"experts": p.experts.to_dict(), "lost_s": p.lost_s, "lost_usd": p.lost_usd}
    columns = ["what sets ranks apart", "costs", "of the step", "a step"]
    alt = f"tokens per expert and layer of {case.name}, and the busiest rank of every layer"
    return [Section("experts", _TITLE, _lead(p, p.experts), data, _shown(p.experts, alt, columns, lost))]


def served_experts(case: ServeCase) -> list[Section]:
    """The same of a deployment's passes; none for dense models, and where nobody waits for another rank."""
    view = case.asked.experts
    if view is None or not view.drawn:
        return []
    passes = (("decode pass", view.decode), ("pass with prompts", view.prefill))
    lost = [
        (f"busiest rank, mean {name}", _costs(w.waits_s), f"{w.share:.1%}", seconds(w.balanced_pass_s))
        for name, w in passes
        if w is not None
    ]
    lead = (
        f"The busiest expert of a layer is picked {view.busiest_expert_ratio:.2f} times as often as the mean, the "
        f"busiest of {view.ranks} ranks has {view.busiest_rank_ratio:.2f} times the mean rows of a decode pass. "
        f"Waiting for it costs, of all paid GPU time: {waiting_text(view)}."
    )
    columns = ["what is waited for", "costs", "of the pass", "balanced, the pass takes"]
    alt = f"tokens per expert of {case.name}, and the busiest rank of the layers that stand for all"
    return [Section("experts", _TITLE, lead, {"experts": view.to_dict()}, _shown(view, alt, columns, lost))]


def _shown(view: LoadInSight, alt: str, columns: list[str], lost: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    return {"picture": picture(experts_figure(view)), "alt": alt, "columns": columns, "lost": lost}


def _costs(value_s: float) -> str:
    """Of a column of costs, what is none as well."""
    return seconds(value_s) if value_s >= 0.0 else f"saves {seconds(-value_s)}"


def _usd(usd: float | None) -> str:
    return "" if usd is None else f"${three(abs(usd))}"


def _lead(p: Prediction, view: ExpertView) -> str:
    ranks = p.resolved.job.layout.ep
    busiest = f"The busiest expert of a layer gets {view.busiest_expert_ratio:.2f} times the mean"
    if ranks == 1:
        return f"{busiest}; every GPU holds all of them, so nobody waits for another."
    waits = f"{busiest}, the busiest of {ranks} ranks {view.busiest_rank_ratio:.2f} times; the others wait for it"
    if "busiest_rank" not in p.lost_s:
        return f"{waits}."
    lost = p.lost_s["busiest_rank"]
    usd = f", {_usd(p.lost_usd['busiest_rank'])} a step" if lost > 0.0 and p.lost_usd else ""
    return f"{waits}, which costs {seconds(max(0.0, lost))} of the step ({max(0.0, lost) / p.step_time_s:.0%}{usd})."


def experts_figure(view: LoadInSight) -> Figure:
    """The panel alone."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, experts_inches(view)), facecolor="white")
        FigureCanvasAgg(figure)
        add_experts(figure, view, 0.0, _LEFT, _WIDTH - _RIGHT)
    return figure
