"""Program: timed items in program order on lanes (rank, stream), with dependencies; Timeline: when each of them ran."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
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


@dataclass(frozen=True, slots=True)
class Timeline:
    """Start and end of each item of a program, by item number, in seconds."""

    program: Program
    start_s: list[float]
    end_s: list[float]

    @property
    def makespan_s(self) -> float:
        """When the last item ended; 0 for an empty program."""
        return max(self.end_s, default=0.0)

    def lane_end_s(self, lane: Lane) -> float:
        """When the lane's last item ended; 0 for an unused lane."""
        items = self.program.lanes.get(lane)
        return self.end_s[items[-1]] if items else 0.0

    def busy_s(self, lane: Lane) -> float:
        """Seconds in which the lane runs an item."""
        return sum(self.end_s[i] - self.start_s[i] for i in self.program.lanes.get(lane, []))

    def ranks(self) -> list[int]:
        """Ranks that run anything, in order."""
        return sorted({lane.rank for lane in self.program.lanes})

    def check(self) -> None:
        """ValueError when a lane overlaps itself or an item began before what it waits for."""
        for lane, items in self.program.lanes.items():
            for before, after in pairwise(items):
                if self.start_s[after] < self.end_s[before]:
                    raise ValueError(f"{lane}: {self.program.labels[after]} began before its predecessor ended")
        for item, deps in enumerate(self.program.deps):
            for dep in deps:
                ready = (self.start_s if dep.from_start else self.end_s)[dep.item] + dep.lag_s
                if self.start_s[item] < ready:
                    raise ValueError(f"{self.program.labels[item]} began before {self.program.labels[dep.item]}")


class Deadlock(Refusal):
    """Items wait for each other, as streams that disagree on the order of collectives do."""
