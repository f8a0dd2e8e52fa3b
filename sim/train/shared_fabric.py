"""The answer about jobs beside each other on one fabric: what each of them takes and loses, and who fills uplinks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moesim.sim.layout.uplinks import Spread
from moesim.sim.train.job import Resolved


@dataclass(frozen=True, slots=True)
class UplinkUse:
    """How full the uplinks of some leaves are while all jobs run: of their rate, the part of every job in order.

    `leaves` that carry the same, of which `first_leaf` (from 0) is the first; a leaf of a railed fabric stands for
    those of all rails.
    """

    first_leaf: int
    leaves: int
    by_job: tuple[float, ...]

    @property
    def share(self) -> float:
        """Of their rate, by all jobs."""
        return sum(self.by_job)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"first_leaf": self.first_leaf, "leaves": self.leaves, "share": self.share, "by_job": list(self.by_job)}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobBeside:
    """One of the jobs. Seconds of its step: on a fabric of its own, in its place with all others idle, and beside them
    (the mean of the `steps` that ran while all others did)."""

    resolved: Resolved
    by_itself_s: float
    alone_s: float
    beside_s: float
    steps: int
    busiest: UplinkUse | None  # of the uplinks that it uses; None where nobody else can fill them

    @property
    def lost_s(self) -> float:
        """Seconds by which the others make its step longer."""
        return self.beside_s - self.alone_s

    @property
    def lost_share(self) -> float:
        """Those over its step alone."""
        return self.lost_s / self.alone_s

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        job = self.resolved.job
        return {
            "model": job.arch.name,
            "gpus": job.cluster.gpus,
            "by_itself_s": self.by_itself_s,
            "alone_s": self.alone_s,
            "beside_s": self.beside_s,
            "lost_s": self.lost_s,
            "lost_share": self.lost_share,
            "steps": self.steps,
            "busiest_uplinks": None if self.busiest is None else self.busiest.to_dict(),
            "assumptions": list(self.resolved.assumptions),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedFabric:
    """Jobs on one fabric, in the order in which they were asked for."""

    jobs: tuple[JobBeside, ...]
    spread: Spread
    assumptions: tuple[str, ...]  # how they were run; why nothing is lost, where nothing is; what was left out

    @property
    def gpus(self) -> int:
        """Of all jobs."""
        return sum(each.resolved.job.cluster.gpus for each in self.jobs)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        cluster = self.jobs[0].resolved.job.cluster
        return {
            "fabric": cluster.fabric,
            "oversubscription": cluster.oversubscription,
            "gpus": self.gpus,
            "spread": self.spread,
            "jobs": [each.to_dict() for each in self.jobs],
            "assumptions": list(self.assumptions),
        }
