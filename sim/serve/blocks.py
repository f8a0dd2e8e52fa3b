"""Blocks: the ledger of a paged KV cache while sequences grow by one token per step.

A sequence of c cached tokens fills ceil(c / size) blocks. All sequences grow together, so that (c - step) modulo the
block size never changes while one runs: counts by that phase give the exact number of blocks at any step.
"""

from __future__ import annotations


class Blocks:
    """Blocks of one replica. `held` are those of prompts in work, and of everything where blocks are reserved."""

    __slots__ = ("_phase", "held", "size", "total")

    def __init__(self, total: int, size: int) -> None:
        self.total, self.size = total, size
        self.held = 0
        self._phase = [0] * size

    def of(self, tokens: int) -> int:
        """Blocks that so many tokens of one sequence fill."""
        return -(-tokens // self.size)

    def grow(self, tokens: int, step: int, count: int = 1) -> None:
        """A sequence of `tokens` cached tokens starts growing at `step`; with count = -1 one stops."""
        self._phase[(tokens - step) % self.size] += count

    def used(self, cached: int, step: int) -> int:
        """Blocks in use, exactly, when growing sequences hold `cached` tokens together at `step`."""
        size = self.size
        padding = sum(n * (-(r + step) % size) for r, n in enumerate(self._phase) if n)
        return (cached + padding) // size + self.held

    def may_exceed(self, cached: int, batch: int) -> bool:
        """False when `batch` sequences of `cached` tokens together fit however they are cut into blocks."""
        return (cached + batch * (self.size - 1)) // self.size + self.held > self.total

    def steps_that_fit(self, k: int, cached: int, batch: int, step: int) -> int:
        """The most of k steps for which there are blocks."""
        low, high = 0, k
        while low < high:
            middle = (low + high + 1) // 2
            if self.used(cached + batch * middle, step + middle) <= self.total:
                low = middle
            else:
                high = middle - 1
        return low
