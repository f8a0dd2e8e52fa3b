"""Kept prices: what a process that asks many questions about one deployment need not work out again.

Latencies, rates and money are the same with it and without, but for chunks of fewer than 32 tokens, which cost what the
first of them did (sim/serve/step_parts.py): a millionth at most. What an answer counts of the kernels that were priced
(`sources`), and which constants it lists, is of everything that was asked of the deployment so far.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from moesim.sim.serve.capacity import drained_per_s
from moesim.sim.serve.job import Deployment, ResolvedServe
from moesim.sim.serve.simulate import PricedJobs
from moesim.sim.serve.workload import Workload
from moesim.sim.software.stack import Tuning

_DEPLOYMENTS, _LOADS = 16, 4  # that are kept; the ones asked about longest ago are let go
_Lengths = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(slots=True)
class Prices:
    """Of one deployment: constants and kernels, and what drains a full queue of a load's lengths."""

    deployment: Deployment
    tuning: Tuning
    priced: PricedJobs = field(default_factory=PricedJobs)
    _drained: list[tuple[_Lengths, float]] = field(default_factory=list)

    def drained_per_s(self, load: Workload) -> float:
        """Requests per second when the queue is never empty; arrivals play no part in it."""
        r = load.requests
        lengths = (r.input_tokens, r.output_tokens, r.prefix)
        known = next((rate for of, rate in self._drained if of == lengths), None)
        if known is None:
            known = drained_per_s(self.deployment, load, self.tuning, self.priced)
            self._drained = [*self._drained[1 - _LOADS :], (lengths, known)]
        return known


class Kept:
    """Prices by deployment: everything about it has to be equal, its kernels the very same.

    Nothing is kept of experts whose shares are counted in a file: it may be another one the next time.
    """

    def __init__(self) -> None:
        self._prices: list[Prices] = []

    def of(self, resolved: ResolvedServe) -> Prices:
        """Prices of a deployment, kept from before where it was asked about."""
        asked = resolved.deployment
        if any(group.job.routing.counts_file is not None for group in asked.groups):
            return Prices(asked, resolved.tuning())
        found = next((prices for prices in self._prices if _same(prices.deployment, asked)), None)
        if found is None:
            found = Prices(asked, resolved.tuning())
        self._prices = [*(prices for prices in self._prices if prices is not found), found][-_DEPLOYMENTS:]
        return found


def _same(one: Deployment, other: Deployment) -> bool:
    """Equal in everything; fits are looked at first, and by themselves: they are long, and a profile is read once."""
    pairs = list(zip(one.groups, other.groups, strict=False))
    if len(one.groups) != len(other.groups) or not all(a.job.kernels is b.job.kernels for a, b in pairs):
        return False
    return one == other
