"""How sure a predicted number is: a 90 % interval on its logarithm, what makes it wide and what would narrow it.

Steps, served tokens and transfers have classes of their own (sim/train/band.py, sim/serve/band.py,
sim/transfer/alone.py); how a class and what widens it make an interval is the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, sqrt
from typing import Any

NORMAL_90 = 1.645  # half-width of a 90 % interval, in standard deviations
NORMAL_80 = 1.2816  # of an 80 % one: p10 to p90


@dataclass(frozen=True, slots=True)
class Width:
    """How far measured values may lie below and above a prediction: logarithms of factors."""

    below: float
    above: float

    def around(self, value: float) -> tuple[float, float]:
        """(low, high) around a predicted value."""
        return value * exp(-self.below), value * exp(self.above)

    def quantile(self, value: float, z: float) -> float:
        """Around a predicted value, `z` standard deviations off: a normal of logarithms, with two halves."""
        return value * exp(z / NORMAL_90 * (self.below if z < 0.0 else self.above))

    def reach(self) -> str:
        """'-13% to +30%': of a predicted value."""
        low, high = self.around(1.0)
        return f"{low - 1.0:+.0%} to {high - 1.0:+.0%}"

    def scaled(self, factor: float) -> Width:
        """Both sides times `factor`."""
        return Width(self.below * factor, self.above * factor)

    @property
    def square(self) -> float:
        """Of both sides, to share them out between reasons."""
        return self.below**2 + self.above**2


@dataclass(frozen=True, slots=True)
class Sureness:
    """The 90 % interval of a kind of number: class, width, why it is wide, and what would narrow it most."""

    band: str  # the class whose errors gave it
    width: Width
    note: str  # why it is not the most specific class, and what widened it; empty where nothing did
    parts: Mapping[str, float]  # reason -> its share of the square; sums to 1
    narrower: str  # the one fact that would narrow it most

    def around(self, value: float) -> tuple[float, float]:
        """(low, high) around a predicted value."""
        return self.width.around(value)

    def p10_to_p90(self, value: float, least: float = 0.0) -> dict[str, float]:
        """Quantiles of what will be measured: a tenth, the predicted value, nine tenths; none below what cannot be."""
        low = max(self.width.quantile(value, -NORMAL_80), min(least, value))
        return {"p10": low, "p50": value, "p90": self.width.quantile(value, NORMAL_80)}

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"band": self.band, "band_parts": dict(self.parts), "narrower": self.narrower}


def width_of(record: Mapping[str, Any]) -> Width:
    """A class as bands.yaml holds it."""
    return Width(float(record["below"]), float(record["above"]))


def widened(first: str, width: Width, reasons: Mapping[str, float]) -> tuple[Width, dict[str, float]]:
    """A class's width with half-widths added in quadrature, and the share of every reason, `first` for the class."""
    whole = Width(*(sqrt(side**2 + sum(w * w for w in reasons.values())) for side in (width.below, width.above)))
    squares = {first: width.square} | {reason: 2.0 * w * w for reason, w in reasons.items()}
    return whole, {reason: square / whole.square for reason, square in squares.items()}
