"""Efficiency surface: what measurements add to a kernel's formula, interpolated between nodes of its sizes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, prod
from typing import Any


@dataclass(frozen=True, slots=True)
class Surface:
    """A correction of a formula over the plane of its sizes, linear between nodes and constant outside them.

    `nodes` holds the positions along every axis, ascending; `per_mille` 1000 times the natural logarithm of
    measured over formula at every node, the last axis fastest. ValueError when those do not fit together.
    """

    axes: tuple[str, ...]
    nodes: tuple[tuple[float, ...], ...]
    per_mille: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.axes) != len(self.nodes) or prod(map(len, self.nodes)) != len(self.per_mille):
            raise ValueError(f"a surface over {', '.join(self.axes)} with {len(self.per_mille)} values does not fit")

    def factor(self, *position: float) -> float:
        """Measured over formula at `position`, one coordinate per axis."""
        offsets, weights, stride = [0], [], len(self.per_mille)
        for nodes, x in zip(self.nodes, position, strict=True):
            stride //= len(nodes)
            i, weight = _between(nodes, x)
            offsets = [at + i * stride for at in offsets]
            if weight > 0.0:
                offsets += [at + stride for at in offsets]
                weights.append(weight)
        values: list[float] = [self.per_mille[at] for at in offsets]
        for weight in reversed(weights):  # the newest axis split the list in two halves
            half = len(values) // 2
            values = [low + (high - low) * weight for low, high in zip(values[:half], values[half:], strict=True)]
        return exp(values[0] / 1000.0)

    def corners(self, position: tuple[float, ...]) -> list[tuple[int, float]]:
        """Indices of the nodes around `position` and their weights, which add up to one: what a fit solves for."""
        found, stride = [(0, 1.0)], len(self.per_mille)
        for nodes, x in zip(self.nodes, position, strict=True):
            stride //= len(nodes)
            i, weight = _between(nodes, x)
            low = [(at + i * stride, held * (1.0 - weight)) for at, held in found]
            found = low + [(at + (i + 1) * stride, held * weight) for at, held in found] if weight > 0.0 else low
        return found


def _between(nodes: tuple[float, ...], x: float) -> tuple[int, float]:
    """The node at or below `x` and the weight of the next one."""
    if x <= nodes[0]:
        return 0, 0.0
    if x >= nodes[-1]:
        return len(nodes) - 1, 0.0
    i = bisect_right(nodes, x) - 1
    return i, (x - nodes[i]) / (nodes[i + 1] - nodes[i])


def surface_from(raw: Mapping[str, Any] | None) -> Surface | None:
    """The record from its JSON, None where a profile has none."""
    if raw is None:
        return None
    return Surface(tuple(raw["axes"]), tuple(map(tuple, raw["nodes"])), tuple(raw["per_mille"]))
