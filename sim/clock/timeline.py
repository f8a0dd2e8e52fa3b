"""Timeline: when every item of a plan began and ended."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.sim.clock.plan import Lane, Plan


@dataclass(frozen=True, slots=True)
class Timeline:
    """Start and end of each item of a plan, by item number, in seconds; of the latest member where members differ."""

    program: Plan
    start_s: list[float]
    end_s: list[float]

    @property
    def makespan_s(self) -> float:
        """When the last item ended; 0 for an empty plan."""
        return max(self.end_s, default=0.0)

    def lane_end_s(self, lane: Lane) -> float:
        """When the lane's last item ended; 0 for an unused lane."""
        items = self.program.lanes.get(lane)
        return self.end_s[items[-1]] if items else 0.0

    def ranks(self) -> list[int]:
        """Ranks that run anything, in order."""
        return sorted({lane.rank for lane in self.program.lanes})
