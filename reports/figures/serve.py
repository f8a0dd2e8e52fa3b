"""One picture of a served load: latencies, the frontier, batch and KV over time, and who gets the tokens."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from moesim.reports.figures.experts import add_experts, experts_inches
from moesim.reports.figures.files import check_format, save
from moesim.reports.figures.palette import INK, LIMIT, PHASES
from moesim.reports.figures.step import STYLE
from moesim.reports.tables.serve import deployment_text
from moesim.sim.serve.accounts import latencies_of
from moesim.sim.serve.frontier import frontier

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moesim.sim.serve.prediction import ServePrediction

_BLUE, _ORANGE, _GREEN = PHASES["F"], PHASES["B"], PHASES["W"]
_WIDTH, _LEFT, _RIGHT = 12.0, 0.55, 0.1  # inches, and beside the experts' panel
_TITLE = 150  # letters of a line over the picture


def write_serve_figure(p: ServePrediction, path: str | Path) -> None:
    """Draw the run and write it. OutputError for an unknown format or a file that cannot be written."""
    from matplotlib import rc_context

    check_format(path)
    with rc_context(STYLE):
        save(serve_figure(p), path)


def serve_figure(p: ServePrediction, experts: bool = True) -> Figure:
    """The picture as a matplotlib figure, without pyplot: nothing global is touched.

    experts: with a panel of who gets the tokens, where they are drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    view = p.experts if experts and p.experts is not None and p.experts.drawn else None
    below = 0.0 if view is None else experts_inches(view)
    high = 7.2 + below
    figure = Figure(figsize=(_WIDTH, high), layout=ConstrainedLayoutEngine(rect=(0.0, below / high, 1.0, 7.2 / high)))
    FigureCanvasAgg(figure)
    job = p.resolved.deployment.job
    title = f"{job.arch.name} on {job.cluster.gpu.name}, {job.engine.title}: {deployment_text(p)}"
    figure.suptitle("\n".join(wrap(title, _TITLE)), fontsize=11)
    axes = figure.subplots(2, 2)
    _latencies(axes[0][0], p)
    _frontier(axes[0][1], p)
    _batch(axes[1][0], p)
    _cache(axes[1][1], p)
    if view is not None:
        add_experts(figure, view, 0.0, _LEFT, _WIDTH - _RIGHT)
    for row in axes:
        for ax in row:
            ax.grid(True, color="#E4E4E4", linewidth=0.6)
            ax.set_axisbelow(True)
            for side in ("top", "right"):
                ax.spines[side].set_visible(False)
    return figure


def _cumulative(ax: Axes, values: Any, colour: str, label: str) -> None:
    ordered = np.sort(values) * 1e3
    ax.plot(ordered, np.arange(1, len(ordered) + 1) / len(ordered), color=colour, label=label)


def _latencies(ax: Axes, p: ServePrediction) -> None:
    latency = latencies_of(p.run, p.warmup_requests)
    slo = p.resolved.ask.slo
    _cumulative(ax, latency.ttft_s, _BLUE, f"first token, mean {p.ttft_s.mean * 1e3:.4g} ms")
    if len(latency.tpot_s):
        _cumulative(ax, latency.tpot_s, _ORANGE, f"each further token, mean {p.tpot_s.mean * 1e3:.4g} ms")
    ax.axvline(slo.ttft_s * 1e3, color=_BLUE, linestyle=":", linewidth=1.0, label="limits of the SLO")
    ax.axvline(slo.tpot_s * 1e3, color=_ORANGE, linestyle=":", linewidth=1.0)
    ax.set_xscale("log")
    ax.set_xlabel("milliseconds")
    ax.set_ylabel("share of requests below")
    ax.set_ylim(0.0, 1.02)
    ax.set_title("Latency")
    ax.legend(facecolor="white", edgecolor="none", framealpha=0.9, loc="lower right", fontsize=8)


def _frontier(ax: Axes, p: ServePrediction) -> None:
    points = frontier(p.resolved)
    users = [1.0 / t.tpot_s for t in points]
    ax.plot(users, [t.output_tokens_per_s_per_gpu for t in points], color=_GREEN, marker="o", markersize=4)
    for point, x in zip(points, users, strict=True):
        label = (x, point.output_tokens_per_s_per_gpu)
        ax.annotate(f"{point.clients}", label, textcoords="offset points", xytext=(4, 4), fontsize=7, color=INK)
    if p.tpot_s.mean > 0:
        ax.plot([1.0 / p.tpot_s.mean], [p.output_tokens_per_s_per_gpu], "D", color=LIMIT, label="this load")
        ax.legend(frameon=False, fontsize=8)
    ax.set_xlabel("tokens/s per user")
    ax.set_ylabel("output tokens/s per GPU")
    ax.set_xlim(left=0.0)
    ax.set_ylim(bottom=0.0)
    ax.set_title("Throughput against interactivity, by number of clients")


def _batch(ax: Axes, p: ServePrediction) -> None:
    over = p.over_time()
    ax.step(over["time_s"], over["running"], where="pre", color=_BLUE, linewidth=1.0, label="running")
    ax.step(over["time_s"], over["waiting"], where="pre", color=_ORANGE, linewidth=1.0, label="waiting")
    ax.set_xlabel("seconds")
    ax.set_ylabel("sequences of one replica")
    ax.set_ylim(bottom=0.0)
    ax.set_title("Batch and queue over time")
    ax.legend(frameon=False, fontsize=8)


def _cache(ax: Axes, p: ServePrediction) -> None:
    over = p.over_time()
    room = p.kv_blocks * p.run.machine.cache.block_tokens
    ax.fill_between(over["time_s"], np.array(over["cached_tokens"]) / 1e3, color=_GREEN, alpha=0.35)
    held = max(over["cached_tokens"], default=0.0)
    if room < 5 * held:
        ax.axhline(room / 1e3, color=LIMIT, linewidth=1.2, label="room")
        ax.legend(frameon=False, fontsize=8)
    ax.set_xlabel("seconds")
    ax.set_ylabel("thousand cached tokens of one replica")
    ax.set_ylim(bottom=0.0)
    ax.set_title(f"KV cache: at most {held / max(1, room):.0%} of {room / 1e3:,.0f} thousand tokens")


__all__ = ["serve_figure", "write_serve_figure"]
