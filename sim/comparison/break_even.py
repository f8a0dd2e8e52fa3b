"""Break-even points: where along an axis the other model starts to win, by bisection on the simulator itself.

A model wins where a million tokens cost less. An axis is looked at on a grid first; between neighbours with different
winners the change is bisected. Points where one of the two cannot run (memory, layout) end the range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from math import ceil, exp, log
from typing import Any

from moesim.hwmodels.interval import NORMAL_80, Width
from moesim.refusal import Refusal
from moesim.sim.comparison.axes import Axis, hours_as_asked, serve_axes, train_axes
from moesim.sim.comparison.fitting import smallest_replica
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.serve.predict import predict_serve

_CLOSE = 0.01  # relative: a continuous break-even is found to one percent
_EVEN = 1e-6  # relative: costs that near are the same
_PRICES = (0.05, 20.0)  # of the other's GPU-hour, relative to the first's
_TRAFFIC = 10_000.0  # times the capacity of the first's smallest replica, up and down

SURE = Width(0.0, 0.0)

Margin = Callable[[float], float | None]  # log of first over other cost at a value; None where one cannot run

# how points of training are found: hundreds of steps, each by the route that plans take
ESTIMATED = "training points are estimates: one rank stands for all, with the rows that the busiest is expected to have"


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """A value at which the winner changes; p10 and p90 of where it may lie, None beyond the searched range."""

    value: float
    cheaper_below: str
    cheaper_above: str
    p10: float | None = None
    p90: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """One axis of one pair: where the winner changes within the range that was searched, and how far apart costs are.

    `low` and `high` in the unit of the axis; `cost_ratios`: least and most that the first costs over the other.
    """

    section: str
    axis: str
    unit: str
    first: str
    other: str
    low: float
    high: float
    crossings: tuple[Crossing, ...]
    cost_ratios: tuple[float, float]
    note: str

    @property
    def answer(self) -> str:
        """One sentence."""
        if self.note and not self.crossings and self.low == self.high:
            return self.note
        if not self.crossings:
            below, above = self.cost_ratios
            if max(abs(log(below)), abs(log(above))) < _EVEN:
                return "never within range: both cost the same"
            winner = self.first if below * above < 1.0 else self.other
            gains = sorted(max(r, 1.0 / r) for r in (below, above))
            return f"never within range: {winner} is cheaper throughout, {gains[0]:.2f} to {gains[1]:.2f} times"
        return "; ".join(
            f"from {_spelled(c.value)} {self.unit}".strip() + f" ({_likely(c)}) on {c.cheaper_above} is cheaper"
            for c in self.crossings
        )

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self) | {"answer": self.answer}


def _spread(margins: Sequence[float]) -> tuple[float, float]:
    return exp(min(margins)), exp(max(margins))


def _likely(crossing: Crossing) -> str:
    low, high = crossing.p10, crossing.p90
    return (
        f"p10 {'below the range' if low is None else _spelled(low)}, "
        f"p90 {'beyond the range' if high is None else _spelled(high)}"
    )


def _spelled(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def break_evens(
    first: tuple[str, Mapping[str, Any]],
    other: tuple[str, Mapping[str, Any]],
    prices: tuple[float, float],
    section: str,
    unsure: Width = SURE,
) -> list[BreakEven]:
    """Every axis of one section for two named scenarios. `prices`: dollars per GPU-hour of both, or one and one.

    `unsure`: of the first's cost over the other's, for p10 and p90 of every crossing.
    """
    names, scenarios = (first[0], other[0]), (first[1], other[1])
    ratio = prices[0] / prices[1]
    points = []
    for axis in (train_axes if section == "train" else serve_axes)(scenarios[0]):

        def margin(value: float, axis: Axis = axis) -> float | None:
            try:
                own, others = (axis.hours(s, value) for s in scenarios)
            except Refusal:
                return None
            return log(own / others * ratio)

        points.append(_along(axis, margin, names, unsure))
    points.append(_price(section, scenarios, names, prices, unsure))
    if section == "serve":
        points.append(_traffic(scenarios, names, prices, unsure))
    return points


def _along(axis: Axis, margin: Margin, names: tuple[str, str], unsure: Width) -> BreakEven:
    points = [(v, m) for v in axis.grid if (m := margin(v)) is not None]
    shared: Any = {"section": axis.section, "axis": axis.name, "unit": axis.unit, "first": names[0], "other": names[1]}
    if len(points) < 2:
        note = "not searched: one of the two does not run at two or more points of the range"
        at = points[0][0] if points else axis.grid[0]
        return BreakEven(low=at, high=at, crossings=(), cost_ratios=(1.0, 1.0), note=note, **shared)
    crossings = [
        _bisected(margin, one, two, names, axis.whole)
        for one, two in pairwise(points)
        if one[1] * two[1] < 0.0 and max(abs(one[1]), abs(two[1])) > _EVEN
    ]
    cut = [
        side
        for side, at, end in (("below", points[0][0], axis.grid[0]), ("above", points[-1][0], axis.grid[-1]))
        if at != end
    ]
    return BreakEven(
        low=points[0][0],
        high=points[-1][0],
        crossings=tuple(_between(c, points, unsure) for c in crossings),
        cost_ratios=_spread([m for _, m in points]),
        note="; ".join(
            [*(f"{side} that one of the two does not run" for side in cut), *([axis.note] if axis.note else [])]
        ),
        **shared,
    )


def _bisected(
    margin: Margin, low: tuple[float, float], high: tuple[float, float], names: tuple[str, str], whole: bool
) -> Crossing:
    """Where the sign changes between two points that have different ones."""
    (a, at_a), (b, _) = low, high
    while (b - a > 1) if whole and b < 1.0 / _CLOSE else b / a > 1.0 + _CLOSE:
        middle = round((a * b) ** 0.5) if whole else (a * b) ** 0.5
        if whole and middle in (a, b):
            middle = (a + b) // 2
        value = margin(middle)
        if value is None:  # a hole in the range: what is left of the interval is the answer
            break
        if (value < 0.0) == (at_a < 0.0):
            a = middle
        else:
            b = middle
    below, above = names if at_a < 0.0 else names[::-1]
    return Crossing(value=float(b), cheaper_below=below, cheaper_above=above)


def _between(crossing: Crossing, points: Sequence[tuple[float, float]], unsure: Width) -> Crossing:
    """The crossing with p10 and p90: where the costs' true ratio would be even, were it off by that much.

    Read off the points that were looked at, straight between them (both axes as logarithms).
    """
    low = _reached(crossing.value, [p for p in reversed(points) if p[0] < crossing.value], unsure)
    high = _reached(crossing.value, [p for p in points if p[0] > crossing.value], unsure)
    return replace(crossing, p10=low, p90=high)


def _reached(value: float, outwards: Iterable[tuple[float, float]], unsure: Width) -> float | None:
    """Where the margin, from 0 at `value`, has grown to what its errors may hide; None where it never does."""
    at, margin = value, 0.0
    for beside, other in outwards:
        edge = unsure.quantile(1.0, NORMAL_80) if other < 0.0 else unsure.quantile(1.0, -NORMAL_80)
        needed = -log(edge)  # a margin below zero ends where the first's cost would have to be that much higher
        if abs(other) >= abs(needed) and other * needed >= 0.0:
            share = (needed - margin) / (other - margin) if other != margin else 0.0
            return float(at * (beside / at) ** share)
        at, margin = beside, other
    return None


def _price(
    section: str,
    scenarios: Sequence[Mapping[str, Any]],
    names: tuple[str, str],
    prices: tuple[float, float],
    unsure: Width,
) -> BreakEven:
    """What the other's GPU-hour may cost at most to win: a ratio of two predictions, nothing to search."""
    own, others = (hours_as_asked(section, s) for s in scenarios)
    even, (low, high) = own / others, _PRICES
    ends = (unsure.quantile(even, -NORMAL_80), unsure.quantile(even, NORMAL_80))
    crossing = Crossing(value=even, cheaper_below=names[1], cheaper_above=names[0], p10=ends[0], p90=ends[1])
    return BreakEven(
        section=section, axis=f"price of a GPU-hour for {names[1]}", unit=f"x that for {names[0]}", first=names[0],
        other=names[1], low=low, high=high, crossings=(crossing,) if low <= even <= high else (),
        cost_ratios=(even / high, even / low),
        note=f"now {prices[1] / prices[0]:.3g} x" + ("" if prices == (1.0, 1.0) else f" (${prices[0]:.2f})"),
    )  # fmt: skip


