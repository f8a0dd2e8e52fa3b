"""What every link of a topology carries, and how long it is busy: from the bytes of every NIC and between leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.hwmodels.cluster import link_bytes_per_s
from moesim.hwmodels.facts import FactError
from moesim.hwmodels.topology import Topology

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio
Bytes = npt.NDArray[np.float64]
Link = tuple[str, str]


@dataclass(frozen=True, slots=True)
class LinkClass:
    """Links of one kind: what each carries and can carry, and what the i-th is called."""

    name: str
    load_bytes: Bytes
    rate_bytes_per_s: Bytes
    title: Callable[[int], str]

    @property
    def busy_s(self) -> Bytes:
        """How long each link is busy at its own rate."""
        return self.load_bytes / self.rate_bytes_per_s

    @property
    def seconds(self) -> float:
        """How long the busiest of them is busy."""
        return float(self.busy_s.max()) if self.load_bytes.size else 0.0


@dataclass(frozen=True, slots=True)
class Loads:
    """All link classes of one exchange."""

    classes: tuple[LinkClass, ...]

    @property
    def seconds(self) -> float:
        """Time of the fluid exchange: the busiest link at its rate."""
        return max(c.seconds for c in self.classes)

    def scaled(self, factor: float) -> Loads:
        """The same exchange with `factor` times the bytes."""
        return Loads(tuple(replace(c, load_bytes=c.load_bytes * factor) for c in self.classes))

    def bottleneck(self) -> tuple[str, float]:
        """Name of the busiest link and the bytes it carries."""
        worst = max(self.classes, key=lambda c: c.seconds)
        index = int(worst.busy_s.argmax())
        return worst.title(index), float(worst.load_bytes[index])

    def summary(self) -> dict[str, dict[str, float]]:
        """Per class: busiest and mean load in bytes, rate, and seconds."""
        loads = {}
        for c in self.classes:
            if c.load_bytes.size:
                worst = int(c.busy_s.argmax())
                loads[c.name] = {
                    "busiest_bytes": float(c.load_bytes[worst]),
                    "mean_bytes": float(c.load_bytes.mean()),
                    "link_bytes_per_s": float(c.rate_bytes_per_s[worst]),
                    "busy_s": c.seconds,
                }
        return loads


@dataclass(frozen=True, slots=True)
class NicTraffic:
    """Bytes of one exchange over every GPU's scale-up link and NIC, each [rank], and between leaves."""

    near_out: Bytes
    near_into: Bytes
    far_out: Bytes
    far_into: Bytes
    leaves: Bytes | None  # [source leaf, destination leaf] in the order of Topology.leaves_of; None inside one domain

    def reversed(self) -> NicTraffic:
        """Every byte the other way."""
        leaves = None if self.leaves is None else self.leaves.T
        return NicTraffic(self.near_into, self.near_out, self.far_into, self.far_out, leaves)

    def times(self, factor: float) -> NicTraffic:
        """The same with `factor` times the bytes, for instance of a token."""
        leaves = None if self.leaves is None else self.leaves * factor
        near_out, near_into = self.near_out * factor, self.near_into * factor
        return NicTraffic(near_out, near_into, self.far_out * factor, self.far_into * factor, leaves)


def link_loads(topology: Topology, traffic: NicTraffic) -> Loads:
    """Loads of all links; what leaves send each other is split alike over all shortest paths (adaptive routing).

    FactError where bytes need a link that is dead.
    """
    ports = _port_classes(topology, traffic)
    if traffic.leaves is None:
        return Loads(ports)
    apart = traffic.leaves.copy()
    np.fill_diagonal(apart, 0.0)
    names, _ = topology.leaves_of(len(traffic.far_out))
    return Loads((*ports, *_fabric(topology, _spread_evenly(topology, names, apart))))


def hashed_loads(topology: Topology, traffic: NicTraffic, between: Bytes) -> Loads:
    """As `link_loads`, but every pair of NICs keeps to one path (static ECMP): `between` [source, destination GPU]."""
    ports = _port_classes(topology, traffic, far=True)
    return Loads((*ports, *_fabric(topology, _hash_to_paths(topology, between))))


