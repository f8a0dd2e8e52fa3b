"""Fit a `Surface` to what a kernel's formula leaves: measured over predicted, smoothed between nodes.

The smoothing is the one with the least error on families that the surface was not fitted to. numpy and scipy are
imported where they are needed, so that the module loads without the `fit` extra.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import log
from typing import Any, Generic, TypeVar

from moesim.calibrate.fit.formula import LONG_S, Sample, split
from moesim.hwmodels.kernel_fits import Surface

W = TypeVar("W")

# A ratio far from its neighbours (another kernel was picked) pulls like this much of a logarithm at most.
ROBUST_SCALE = 0.08
SMOOTHINGS = (0.03, 0.1, 0.3, 1.0)
_RIDGE = 1e-3  # nodes that no sample is near stay at the formula
_ROUNDS = 4  # of reweighting


@dataclass(frozen=True, slots=True)
class Left:
    """What the formula left at one sample: the position on the axes, log(measured / predicted), the weight."""

    position: tuple[float, ...]
    log_ratio: float
    weight: float


@dataclass(frozen=True)  # no slots: a generic record with slots cannot be made as Plane[X](...)
class Plane(Generic[W]):
    """What a surface is laid over: the axes, the nodes along each, where a piece of work lies, and what lies at a node.

    Along the first `growing` axes more work never takes less time.
    """

    axes: tuple[str, ...]
    nodes: tuple[tuple[float, ...], ...]
    position: Callable[[W], tuple[float, ...]]
    work_at: Callable[[tuple[float, ...]], W]
    growing: int


def fit_surface(plane: Plane[W], samples: Sequence[Sample[W]], predict: Callable[[W], float]) -> Surface:
    """The surface over what `predict` leaves of `samples`, as smooth as is best for a third of their families."""
    inner, judging = ([_left(plane, s, predict) for s in part] for part in split(samples, len(samples), len(samples)))
    errors = []
    for smoothing in SMOOTHINGS:
        surface = _solve(plane.axes, plane.nodes, inner, smoothing)
        errors.append(sum(abs(log(surface.factor(*x.position)) - x.log_ratio) for x in judging))
    best = SMOOTHINGS[errors.index(min(errors))]
    return _monotone(plane, _solve(plane.axes, plane.nodes, [*inner, *judging], best), predict)


def _monotone(plane: Plane[W], surface: Surface, predict: Callable[[W], float]) -> Surface:
    """The surface under which seconds never fall along the growing axes, from node to node.

    Halfway between the least such times above the fitted ones and the greatest below them: one measured spike does
    not make a ridge.
    """
    import numpy as np

    at_nodes = np.array([1000.0 * log(predict(plane.work_at(node))) for node in product(*plane.nodes)])
    seconds = (at_nodes + np.array(surface.per_mille)).reshape([len(axis) for axis in plane.nodes])
    above, below = seconds, seconds
    for axis in range(plane.growing):
        above = np.maximum.accumulate(above, axis=axis)
        below = np.flip(np.minimum.accumulate(np.flip(below, axis), axis=axis), axis)
    moved = ((above + below) / 2.0).ravel() - at_nodes
    return Surface(surface.axes, surface.nodes, tuple(round(v) for v in moved.tolist()))


def _left(plane: Plane[W], sample: Sample[W], predict: Callable[[W], float]) -> Left:
    """What the formula leaves of one sample; longer than LONG_S weighs double, as in the fit of the formula."""
    weight = 2.0 if sample.seconds > LONG_S else 1.0
    return Left(plane.position(sample.work), log(sample.seconds / predict(sample.work)), weight)


def _solve(
    axes: tuple[str, ...], nodes: tuple[tuple[float, ...], ...], seen: Sequence[Left], smoothing: float
) -> Surface:
    """Reweighted least squares with a penalty on differences between neighbouring nodes."""
    import numpy as np
    from scipy import sparse
    from scipy.sparse.linalg import cg

    at_nodes = _design(axes, nodes, seen)
    target, base = np.array([x.log_ratio for x in seen]), np.array([x.weight for x in seen])
    rough = _differences([len(axis) for axis in nodes], nodes)
    penalty = smoothing * rough.T @ rough + _RIDGE * sparse.eye(at_nodes.shape[1])
    values, weight = np.zeros(at_nodes.shape[1]), base
    for _ in range(_ROUNDS):
        normal = at_nodes.T @ sparse.diags(weight) @ at_nodes + penalty
        values, _info = cg(normal, at_nodes.T @ (weight * target), x0=values, rtol=1e-8, maxiter=3000)
        weight = base / np.sqrt(1.0 + ((target - at_nodes @ values) / ROBUST_SCALE) ** 2)
    return Surface(axes, nodes, tuple(round(1000.0 * v) for v in values.tolist()))


def _design(axes: tuple[str, ...], nodes: tuple[tuple[float, ...], ...], seen: Sequence[Left]) -> Any:
    """One row per sample: the weights of the nodes around it."""
    import numpy as np
    from scipy import sparse

    count = int(np.prod([len(axis) for axis in nodes]))
    empty = Surface(axes, nodes, (0,) * count)
    rows, columns, weights = [], [], []
    for number, sample in enumerate(seen):
        for at, weight in empty.corners(sample.position):
            rows.append(number)
            columns.append(at)
            weights.append(weight)
    return sparse.csr_matrix((weights, (rows, columns)), shape=(len(seen), count))


def _differences(shape: Sequence[int], nodes: tuple[tuple[float, ...], ...]) -> Any:
    """One row per pair of neighbours: their difference over the square root of their distance."""
    import numpy as np
    from scipy import sparse

    index = np.arange(int(np.prod(shape))).reshape(shape)
    blocks = []
    for axis, positions in enumerate(nodes):
        along = np.moveaxis(index, axis, 0)
        for i, gap in enumerate(np.diff(positions)):
            first, second = along[i].ravel(), along[i + 1].ravel()
            size, rows = 1.0 / np.sqrt(gap), np.arange(len(first))
            entries = np.concatenate([np.full(len(first), -size), np.full(len(first), size)])
            place = (np.concatenate([rows, rows]), np.concatenate([first, second]))
            blocks.append(sparse.csr_matrix((entries, place), shape=(len(first), index.size)))
    return sparse.vstack(blocks)
