"""A tornado: one bar per change, the ones that matter most on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.reports.figures.files import save
from moesim.reports.figures.palette import INK, PHASES
from moesim.sim.variation.outcome import by_group, effect
from moesim.sim.variation.settings import GROUPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moesim.sim.variation.outcome import Change
    from moesim.sim.variation.whatif_serve import ServeWhatIf
    from moesim.sim.variation.whatif_train import WhatIf

_STYLE: Any = {"font.size": 9.0, "axes.edgecolor": "#888888", "text.color": INK, "svg.hashsalt": "moesim"}


_WORDS = 0.4  # of the width, that either side has for its words


def tornado(answer: WhatIf | ServeWhatIf) -> Figure:
    """Change of tokens per dollar by knob, in percent; pale bars would not fit into memory."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    outcomes: Sequence[Change] = answer.outcomes
    groups = by_group(outcomes)
    sizes = [len(knobs) for _, knobs in groups]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10.0, 1.2 + 0.4 * len(groups) + 0.45 * sum(sizes)), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(f"what matters for this run ({answer.tokens_per_s:,.0f} tokens/s as asked)", fontsize=11)
        panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=sizes)[:, 0]
        for axes, (group, knobs) in zip(panels, groups, strict=True):
            _bars(axes, knobs[::-1])
            axes.set_title(GROUPS[group], loc="left")
        low, high = panels[-1].get_xlim()  # room for words on both sides
        panels[-1].set_xlim(min(low, -_WORDS * (high - low)), max(high, _WORDS * (high - low)))
        panels[-1].set_xlabel("change of tokens per dollar, %")
    return figure


def _bars(axes: Axes, knobs: Sequence[tuple[str, Sequence[Change]]]) -> None:
    """Of one group, the knob that matters most on top."""
    for row, (_, outcomes) in enumerate(knobs):
        for o in outcomes:
            gain = 100.0 * effect(o)
            colour = PHASES["F"] if gain >= 0 else PHASES["B"]
            axes.barh(row, gain, color=colour, height=0.62, alpha=1.0 if o.fits else 0.35)
        sides = [[o for o in outcomes if (effect(o) >= 0.0) == up] for up in (True, False)]
        for side, own in zip((1, -1), sides, strict=True):
            _label(axes, row, own, side, alone=not all(sides))
    axes.set_yticks(range(len(knobs)), [name for name, _ in knobs])
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.margins(x=0.18)
    axes.spines[["top", "right"]].set_visible(False)


def _label(axes: Any, row: int, outcomes: Sequence[Change], side: int, alone: bool) -> None:
    """The changes of one side beyond its longest bar, or in the empty half where the other side has none."""
    if not outcomes:
        return
    ordered = sorted(outcomes, key=effect, reverse=side > 0)
    text = ", ".join(f"{o.change}{'' if o.fits else ' (does not fit)'}" for o in ordered)
    place = 0.0 if alone else 100.0 * effect(ordered[0])
    away = -side if alone else side
    axes.annotate(text, (place, row), xytext=(4 * away, 0), textcoords="offset points", va="center",
                  ha="left" if away > 0 else "right", fontsize=8.0)  # fmt: skip


def write_tornado(answer: WhatIf | ServeWhatIf, path: Path) -> None:
    """Draw it into a file."""
    save(tornado(answer), path)
