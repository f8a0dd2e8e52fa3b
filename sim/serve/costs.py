"""What the loops of serving need to know about seconds; sim/serve/step.py knows it of real jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Costs(Protocol):
    """Seconds of the passes of one batch after the other."""

    @property
    def yields(self) -> float:
        """Mean tokens that one pass gives to a running sequence, at least 1: drafts that are accepted count."""
        ...

    @property
    def width(self) -> int:
        """Positions of a running sequence in a pass: 1, and its drafts that are checked."""
        ...

    def decode(self, batch: int) -> tuple[float, float]:
        """(a, b) of a decode pass."""
        ...

    def mixed(self, chunks: list[tuple[int, int]], batch: int, cached: float) -> float:
        """Seconds of a pass that carries prompt chunks."""
        ...


class PipelineCosts(Costs, Protocol):
    """Costs of a pipeline: `decode` is of a round of all batches in flight, `resources` of one batch's pass."""

    def resources(self, chunks: Sequence[tuple[int, int]], batch: int, cached: float) -> list[float]:
        """Seconds at each resource of a pass of one batch."""
        ...
