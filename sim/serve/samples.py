"""Samples: the state of a replica over time, thinned to half whenever there are many."""

from __future__ import annotations

_MOST = 2048


class Samples:
    """(time, running sequences, cached tokens, waiting requests), in order of time."""

    __slots__ = ("_left", "_stride", "rows")

    def __init__(self) -> None:
        self.rows: list[tuple[float, int, int, int]] = []
        self._stride = self._left = 1

    def take(self, time_s: float, running: int, cached: int, waiting: int) -> None:
        """The state after a turn; of every so many turns one is kept."""
        self._left -= 1
        if self._left:
            return
        self._left = self._stride
        self.rows.append((time_s, running, cached, waiting))
        if len(self.rows) >= _MOST:
            self.rows = self.rows[::2]
            self._stride *= 2
