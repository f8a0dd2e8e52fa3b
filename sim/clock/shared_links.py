"""A job's view of a network that others use too: its links by its own numbers, and what it carries over each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from moesim.sim.clock.network import Flow, Loads, Network


class Links(Protocol):
    """What transfers run on: a network, or a view of one."""

    @property
    def solves(self) -> int:
        """How often rates were found anew."""
        ...

    def start(self, flow: Flow, now_s: float) -> None:
        """See Network."""
        ...


class SharedLinks:
    """Links of one job: those in `common` are parts of links of the network, the rest are its own, from `first` on.

    `common` says by the job's number of a link which links of the network stand for it, and how much of the share of
    the job's link each of them carries. A flow that reaches one of those by two of its own links (out of a leaf, into
    the same one) loads it once, with the larger share: directions of a link do not disturb each other.
    """

    def __init__(self, network: Network, common: Mapping[int, Loads], first: int = 0) -> None:
        self._network, self._common, self._first = network, common, first
        self._known: dict[Loads, Loads] = {}
        self.carried_s: dict[int, float] = {}  # at full rate, by link of the network

    @property
    def solves(self) -> int:
        """Of the whole network."""
        return self._network.solves

    def start(self, flow: Flow, now_s: float) -> None:
        """Let `flow`, whose loads are of this job's links, run from now on."""
        loads = self._known.get(flow.loads)
        if loads is None:
            loads = self._known[flow.loads] = self.of(flow.loads)
        for link, share in loads:
            self.carried_s[link] = self.carried_s.get(link, 0.0) + flow.left_s * share
        flow.loads = loads
        self._network.start(flow, now_s)

    def of(self, loads: Loads) -> Loads:
        """Loads of the job's links as loads of the network's."""
        return seen_from_network(loads, self._common, self._first)


def seen_from_network(loads: Loads, common: Mapping[int, Loads], first: int = 0) -> Loads:
    """Loads of one job's links as loads of the network's; see SharedLinks."""
    found: dict[int, float] = {}
    for link, share in loads:
        for other, part in common.get(link, ((link + first, 1.0),)):
            found[other] = max(found.get(other, 0.0), share * part)
    return tuple(found.items())
