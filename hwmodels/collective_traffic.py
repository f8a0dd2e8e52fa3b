"""Who sends how many bytes to whom in a collective: rings, pairs and all-to-alls of equal groups all over a cluster."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.hwmodels.facts import FactError
from moesim.hwmodels.work import CommKind

_IN_SWITCH = ("nvls", "nvls_tree", "symmetric")  # the switch adds up: every rank sends its buffer once


def groups_of(gpus: int, ranks: int, stride: int) -> npt.NDArray[np.intp]:
    """[groups, ranks]: the GPUs of every group of `ranks` that lie `stride` apart; those left over belong to none."""
    if ranks < 2 or stride < 1 or ranks * stride > gpus:
        raise FactError(f"groups of {ranks} GPUs that lie {stride} apart do not fit {gpus} GPUs; use fewer or nearer")
    block = np.arange(ranks * stride).reshape(ranks, stride).T
    starts = np.arange(gpus // (ranks * stride)) * (ranks * stride)
    return np.asarray((starts[:, None, None] + block).reshape(-1, ranks), dtype=np.intp)


def _passed_bytes(kind: CommKind, size_bytes: float, ranks: int, algorithm: str) -> float:
    """Bytes that every rank passes on to its neighbour, or to the switch."""
    if kind == "broadcast":
        return size_bytes
    if kind == "all_reduce" and algorithm == "one_shot":
        return size_bytes * (ranks - 1)
    if kind == "all_reduce" and algorithm in _IN_SWITCH:
        return size_bytes * (1.0 + 1.0 / ranks)
    return size_bytes * (2.0 if kind == "all_reduce" else 1.0) * (ranks - 1) / ranks


def collective_matrix(
    kind: CommKind, size_bytes: float, gpus: int, ranks: int, stride: int, domain: int, algorithm: str = "ring"
) -> npt.NDArray[np.float64]:
    """Bytes [source GPU, destination GPU] when all groups run at once. `size_bytes` as Comm counts them.

    Rings keep to their scale-up domain but for one hop per channel; channels enter and leave at different GPUs, so
    that all NICs of a group carry alike; trees load links as rings do. A send goes from the first half of a group to
    the second.
    """
    groups = groups_of(gpus, ranks, stride)
    matrix = np.zeros((gpus, gpus))
    if kind == "all_to_all":
        for members in groups:
            matrix[np.ix_(members, members)] += size_bytes / ranks
        return matrix
    if kind == "send":
        half = ranks // 2
        matrix[groups[:, :half], groups[:, half : 2 * half]] += size_bytes
        return matrix
    passed = _passed_bytes(kind, size_bytes, ranks, algorithm)
    for members in groups:
        _ring(matrix, members, passed, domain)
    return matrix


def _ring(matrix: npt.NDArray[np.float64], members: npt.NDArray[np.intp], passed_bytes: float, domain: int) -> None:
    homes = [members[members // domain == home] for home in np.unique(members // domain)]
    for i, home in enumerate(homes):
        if len(home) > 1:
            matrix[home, np.roll(home, -1)] += passed_bytes
        following = homes[(i + 1) % len(homes)]
        if len(homes) > 1:
            matrix[home, following[np.arange(len(home)) % len(following)]] += passed_bytes / len(home)
