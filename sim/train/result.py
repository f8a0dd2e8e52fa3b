"""StepResult: a simulated training step before money and memory are attached."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.sim.clock.timeline import Timeline
from moesim.sim.layout.pipeline import Slot
from moesim.sim.train.segment_time import SegmentTime


@dataclass(frozen=True, slots=True)
class StepResult:
    """A simulated step: seconds, where they went (sums to step_time_s), and the timeline of all pipeline ranks."""

    step_time_s: float
    breakdown_s: dict[str, float]
    by_source: dict[str, float]
    variance_s2: float
    timeline: Timeline
    slots: dict[int, Slot]
    segment_times: dict[str, SegmentTime]
