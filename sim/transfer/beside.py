"""Transfers beside each other on one cluster: how much an exchange suffers from reductions, sends or KV transfers.

Every transfer is laid on the links of the topology, stretched so that alone it takes what the cost model says, and all
run as max-min fair flows (sim/clock/flows.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.collective_traffic import collective_matrix
from moesim.hwmodels.facts import did_you_mean
from moesim.hwmodels.link_loads import Loads
from moesim.hwmodels.topology import Topology
from moesim.hwmodels.traffic import exchange_loads
from moesim.hwmodels.units import MIB, parse_quantity
from moesim.hwmodels.work import COLLECTIVES, Comm, CommKind
from moesim.sim.clock.flows import Transfer, run_transfers
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.transfer.alone import time_alone

_FORM = "write OP:BYTES:RANKS or OP:BYTES:RANKS:STRIDE, for example all_reduce:1GiB:8:8"


@dataclass(frozen=True, slots=True)
class Beside:
    """Another collective at the same time: by all groups of `ranks` GPUs that lie `stride` apart."""

    op: CommKind
    size_bytes: float
    ranks: int
    stride: int = 1

    @property
    def title(self) -> str:
        """What people wrote, with sizes in bytes."""
        return f"{self.op} of {self.size_bytes / MIB:,.4g} MiB by {self.ranks} GPUs {self.stride} apart"


@dataclass(frozen=True, slots=True)
class Together:
    """One transfer alone and among the others: seconds, and the link on which it spends most of them."""

    title: str
    alone_s: float
    together_s: float
    busiest_link: str


def parse_beside(text: str) -> Beside:
    """OP:BYTES:RANKS[:STRIDE]. ScenarioError for anything else."""
    parts = text.split(":")
    if len(parts) not in (3, 4):
        raise ScenarioError(f"beside {text!r}: {_FORM}")
    if parts[0] not in COLLECTIVES:
        raise ScenarioError(f"beside {text!r}: {did_you_mean(parts[0], list(COLLECTIVES))}")
    if not all(p.isdecimal() and int(p) > 0 for p in parts[2:]):
        raise ScenarioError(f"beside {text!r}: ranks and stride are whole numbers above zero; {_FORM}")
    size = float(parse_quantity(parts[1], "B"))
    if not 0 < size < float("inf"):
        raise ScenarioError(f"beside {text!r}: bytes must be above zero; {_FORM}")
    stride = int(parts[3]) if len(parts) == 4 else 1
    return Beside(parts[0], size, int(parts[2]), stride)


@dataclass(frozen=True, slots=True)
class Party:
    """A transfer on its links: seconds alone, and flows on each link that it uses."""

    title: str
    loads: Loads
    alone_s: float
    flows: int


def party_of(beside: Beside, cluster: Cluster, topology: Topology) -> Party:
    """Lay another collective on the links. FactError for groups that do not fit."""
    b = beside
    matrix = collective_matrix(b.op, b.size_bytes, cluster.gpus, b.ranks, b.stride, cluster.domain)
    group = cluster.group(b.ranks, b.stride)
    loads = exchange_loads(matrix, topology, "pxn" if cluster.topology == "multi-plane" else "direct")
    alone_s = time_alone(Comm(b.op, b.size_bytes, group), cluster).time_s
    return Party(b.title, loads, alone_s, group.ranks - 1 if b.op == "all_to_all" else 1)


def together(parties: Sequence[Party]) -> list[Together]:
    """All at once from the same moment."""
    links: dict[str, dict[int, float]] = {}
    names: dict[int, str] = {}
    for i, party in enumerate(parties):
        stretch = party.alone_s / party.loads.seconds  # protocols and floors: alone it takes what was measured
        names[i] = party.loads.bottleneck()[0]
        for kind in party.loads.classes:
            for number, busy_s in enumerate(kind.busy_s):
                if busy_s > 0.0:
                    links.setdefault(kind.title(number), {})[i] = float(busy_s) * stretch
    transfers = []
    kept = _distinct(links)
    for i, party in enumerate(parties):
        loads = {name: load[i] for name, load in kept.items() if i in load}
        transfers.append(Transfer(str(i), loads, dict.fromkeys(loads, float(party.flows))))
    done = run_transfers(transfers, dict.fromkeys(kept, 1.0))
    return [Together(p.title, p.alone_s, done[str(i)], names[i]) for i, p in enumerate(parties)]


def _distinct(links: Mapping[str, Mapping[int, float]]) -> dict[str, Mapping[int, float]]:
    """One link of those that carry the same: in symmetric traffic a handful stands for thousands."""
    seen: dict[tuple[tuple[int, float], ...], str] = {}
    for name, load in links.items():
        seen.setdefault(tuple(sorted((i, float(f"{s:.12g}")) for i, s in load.items())), name)
    return {name: links[name] for name in seen.values()}
