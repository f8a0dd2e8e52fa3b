"""Who sends how many bytes to whom in a collective: rings, pairs and all-to-alls of equal groups all over a cluster."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hwmodels.facts import FactError
from hwmodels.work import CommKind

# bytes that every rank passes on, per byte of buffer, as a share of (n - 1) / n
_RING_PASSES: dict[CommKind, float] = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0}


def groups_of(gpus: int, ranks: int, stride: int) -> npt.NDArray[np.intp]:
    """[groups, ranks]: the GPUs of every group of `ranks` that lie `stride` apart; those left over belong to none."""
    if ranks < 2 or stride < 1 or ranks * stride > gpus:
        raise FactError(f"groups of {ranks} GPUs that lie {stride} apart do not fit {gpus} GPUs; use fewer or nearer")
    block = np.arange(ranks * stride).reshape(ranks, stride).T
    starts = np.arange(gpus // (ranks * stride)) * (ranks * stride)
    return np.asarray((starts[:, None, None] + block).reshape(-1, ranks), dtype=np.intp)


def collective_matrix(
    kind: CommKind, size_bytes: float, gpus: int, ranks: int, stride: int, domain: int
) -> npt.NDArray[np.float64]:
    """Bytes [source GPU, destination GPU] when all groups run at once. `size_bytes` as Comm counts them.

    Rings keep to their scale-up domain but for one hop per channel; channels enter and leave at different GPUs, so
    that all NICs of a group carry alike. A send goes from the first half of a group to the second.
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
    passed = size_bytes if kind == "broadcast" else size_bytes * _RING_PASSES[kind] * (ranks - 1) / ranks
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