def _port_classes(topology: Topology, traffic: NicTraffic, far: bool = False) -> tuple[LinkClass, ...]:
    cluster = topology.cluster
    near, nic, domain = link_bytes_per_s(cluster), cluster.nic_bytes_per_s, cluster.domain
    classes = [
        _ports(topology, "NVLink out", traffic.near_out, near, lambda i: [(f"gpu{i}", f"switch{i // domain}")]),
        _ports(topology, "NVLink in", traffic.near_into, near, lambda i: [(f"switch{i // domain}", f"gpu{i}")]),
    ]
    if far or traffic.leaves is not None:
        leaf = topology.leaf_of
        classes += [
            _ports(topology, "NIC out", traffic.far_out, nic, lambda i: [(f"gpu{i}", f"nic{i}"), (f"nic{i}", leaf[i])]),
            _ports(topology, "NIC in", traffic.far_into, nic, lambda i: [(f"nic{i}", f"gpu{i}"), (leaf[i], f"nic{i}")]),
        ]
    return tuple(classes)


def _ports(
    topology: Topology, name: str, load: Bytes, rate_bytes_per_s: float, links: Callable[[int], Sequence[Link]]
) -> LinkClass:
    """Links of every GPU, healthy but for those that the cluster lists."""
    rates, slow = np.full(load.shape, rate_bytes_per_s), {}
    for gpu in sorted({gpu for fault in topology.cluster.degraded for gpu in fault.gpus()}):
        if gpu < len(load):
            rate, title = topology.port_bytes_per_s(links(gpu), rate_bytes_per_s)
            if rate <= 0.0 and load[gpu] > 0.0:
                raise FactError(
                    f"{title} has failed and gpu{gpu} has no other path: leave that GPU out of the transfer"
                )
            if 0.0 < rate < rate_bytes_per_s:
                rates[gpu], slow[gpu] = rate, title
    return LinkClass(name, load, rates, lambda i: slow.get(i) or " -> ".join(links(i)[0]))


def _fabric(topology: Topology, carried: dict[Link, float]) -> list[LinkClass]:
    """The class of the links among leaves, spines and cores."""
    if not carried:
        return []
    links = list(carried)
    load = np.array([carried[link] for link in links])
    rate = np.array([topology.capacity(link) for link in links])
    return [LinkClass("fabric", load, rate, lambda i: " -> ".join(links[i]))]


def _spread_evenly(topology: Topology, names: Sequence[str], traffic: Bytes) -> dict[Link, float]:
    """Traffic [leaf, leaf] split alike over all shortest paths: adaptive routing, and many hashed flows on average."""
    carried = dict.fromkeys(topology.fabric_links(), 0.0)
    spines = _common_spines(topology, names, traffic)
    if spines is not None:  # every path is up to one of the same spines and down again
        sent, received = traffic.sum(axis=1) / max(1, len(spines)), traffic.sum(axis=0) / max(1, len(spines))
        for leaf, up, down in zip(names, sent.tolist(), received.tolist(), strict=True):
            carried.update({(leaf, spine): up for spine in spines} | {(spine, leaf): down for spine in spines})
        return carried
    for source, row in zip(names, traffic, strict=True):
        if row.any():
            wanted = {name: float(size) for name, size in zip(names, row, strict=True) if size > 0.0}
            for link, size in topology.spread(source, wanted).items():
                carried[link] += size
    return carried


def _common_spines(topology: Topology, names: Sequence[str], traffic: Bytes) -> tuple[str, ...] | None:
    """The spines, where all leaves hang on the same ones and on nothing else, both ways; None elsewhere."""
    if topology.kind not in ("rail-optimised", "fat-tree") or not traffic.any():
        return None
    spines, leaves = topology.fabric[names[0]], set(names)
    alike = all(topology.fabric[name] == spines for name in names)
    return spines if alike and all(leaves <= set(topology.fabric[spine]) for spine in spines) else None


def _hash_to_paths(topology: Topology, between: Bytes) -> dict[Link, float]:
    """Every pair of NICs on the one shortest path that a hash of both numbers picks (Fibonacci hashing)."""
    names, index = topology.leaves_of(between.shape[0])
    members = [np.flatnonzero(index == i) for i in range(len(names))]
    carried = dict.fromkeys(topology.fabric_links(), 0.0)
    for source, senders in zip(names, members, strict=True):
        blocks = {n: between[np.ix_(senders, m)] for n, m in zip(names, members, strict=True) if n != source}
        wanted = {name: block for name, block in blocks.items() if block.any()}
        for target, paths in topology.paths(source, wanted).items():
            receivers = members[names.index(target)]
            keys = senders[:, None].astype(np.uint64) * np.uint64(between.shape[0]) + receivers.astype(np.uint64)
            picks = ((keys * np.uint64(_GOLDEN)) >> np.uint64(40)) % np.uint64(len(paths))
            sizes = np.bincount(picks.reshape(-1).astype(np.intp), wanted[target].reshape(-1), len(paths))
            for path, size in zip(paths, sizes, strict=True):
                for link in path:
                    carried[link] += float(size)
    return carried
