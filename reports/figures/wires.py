"""How full wires are over a step, as a picture: a row per pipeline rank where there are several, else a curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moesim.reports.figures.palette import INK, MORE
from moesim.reports.tables.train import WIRE_TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moesim.sim.train.wire_load import WireLoad, WireView

_FOOT, _HEAD, _GAP = 0.55, 0.42, 0.55  # inches
_BAR, _BAR_ROOM = 0.13, 0.75  # inches of the colour bar, and with its words


def wires_inches(view: WireView) -> float:
    """Height of the panel in inches; 0 where nothing travels."""
    if not view.loads:
        return 0.0
    return _HEAD + _FOOT + min(2.4, max(0.9, 0.1 * len(view.loads[0].share)))


def add_wires(figure: Figure, view: WireView, bottom: float, left: float, right: float) -> None:
    """One picture per kind of wire, beside each other, on one scale from empty to full; positions in inches."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.ticker import MaxNLocator

    wide, high = figure.get_size_inches()
    inner, loads = wires_inches(view) - _HEAD - _FOOT, view.loads
    maps = len(loads[0].share) > 1
    room = right - left - (_BAR_ROOM if maps else 0.0) - _GAP * (len(loads) - 1)
    each = room / len(loads)
    scale = LinearSegmentedColormap.from_list("in use", ["#FFFFFF", MORE])
    for i, load in enumerate(loads):
        x = left + i * (each + _GAP)
        axes = figure.add_axes((x / wide, (bottom + _FOOT) / high, each / wide, inner / high))
        if maps:
            ends = (0.0, load.bin_s * load.over_time.shape[1], len(load.share) - 0.5, -0.5)
            axes.imshow(load.over_time, aspect="auto", extent=ends, cmap=scale, vmin=0.0, vmax=1.0)
            axes.set_ylabel("pipeline rank" if i == 0 else "")
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        else:
            _curve(axes, load)
        axes.set_xlabel("seconds since the step began")
        axes.set_title(_says(load), loc="left", fontsize=10.5, fontweight="bold")
        axes.spines[["top", "right"]].set_visible(False)
    if maps:
        bar = figure.add_axes(((right - _BAR_ROOM + 0.15) / wide, (bottom + _FOOT) / high, _BAR / wide, inner / high))
        marks = figure.colorbar(ScalarMappable(Normalize(0.0, 1.0), scale), cax=bar, ticks=[0.0, 0.5, 1.0])
        marks.ax.set_yticklabels(["idle", "50 %", "full"], fontsize=8)


def _curve(axes: Axes, load: WireLoad) -> None:
    seconds = (np.arange(load.over_time.shape[1]) + 0.5) * load.bin_s
    axes.fill_between(seconds, 100.0 * load.over_time[0], step="mid", color=MORE, alpha=0.6, linewidth=0.0)
    axes.axhline(100.0 * load.share[0], color=INK, linewidth=0.8)
    axes.set_ylim(0.0, 105.0)
    axes.set_xlim(0.0, load.bin_s * load.over_time.shape[1])
    axes.set_ylabel("% of its rate")


def _says(load: WireLoad) -> str:
    """'NIC: 46 % in use, 51 % on rank 7'."""
    title, mean = WIRE_TITLES[load.wire], float(load.share.mean())
    if len(load.share) == 1:
        return f"{title}: {mean:.0%} of the step in use"
    return f"{title}: {mean:.0%} of the step in use, {load.share.max():.0%} on rank {load.busiest_rank}"
