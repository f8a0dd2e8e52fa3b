"""Seconds of one rank that stands for all, or of every member of a stage: one arithmetic for both.

An array has the shape [groups, members]; a barrier leaves [groups, 1]. Balanced members give the bits of one number.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Seconds = Any  # float, or float64 array [groups, members]


def latest(a: Seconds, b: Seconds) -> Seconds:
    """The later of two, member by member."""
    if isinstance(a, float) and isinstance(b, float):
        return a if a >= b else b
    return np.maximum(a, b)


def last(a: Seconds) -> float:
    """The latest member's."""
    return a if isinstance(a, float) else float(a.max())


def mean(a: Seconds) -> float:
    """The members' mean."""
    return a if isinstance(a, float) else float(a.mean())


def gathered(a: Seconds, barrier: int, members: int) -> Seconds:
    """When `barrier` neighbouring members of a group are all there; 0: each for itself; all of a stage: -1."""
    if isinstance(a, float) or barrier == 0 or barrier == 1:
        return a
    if barrier < 0:
        return float(a.max())
    if a.shape[1] == 1:  # met already
        return a
    if barrier >= members:
        return a.max(axis=1, keepdims=True)
    met = a.reshape(a.shape[0], -1, barrier).max(axis=2, keepdims=True)
    return np.broadcast_to(met, (*met.shape[:2], barrier)).reshape(a.shape)
