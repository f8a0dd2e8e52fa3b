"""The picture of a plan: step time against GPUs or memory; for serving, tokens/s of a GPU against those of a user."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from moesim.hwmodels.units import GIB
from moesim.reports.figures.files import save
from moesim.reports.figures.palette import INK, LIMIT, PHASES
from moesim.reports.figures.step import STYLE
from moesim.reports.text import gpus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moesim.sim.plan.serve.plan import ServePlan
    from moesim.sim.plan.train.plan import Plan

_COLOURS = (PHASES["F"], PHASES["B"], PHASES["W"], LIMIT, PHASES["FB"], "#56B4E9", "#7F7F7F", INK)


def _blank(title: str) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=10.5)
    axes.grid(True, color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def plan_figure(plan: Plan) -> Figure:
    """All simulated layouts, and the front."""
    from matplotlib import rc_context

    several = len(plan.searches) > 1
    with rc_context(STYLE):
        other = "cheaper" if several else "smaller"
        figure, axes = _blank(f"simulated layouts; the line: nothing is both faster and {other}")
        for search, colour in zip(plan.searches, _COLOURS * len(plan.searches), strict=False):
            x = [search.gpus if several else f.memory_bytes / GIB for f in search.finalists]
            axes.scatter(x, [f.step_time_s for f in search.finalists], s=16, alpha=0.55, color=colour, linewidths=0)
        front = sorted(plan.pareto, key=lambda o: o.gpus if several else o.finalist.memory_bytes)
        xs = [o.gpus if several else o.finalist.memory_bytes / GIB for o in front]
        axes.plot(xs, [o.finalist.step_time_s for o in front], color=INK, marker="o", markersize=4, linewidth=1.2)
        best = plan.options[0]
        at = (best.gpus if several else best.finalist.memory_bytes / GIB, best.finalist.step_time_s)
        title = f"best: {best.finalist.candidate.title}"
        axes.plot(*at, marker="D", color=LIMIT, markersize=7, linestyle="none", label=title)
        axes.set_xlabel("GPUs" if several else "GiB of the fullest GPU")
        axes.set_ylabel("seconds per step")
        if several:
            axes.set_xscale("log", base=2)
            axes.set_xticks([s.gpus for s in plan.searches], [f"{s.gpus:,}" for s in plan.searches])
            axes.set_ylim(bottom=0.0)
        figure.legend(frameon=False, fontsize=8, loc="outside lower center")
    return figure


def serve_plan_figure(plan: ServePlan) -> Figure:
    """The front under ever more clients; a colour per deployment, the number of clients at every point."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure, axes = _blank("what users and GPUs get, by number of clients; nothing gives both more")
        front = sorted(plan.front, key=lambda p: p.tokens_per_s_per_user)
        users, rates = [p.tokens_per_s_per_user for p in front], [p.tokens_per_s_per_gpu for p in front]
        axes.plot(users, rates, color="#BDBDBD", linewidth=1.2, zorder=1)
        names = list(dict.fromkeys(f"{p.deployment}, {gpus(p.gpus)}" for p in front))
        for name, colour in zip(names, _COLOURS * len(names), strict=False):
            own = [p for p in front if f"{p.deployment}, {gpus(p.gpus)}" == name]
            x, y = [p.tokens_per_s_per_user for p in own], [p.tokens_per_s_per_gpu for p in own]
            axes.scatter(x, y, s=34, color=colour, label=name, zorder=2)
            for p in own:
                at = (p.tokens_per_s_per_user, p.tokens_per_s_per_gpu)
                axes.annotate(f"{p.clients:,}", at, textcoords="offset points", xytext=(5, 4), fontsize=7.5, color=INK)
        if plan.must:
            axes.axvline(1.0 / plan.slo.tpot_s, color=LIMIT, linestyle="--", linewidth=1.0)
            limit = (1.0 / plan.slo.tpot_s, 0.02)
            axes.annotate(
                f" {plan.slo.tpot_s * 1e3:g} ms a token", limit, xycoords=("data", "axes fraction"), color=LIMIT
            )
        axes.set_xlabel("tokens/s per user")
        axes.set_ylabel("output tokens/s per GPU")
        axes.set_xlim(left=0.0)
        axes.set_ylim(bottom=0.0)
        axes.legend(frameon=False, fontsize=8)
    return figure


def write_plan_figure(plan: Plan | ServePlan, path: Path) -> None:
    """Draw it into a file."""
    from matplotlib import rc_context

    from moesim.sim.plan.serve.plan import ServePlan

    with rc_context(STYLE):
        save(serve_plan_figure(plan) if isinstance(plan, ServePlan) else plan_figure(plan), path)