def _traffic(
    scenarios: Sequence[Mapping[str, Any]], names: tuple[str, str], prices: tuple[float, float], unsure: Width
) -> BreakEven:
    """Requests per second from which fewer dollars an hour serve: whole replicas, the smallest that hold the model."""
    shared: Any = {"section": "serve", "axis": "traffic", "unit": "requests/s", "first": names[0], "other": names[1]}
    try:
        sizes = [_replica(s) for s in scenarios]
    except DoesNotFit as refusal:
        return BreakEven(low=0.0, high=0.0, crossings=(), cost_ratios=(1.0, 1.0), note=str(refusal), **shared)

    def margin(value: float) -> float:
        own, others = (
            price * gpus * max(1, ceil(round(value / each, 9)))
            for (gpus, each), price in zip(sizes, prices, strict=True)
        )
        return log(own / others)

    low, high = sizes[0][1] / _TRAFFIC, sizes[0][1] * _TRAFFIC
    count = 400
    grid = [low * (high / low) ** (i / count) for i in range(count + 1)]
    margins = [margin(v) for v in grid]
    last = max((i for i in range(count) if margins[i] * margins[-1] <= 0.0 and abs(margins[-1]) > _EVEN), default=None)
    crossings: tuple[Crossing, ...] = ()
    if last is not None and any(m * margins[-1] < 0.0 for m in margins):
        below, above = names if margins[-1] > 0.0 else names[::-1]
        at = _last_change(margin, grid[last], grid[last + 1])
        crossing = Crossing(value=at, cheaper_below=below, cheaper_above=above)
        crossings = (_between(crossing, list(zip(grid, margins, strict=True)), unsure),)
    replicas = ", ".join(
        f"{name} {gpus} GPU{'s' if gpus > 1 else ''} for {each:.3g} requests/s"
        for name, (gpus, each) in zip(names, sizes, strict=True)
    )
    return BreakEven(
        low=low, high=high, crossings=crossings, cost_ratios=_spread(margins),
        note=f"smallest replicas: {replicas}", **shared,
    )  # fmt: skip


def _last_change(margin: Callable[[float], float], low: float, high: float) -> float:
    """The value in the interval from which on the winner is that of its end."""
    end = margin(high)
    while high / low > 1.0 + _CLOSE / 10.0:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if margin(middle) * end > 0.0 else (middle, high)
    return high


def _replica(scenario: Mapping[str, Any]) -> tuple[int, float]:
    """(GPUs, requests per second at saturation) of the smallest replica."""
    p = predict_serve(smallest_replica(scenario), meets=False)
    return p.resolved.deployment.gpus, p.capacity_requests_per_s
