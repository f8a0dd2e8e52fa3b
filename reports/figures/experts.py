"""Who gets the tokens, as a picture: experts over layers as a heat map, and what every layer waits for beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moesim.reports.figures.palette import INK, LESS, LIMIT, MORE, PHASES
from moesim.reports.text import si

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moesim.sim.train.expert_view import ExpertView

_MOST_NUMBERS = 16  # experts up to which every cell says its number
_LEAST_SCALE, _MOST_SCALE = 1.1, 4.0  # rows over the mean at the ends of the colour scale
_FOOT, _HEAD = 0.66, 0.42  # inches for the axis below and the title above
_GAP = 0.55  # inches between the panels
_SCALE, _BAR = 0.72, 0.13  # inches of the colour bar with its words, and without


def experts_inches(view: ExpertView) -> float:
    """Height of the panel in inches."""
    return _HEAD + _FOOT + min(4.4, max(1.3, 0.115 * len(view.layers)))


def add_experts(figure: Figure, view: ExpertView, bottom: float, left: float, right: float) -> None:
    """Heat map (experts by layers), busiest rank of every layer, rows of every rank; all positions in inches.

    bottom: of the panel in the figure. left, right: ends of the room between which it lies.
    """
    wide, high = figure.get_size_inches()
    inner = experts_inches(view) - _HEAD - _FOOT
    room = right - left - _SCALE - 2.0 * _GAP
    parts = (0.57 * room, 0.2 * room, 0.23 * room)
    places = (left, left + parts[0] + _SCALE + _GAP, right - parts[2])
    heat, curve, ranks = (
        figure.add_axes((x / wide, (bottom + _FOOT) / high, w / wide, inner / high))
        for x, w in zip(places, parts, strict=True)
    )
    bar = figure.add_axes(((left + parts[0] + 0.1) / wide, (bottom + _FOOT) / high, _BAR / wide, inner / high))
    draw_heat(heat, bar, view)
    draw_busiest(curve, view)
    draw_ranks(ranks, view)


def draw_heat(axes: Axes, bar: Axes, view: ExpertView) -> None:
    """Rows over the layer's mean: white is the mean, orange more, blue less; on a scale of factors."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    table = view.over_mean
    most = min(_MOST_SCALE, max(_LEAST_SCALE, float(np.nanmax(table))))
    norm = LogNorm(1.0 / most, most)
    scale = LinearSegmentedColormap.from_list("rows over mean", [LESS, "#FFFFFF", MORE])
    colours = scale.with_extremes(bad="#DDDDDD")
    shown = np.clip(table, 1.0 / most, most)
    axes.imshow(shown, aspect="auto", cmap=colours, norm=norm, interpolation="nearest")
    layers, experts = table.shape
    if experts <= _MOST_NUMBERS and layers <= 40:
        for (row, column), value in np.ndenumerate(table):
            if np.isfinite(value):
                strong = abs(np.log(max(value, 1e-9))) > 0.75 * np.log(most)
                axes.text(
                    column, row, f"{value:.1f}" if value < 10 else f"{value:.0f}", ha="center", va="center",
                    fontsize=min(7.0, 260.0 / layers / 1.6), color="white" if strong else INK,
                )  # fmt: skip
    _layer_ticks(axes, view)
    axes.set_ylabel("layer")
    axes.set_xlabel("expert")
    title = f"Tokens per expert over the layer's mean: busiest {view.busiest_expert_ratio:.2f} x"
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
    axes.spines[:].set_visible(False)
    ticks = [1.0 / most, 1.0, most]
    key = axes.figure.colorbar(ScalarMappable(norm, colours), cax=bar, ticks=ticks)
    over = "+" if np.nanmax(table) > most else ""
    key.ax.set_yticklabels([f"{1.0 / most:.2g} x", "mean", f"{most:.2g} x{over}"], fontsize=8)
    key.ax.minorticks_off()
    key.outline.set_visible(False)


def draw_busiest(axes: Axes, view: ExpertView) -> None:
    """Layers down, as in the heat map: busiest rank over the mean, and the worst of its micro-batches."""
    rows = np.arange(len(view.layers))
    busiest = [layer.busiest_rank_ratio for layer in view.layers]
    worst = [layer.worst_rank_ratio for layer in view.layers]
    axes.hlines(rows, busiest, worst, color="#BBBBBB", linewidth=1.2)
    axes.plot(busiest, rows, color=LIMIT, marker="o", markersize=3, linewidth=0.9)
    axes.plot(worst, rows, linestyle="none", color="#888888", marker="|", markersize=5)
    axes.axvline(1.0, color=INK, linewidth=0.8)
    axes.set_xlim(min(0.98, 1.0 - 0.06 * (max(worst) - 1.0)), max(1.05, 1.0 + 1.08 * (max(worst) - 1.0)))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    _layer_ticks(axes, view)
    axes.set_xlabel("times the mean rank's rows\n(grey: worst micro-batch)")
    axes.set_title(f"Busiest rank: {view.busiest_rank_ratio:.2f} x", loc="left", fontsize=10.5, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)


def draw_ranks(axes: Axes, view: ExpertView) -> None:
    """What each rank gets over all layers of the step: what one layer piles up, others even out."""
    rows = view.rank_rows / view.rank_rows.mean()
    edges = np.arange(len(rows) + 1) - 0.5
    axes.stairs(rows, edges, fill=True, color=PHASES["F"])
    axes.axhline(1.0, color=INK, linewidth=0.8)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0.0, max(1.15, 1.1 * rows.max()))
    sent_bytes = view.exchange_bytes.sum() / len(rows)
    sent = f"\n(each dispatches {si(sent_bytes, 'B')} a step)" if sent_bytes > 0.0 else ""
    axes.set_xlabel(f"expert-parallel rank{sent}")
    axes.set_title("All layers together", loc="left", fontsize=10.5, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)


def _layer_ticks(axes: Axes, view: ExpertView) -> None:
    every = max(1, -(-len(view.layers) // 12))
    rows = list(range(0, len(view.layers), every))
    axes.set_yticks(rows, [str(view.layers[row].place) for row in rows])
    axes.tick_params(labelsize=8)
