"""Predicted against measured seconds of proved programs, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from moesim.reports.figures.files import save
from moesim.reports.figures.palette import INK, LIMIT, PHASES

if TYPE_CHECKING:
    from moesim.calibrate.prove.proof import Proof

_COLOUR = {"dense": PHASES["F"], "MoE": PHASES["B"]}
_MARKER = {"train": "o", "decode": "^"}
_GOAL_SHARE = 0.15  # the target on a shared CPU


def write_proof_figure(proof: Proof, path: Path) -> None:
    """Every program as a point over the line of agreement, with the goal's band; noise as a bar to the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.add_subplot()
    times = [t for p in proof.programs for t in (p.measured_s, p.predicted_s)]
    low, high = min(times) / 1.5, max(times) * 1.5
    axes.plot([low, high], [low, high], color=INK, linewidth=1.0)
    below, above = ([edge * (1.0 + share) for edge in (low, high)] for share in (-_GOAL_SHARE, _GOAL_SHARE))
    axes.fill_between([low, high], below, above, color=LIMIT, alpha=0.12, label="within 15 %", linewidth=0)
    for kind, colour in _COLOUR.items():
        for mode, marker in _MARKER.items():
            points = [p for p in proof.programs if (p.kind, p.mode) == (kind, mode)]
            if points:
                bars = [[0.0] * len(points), [p.measured_s * p.noise_pct / 100.0 for p in points]]
                measured, predicted = [p.measured_s for p in points], [p.predicted_s for p in points]
                label = f"{kind}, {mode}"
                axes.errorbar(measured, predicted, xerr=bars, fmt=marker, color=colour, elinewidth=0.8, label=label)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    axes.set_xlabel("measured, s (bar: noise between rounds)")
    axes.set_ylabel("predicted, s")
    ranks = proof.programs[0].ranks
    axes.set_title(
        f"{len(proof.programs)} torch programs on {ranks} rank{'s' if ranks > 1 else ''}: "
        f"median error {proof.median_error_pct:.1f} %",
        loc="left",
    )
    axes.legend(loc="upper left", frameon=False)
    save(figure, path)
