"""What came of a run of a plan, and the refusal of a plan that cannot be run."""

from __future__ import annotations

from dataclasses import dataclass, field

from moesim.refusal import Refusal
from moesim.sim.clock.books import Books


class Deadlock(Refusal):
    """Items wait for each other, as streams that disagree on the order of collectives do."""


@dataclass(frozen=True)
class Walked:
    """When every item began and ended (the latest member's seconds), and the books of every rank.

    `makespan_s` from the begin of the run; other seconds are the clock's.
    `pieces`: (item, piece, start, end) of all pieces, where they were asked for.
    """

    start_s: list[float]
    end_s: list[float]
    books: Books
    makespan_s: float
    solves: int
    pieces: list[tuple[int, int, float, float]] = field(default_factory=list)
