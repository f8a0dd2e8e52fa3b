"""Timeline: when every item ran. Every metric is a later query on it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from moesim.sim.clock.program import Lane, Program


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
