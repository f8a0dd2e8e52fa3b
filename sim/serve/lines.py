"""Seconds over counts of tokens or sequences, between the points that are priced."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds over a grid of counts, linear in between."""

    grid: tuple[int, ...]
    seconds: tuple[float, ...]

    def at(self, count: float) -> float:
        """Seconds at `count`; beyond the grid it goes on in proportion."""
        grid, seconds = self.grid, self.seconds
        if count <= grid[0]:
            return seconds[0]
        if count >= grid[-1]:
            return seconds[-1] * count / grid[-1]
        i = bisect_left(grid, count)
        low, high = grid[i - 1], grid[i]
        return seconds[i - 1] + (seconds[i] - seconds[i - 1]) * (count - low) / (high - low)


def rounded(batch: int) -> int:
    """Batches whose attention is priced: exact up to 32, then about 3 % apart."""
    if batch <= 32:
        return batch
    step = 1 << (batch.bit_length() - 5)
    return -(-batch // step) * step
