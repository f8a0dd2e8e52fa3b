"""Program: timed items in program order on lanes (rank, stream), with dependencies; what the engines execute."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from moesim.refusal import Refusal


class Dep(NamedTuple):
    """Wait until item `item` has ended (or, with `from_start`, begun) and `lag_s` more seconds have passed."""

    item: int
    lag_s: float = 0.0
    from_start: bool = False


class Lane(NamedTuple):
    """One stream of one rank; items on it run one after another in program order."""

    rank: int
    stream: str  # compute | comm | dp | host; gather in op-by-op runs


@dataclass
class Program:
    """Items by number: label, duration, dependencies; and the order of items on every lane."""

    labels: list[str] = field(default_factory=list)
    durations_s: list[float] = field(default_factory=list)
    deps: list[tuple[Dep, ...]] = field(default_factory=list)
    lane_of: list[Lane] = field(default_factory=list)
    lanes: dict[Lane, list[int]] = field(default_factory=dict)

    def add(self, lane: Lane, label: str, duration_s: float, deps: tuple[Dep, ...] = ()) -> int:
        """Append an item to `lane`; returns its number. Dependencies may point to items added later."""
        number = len(self.labels)
        self.labels.append(label)
        self.durations_s.append(duration_s)
        self.deps.append(deps)
        self.lane_of.append(lane)
        self.lanes.setdefault(lane, []).append(number)
        return number

    def set_deps(self, item: int, deps: tuple[Dep, ...]) -> None:
        """Replace the dependencies of an item (they were not known when it was added)."""
        self.deps[item] = deps

    def __len__(self) -> int:
        return len(self.labels)


class Deadlock(Refusal):
    """Items wait for each other, as streams that disagree on the order of collectives do."""
