"""Obvious choices: what people would try first on such machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moesim.hwmodels.cluster import Cluster
from moesim.sim.layout.layout import Layout
from moesim.sim.plan.train.space import Candidate


@dataclass(frozen=True, slots=True)
class Choice:
    """An obvious choice: which candidates make it."""

    title: str
    made_by: Callable[[Candidate], bool]


def choices(cluster: Cluster, experts: bool) -> list[Choice]:
    """What people would try first on such machines."""
    domain = cluster.domain

    def of(title: str, test: Callable[[Layout], bool]) -> Choice:
        return Choice(title, lambda c: test(c.layout))

    obvious = [
        of("no pipeline", lambda lay: lay.pp == 1),
        of("no tensor parallelism", lambda lay: lay.tp == 1),
        of("tensor parallel over a whole node", lambda lay: lay.tp == min(8, domain)),
        of("fully sharded data parallel (ZeRO-3)", lambda lay: lay.zero == 3),
        of("virtual stages", lambda lay: lay.vpp > 1),
        Choice("nothing recomputed", lambda c: c.recompute == "none"),
        Choice("everything recomputed", lambda c: c.recompute == "full"),
    ]
    if experts:
        obvious += [
            of("no expert parallelism", lambda lay: lay.ep == 1),
            of("experts inside one scale-up domain", lambda lay: 1 < lay.ep * lay.etp <= domain),
            of("experts over several domains", lambda lay: lay.ep * lay.etp > domain),
            of("experts split like attention", lambda lay: lay.etp > 1),
        ]
    return obvious
