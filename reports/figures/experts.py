"""Who gets the tokens, as a picture: experts over layers as a heat map, and what every layer waits for beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from moesim.reports.figures.palette import INK, LESS, LIMIT, MORE, PHASES
from moesim.reports.text import si

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

_MOST_NUMBERS = 16  # experts up to which every cell says its number
_LEAST_SCALE, _MOST_SCALE = 1.1, 4.0  # rows over the mean at the ends of the colour scale
_FOOT, _HEAD = 0.66, 0.42  # inches for the axis below and the title above
_GAP = 0.55  # inches between the panels
_SCALE, _BAR = 0.72, 0.13  # inches of the colour bar with its words, and without


class LayerInSight(Protocol):
    """One layer, as a training step or a pass of a deployment shows it."""

    @property
    def place(self) -> int:
        """In the model, from 0."""
        ...

    @property
    def busiest_rank_ratio(self) -> float:
        """Rows of the busiest rank over the mean."""
        ...

    @property
    def worst_rank_ratio(self) -> float:
        """The largest that was drawn; the same where passes are priced by what is expected."""
        ...


class LoadInSight(Protocol):
    """Who gets the tokens: sim/train/expert_view.py of a step, sim/serve/expert_view.py of a pass."""

    per: str  # "step" or "pass"

    @property
    def layers(self) -> Sequence[LayerInSight]:
        """In model order."""
        ...

    @property
    def over_mean(self) -> npt.NDArray[np.float64]:
        """[layers, experts] of an expert over the mean of its layer."""
        ...

    @property
    def busiest_expert_ratio(self) -> float:
        """Over the mean, averaged over layers."""
        ...

    @property
    def busiest_rank_ratio(self) -> float:
        """Over the mean, averaged over layers."""
        ...

    @property
    def rank_rows(self) -> npt.NDArray[np.float64]:
        """Of all layers [ranks]."""
        ...

    @property
    def between(self) -> str | None:
        """What rows and columns of the exchange are; None where nothing is sent."""
        ...

    @property
    def exchange_bytes(self) -> npt.NDArray[np.float64]:
        """Dispatched, all layers, from each rank, domain or group (row) to each other."""
        ...


def experts_inches(view: LoadInSight) -> float:
    """Height of the panel in inches."""
    return _HEAD + _FOOT + min(4.4, max(1.3, 0.115 * len(view.layers)))


def add_experts(figure: Figure, view: LoadInSight, bottom: float, left: float, right: float) -> None:
    """Heat map (experts by layers), busiest rank of every layer, rows and exchange of ranks; all positions in inches.

    bottom: of the panel in the figure. left, right: ends of the room between which it lies.
    """
    wide, high = figure.get_size_inches()
    inner = experts_inches(view) - _HEAD - _FOOT
    sent = bool(view.exchange_bytes.any())
    shares = (0.45, 0.16, 0.19, 0.2) if sent else (0.57, 0.2, 0.23)
    room = right - left - _SCALE - len(shares[1:]) * _GAP
    edges, x = [], left
    for n, share in enumerate(shares):
        edges.append((x, share * room))
        x += share * room + (_SCALE if n == 0 else 0.0) + _GAP
    heat, curve, ranks, *wires = (
        figure.add_axes((x / wide, (bottom + _FOOT) / high, w / wide, inner / high)) for x, w in edges
    )
    (begin, width), *_ = edges
    bar = figure.add_axes(((begin + width + 0.1) / wide, (bottom + _FOOT) / high, _BAR / wide, inner / high))
    draw_heat(heat, bar, view)
    draw_busiest(curve, view)
    draw_ranks(ranks, view)
    for axes in wires:
        draw_exchange(axes, view)


def draw_heat(axes: Axes, bar: Axes, view: LoadInSight) -> None:
    """Rows over the layer's mean: white is the mean, orange more, blue less; on a scale of factors."""
    from matplotlib.cm import ScalarMappable

    table = view.over_mean
    norm, scale, most = _factors(table)
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


def draw_busiest(axes: Axes, view: LoadInSight) -> None:
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
    grey = "\n(grey: worst micro-batch)" if worst != busiest else ""
    axes.set_xlabel(f"times the mean rank's rows{grey}")
    axes.set_title(f"Busiest rank: {view.busiest_rank_ratio:.2f} x", loc="left", fontsize=10.5, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)


def draw_ranks(axes: Axes, view: LoadInSight) -> None:
    """What each rank gets over all layers of the step: what one layer piles up, others even out."""
    rows = view.rank_rows / view.rank_rows.mean()
    edges = np.arange(len(rows) + 1) - 0.5
    axes.stairs(rows, edges, fill=True, color=PHASES["F"])
    axes.axhline(1.0, color=INK, linewidth=0.8)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0.0, max(1.15, 1.1 * rows.max()))
    sent_bytes = view.exchange_bytes.sum() / len(rows)
    sent = f"\n(each dispatches {si(sent_bytes, 'B')} a {view.per})" if sent_bytes > 0.0 else ""
    axes.set_xlabel(f"expert-parallel rank{sent}")
    axes.set_title("All layers together", loc="left", fontsize=10.5, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)


def draw_exchange(axes: Axes, view: LoadInSight) -> None:
    """Who sends how much to whom, senders down and receivers across, in the colours of the heat map: white is even."""
    sent = view.exchange_bytes
    over_mean = sent / sent.mean()
    norm, scale, most = _factors(over_mean)
    axes.imshow(
        np.clip(over_mean, 1.0 / most, most), aspect="auto", cmap=scale, norm=norm, interpolation="nearest"
    )  # fmt: skip
    axes.set_ylabel("sends")
    span = f"{over_mean.min():.2f} to {over_mean.max():.2f} x"
    axes.set_xlabel(f"receives ({span})\nmean pair {si(float(sent.mean()), 'B')}")
    axes.set_title(f"Exchange of {view.between}", loc="left", fontsize=10.5, fontweight="bold")
    axes.tick_params(labelsize=8)


def _factors(table: npt.NDArray[np.float64]) -> tuple[Normalize, Colormap, float]:
    """A scale of factors around one: white is the mean, orange more, blue less; and its end."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    most = min(_MOST_SCALE, max(_LEAST_SCALE, float(np.nanmax(table))))
    scale = LinearSegmentedColormap.from_list("rows over mean", [LESS, "#FFFFFF", MORE])
    return LogNorm(1.0 / most, most), scale, most


def _layer_ticks(axes: Axes, view: LoadInSight) -> None:
    every = max(1, -(-len(view.layers) // 12))
    rows = list(range(0, len(view.layers), every))
    axes.set_yticks(rows, [str(view.layers[row].place) for row in rows])
    axes.tick_params(labelsize=8)
