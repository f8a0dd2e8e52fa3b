"""Moments of one rank that stands for all, or of every member of a stage: one arithmetic for both.

A moment is a number, or `Moments` over an array [groups, members] (a barrier leaves [groups, 1]); seconds are a number
or an array. Balanced members give the bits of one number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Seconds = Any  # float, or float64 array [groups, members]
Floats = npt.NDArray[np.float64]
_LAST = np.maximum.reduce
_SUM = np.add.reduce


class Moments:
    """When each member of a stage gets somewhere; the latest of them, and their mean, where they are asked for."""

    __slots__ = ("_last", "_mean", "array")

    def __init__(self, array: Floats) -> None:
        self.array = array
        self._last = self._mean = -1.0

    @property
    def last(self) -> float:
        """Of all members."""
        if self._last < 0.0:
            self._last = float(_LAST(self.array, axis=None))
        return self._last

    @property
    def mean(self) -> float:
        """Of all members."""
        if self._mean < 0.0:
            self._mean = float(_SUM(self.array, axis=None)) / self.array.size
        return self._mean


When = float | Moments


def after(a: When, seconds: Seconds) -> When:
    """So many seconds later, member by member."""
    if isinstance(a, Moments):
        return Moments(a.array + seconds)
    return a + seconds if isinstance(seconds, float) else Moments(a + seconds)


def latest(a: When, b: When) -> When:
    """The later of two, member by member."""
    if isinstance(a, Moments):
        if a is b:
            return a
        return Moments(np.maximum(a.array, b.array if isinstance(b, Moments) else b))
    if isinstance(b, Moments):
        return a if a >= b.last else Moments(np.maximum(a, b.array))
    return a if a >= b else b


def last(a: When) -> float:
    """The latest member's."""
    return a.last if isinstance(a, Moments) else a


def mean(a: When) -> float:
    """The members' mean."""
    return a.mean if isinstance(a, Moments) else a


def gathered(a: When, barrier: int, members: int) -> When:
    """When `barrier` neighbouring members of a group are all there; 0: each for itself; all of a stage: -1."""
    if not isinstance(a, Moments) or barrier in (0, 1):
        return a
    groups, width = a.array.shape
    if barrier < 0 or (barrier >= members and groups == 1):
        return a.last
    if width == 1:  # met already
        return a
    if barrier >= members:
        return Moments(_LAST(a.array, axis=1, keepdims=True))
    met = _LAST(a.array.reshape(groups, -1, barrier), axis=2, keepdims=True)
    return Moments(np.broadcast_to(met, (*met.shape[:2], barrier)).reshape(a.array.shape))
