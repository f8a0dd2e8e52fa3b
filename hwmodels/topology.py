"""The cluster as a graph: GPUs, switches inside scale-up domains, NICs, leaves and spines, and the links between them.

Nodes are named "gpu3", "switch0", "nic3", "leaf2", "spine1" and carry `kind`; edges are directed and carry
`bytes_per_s` and `latency_s`. What a fabric's `topology` means:

rail-optimised  NICs of the same position in their host share leaves; leaves of all rails meet at spines
fat-tree        all NICs of a host hang on one leaf; leaves meet at spines
three-tier      as fat-tree, in pods of leaves with spines of their own; the spines of all pods meet at cores
multi-plane     as rail-optimised, but every rail has spines of its own: planes meet only inside the hosts
dragonfly       leaves form groups; within and between groups every pair of leaves has a direct link
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
import numpy.typing as npt

from moesim.hwmodels.cluster import LEAF_PORTS, RAILED, Cluster, gpus_below_leaf, link_bytes_per_s
from moesim.hwmodels.facts import TOPOLOGIES, FactError
from moesim.hwmodels.link_faults import unknown_link

if TYPE_CHECKING:
    Graph = nx.DiGraph[str]
else:
    Graph = nx.DiGraph  # not subscriptable at run time

_NVLINK_HOP_S = 0.5e-6  # assumed: one traversal of the switch inside a domain
_GROUP_LEAVES = 8  # assumed: leaves of one dragonfly group
_POD_LEAVES = 8  # assumed: leaves of one pod of a three-tier tree


@dataclass(frozen=True, slots=True)
class Topology:
    """A graph and the names that routing needs: where a GPU, its NIC and its leaf are."""

    graph: Graph
    cluster: Cluster
    kind: str
    leaf_of: tuple[str, ...]  # leaf of every GPU's NIC; empty when the domain is all there is
    fabric: Mapping[str, tuple[str, ...]]  # neighbours of every leaf, spine and core among themselves

    def leaves_of(self, gpus: int) -> tuple[list[str], npt.NDArray[np.intp]]:
        """Names of the leaves that the first `gpus` GPUs hang on, and the number among them of every GPU's."""
        leaves = self.leaf_of[:gpus]
        names = sorted(set(leaves), key=lambda name: int(name[4:]))
        position = {name: i for i, name in enumerate(names)}
        return names, np.array([position[leaf] for leaf in leaves], dtype=np.intp)

    def capacity(self, link: tuple[str, str]) -> float:
        """Bytes per second of one directed edge."""
        return float(self.graph.edges[link]["bytes_per_s"])

    def fabric_links(self) -> list[tuple[str, str]]:
        """Directed links among leaves, spines and cores."""
        return [(a, b) for a, others in self.fabric.items() for b in others]

    def spread(self, source: str, wanted: dict[str, float]) -> dict[tuple[str, str], float]:
        """Bytes per fabric link when `source` sends `wanted` bytes to other leaves over all shortest paths alike.

        FactError when a leaf cannot be reached without passing through a host (planes that nothing joins).
        """
        order, paths, before = _shortest(self.fabric, source)
        self._check_reached(source, wanted, paths)
        flow = {node: wanted.get(node, 0.0) for node in order}
        carried: dict[tuple[str, str], float] = {}
        for node in reversed(order):  # farthest first: what a node needs comes from its predecessors
            if flow[node] > 0.0:
                for parent in before[node]:
                    size = flow[node] * paths[parent] / paths[node]
                    carried[(parent, node)] = carried.get((parent, node), 0.0) + size
                    flow[parent] += size
        return carried

    def paths(self, source: str, targets: Iterable[str]) -> dict[str, list[list[tuple[str, str]]]]:
        """All shortest paths from one leaf to others, each as its links. FactError as `spread`."""
        _, _, before = _shortest(self.fabric, source)
        targets = list(targets)
        self._check_reached(source, targets, before)
        return {target: _walk(before, target) for target in targets}

    def _check_reached(self, source: str, wanted: Iterable[str], reached: Iterable[str]) -> None:
        missing = sorted(set(wanted) - set(reached))
        if not missing:
            return
        dead = ", ".join(fault.link for fault in self.cluster.degraded if fault.factor == 0.0)
        why = f"no path is left where {dead} failed" if dead else "route over the hosts (pxn)"
        raise FactError(f"{source} cannot reach {missing[0]}: {why}")

    def port_bytes_per_s(self, links: Iterable[tuple[str, str]], rate_bytes_per_s: float) -> tuple[float, str]:
        """Rate of links in a row that carry at most `rate_bytes_per_s`, and the slowest of them; 0 for a dead one."""
        edges = self.graph.edges
        rated = [(float(edges[a, b]["bytes_per_s"]) if (a, b) in edges else 0.0, f"{a} -> {b}") for a, b in links]
        slowest, name = min(rated, key=lambda pair: pair[0])
        return min(rate_bytes_per_s, slowest), name


def _walk(before: Mapping[str, list[str]], node: str) -> list[list[tuple[str, str]]]:
    """Paths that end at `node`, out of the nodes before each on them."""
    if not before[node]:
        return [[]]
    return [[*path, (parent, node)] for parent in before[node] for path in _walk(before, parent)]


def _shortest(
    neighbours: Mapping[str, tuple[str, ...]], source: str
) -> tuple[list[str], dict[str, int], dict[str, list[str]]]:
    """Nodes by distance, number of shortest paths to each, and the nodes before it on them."""
    distance, paths = {source: 0}, {source: 1}
    before: dict[str, list[str]] = {source: []}
    order = [source]
    for node in order:
        for other in neighbours.get(node, ()):
            if other not in distance:
                distance[other], paths[other], before[other] = distance[node] + 1, 0, []
                order.append(other)
            if distance[other] == distance[node] + 1:
                paths[other] += paths[node]
                before[other].append(node)
    return order, paths, before


def _join(graph: Graph, a: str, b: str, bytes_per_s: float, latency_s: float) -> None:
    if bytes_per_s <= 0:
        raise FactError(f"the link between {a} and {b} has no bandwidth")
    graph.add_edge(a, b, bytes_per_s=bytes_per_s, latency_s=latency_s)
    graph.add_edge(b, a, bytes_per_s=bytes_per_s, latency_s=latency_s)


def _inside(graph: Graph, cluster: Cluster) -> None:
    """GPUs of a domain around one switch (several planes count as one), or around the host's PCIe root."""
    rate = link_bytes_per_s(cluster)
    for gpu in range(cluster.gpus):
        switch = f"switch{gpu // cluster.domain}"
        graph.add_node(f"gpu{gpu}", kind="gpu")
        graph.add_node(switch, kind="switch")
        _join(graph, f"gpu{gpu}", switch, rate, _NVLINK_HOP_S)


def _leaf_name(cluster: Cluster, kind: str, gpu: int) -> str:
    if kind in RAILED:
        host, rail = divmod(gpu, cluster.gpus_per_host)
        return f"leaf{host // LEAF_PORTS * cluster.gpus_per_host + rail}"
    return f"leaf{gpu // gpus_below_leaf(replace(cluster, topology=kind))}"


def _outside(graph: Graph, cluster: Cluster, kind: str) -> tuple[str, ...]:
    """NICs and leaves; returns the leaf of every GPU."""
    hop = cluster.fabric_latency_s / 4.0  # NIC to leaf, leaf to spine and back: four hops end to end
    leaves = []
    for gpu in range(cluster.gpus):
        leaf = _leaf_name(cluster, kind, gpu)
        graph.add_node(f"nic{gpu}", kind="nic")
        graph.add_node(leaf, kind="leaf")
        _join(graph, f"gpu{gpu}", f"nic{gpu}", max(cluster.nic_bytes_per_s, cluster.gpu.pcie_bytes_per_s), 0.0)
        _join(graph, f"nic{gpu}", leaf, cluster.nic_bytes_per_s, hop)
        leaves.append(leaf)
    return tuple(leaves)


def _uplinks(
    graph: Graph, cluster: Cluster, ports: dict[str, int], members: list[str], first: int, kind: str
) -> dict[str, int]:
    """Join `members` to `count` nodes above them; returns those and how many NIC ports' worth each carries.

    Every member sends 1/oversubscription of what it brings, spread evenly.
    """
    hop = cluster.fabric_latency_s / 4.0
    count = max(2, min(8, len(members) // 2))
    above = {f"{kind}{number}": 0 for number in range(first, first + count)}
    for name in above:
        graph.add_node(name, kind=kind)
        for member in members:
            rate = ports[member] * cluster.nic_bytes_per_s / cluster.oversubscription / count
            _join(graph, member, name, rate, hop)
    total = sum(ports[m] for m in members)
    return dict.fromkeys(above, max(1, total // count))


def _spines(graph: Graph, cluster: Cluster, leaves: tuple[str, ...], kind: str) -> None:
    """Spines over the leaves: one set for all, one per plane, or one per pod with cores above them."""
    ports: dict[str, int] = {}
    for leaf in leaves:
        ports[leaf] = ports.get(leaf, 0) + 1
    parts: dict[int, list[str]] = {}
    for leaf in ports:
        number = int(leaf[4:])
        part = {"multi-plane": number % cluster.gpus_per_host, "three-tier": number // _POD_LEAVES}.get(kind, 0)
        parts.setdefault(part, []).append(leaf)
    tops: dict[str, int] = {}
    for members in parts.values():
        if len(members) > 1 or (kind == "three-tier" and len(parts) > 1):
            tops |= _uplinks(graph, cluster, ports, members, len(tops), "spine")
    if kind == "three-tier" and len(parts) > 1:
        _uplinks(graph, cluster, tops, list(tops), 0, "core")


def _dragonfly(graph: Graph, cluster: Cluster, leaves: tuple[str, ...]) -> None:
    """All leaves of a group joined, and one link between every pair of groups' matching leaves."""
    hop = cluster.fabric_latency_s / 3.0
    names = sorted(set(leaves), key=lambda name: int(name[4:]))
    down = {leaf: leaves.count(leaf) for leaf in names}
    groups = [names[i : i + _GROUP_LEAVES] for i in range(0, len(names), _GROUP_LEAVES)]
    for group in groups:
        for i, a in enumerate(group):
            for b in group[i + 1 :]:
                share = down[a] * cluster.nic_bytes_per_s / cluster.oversubscription / max(1, len(group) - 1)
                _join(graph, a, b, share, hop)
    for i, first in enumerate(groups):
        for second in groups[i + 1 :]:
            for a, b in zip(first, second, strict=False):
                share = down[a] * cluster.nic_bytes_per_s / cluster.oversubscription / max(1, len(groups) - 1)
                _join(graph, a, b, share, hop)


def build_topology(cluster: Cluster, kind: str | None = None) -> Topology:
    """The graph of a cluster; `kind` overrides the fabric's own topology. FactError for what cannot be built."""
    kind = kind or cluster.topology
    if kind not in TOPOLOGIES:
        raise FactError(f"topology {kind!r} is not known; use one of {', '.join(TOPOLOGIES)}")
    graph: Graph = nx.DiGraph()
    _inside(graph, cluster)
    leaves: tuple[str, ...] = ()
    if cluster.domains > 1:
        if cluster.nic_bytes_per_s <= 0:
            raise FactError(f"{cluster.name} has no NICs: its {cluster.domains} domains are not connected")
        leaves = _outside(graph, cluster, kind)
        if kind == "dragonfly":
            _dragonfly(graph, cluster, leaves)
        else:
            _spines(graph, cluster, leaves, kind)
    check_connected(Topology(graph, cluster, kind, leaves, {}))
    _degrade(graph, cluster)
    return Topology(graph, cluster, kind, leaves, _inner(graph))


def _degrade(graph: Graph, cluster: Cluster) -> None:
    """Links at their share of the rate; dead ones leave the graph. FactError for a link that does not exist."""
    inside = [fault.link for fault in cluster.degraded if "switch" in fault.link]
    if cluster.torus_dimensions and inside:
        raise FactError(
            f"{inside[0]}: the GPUs of {cluster.name} are joined to neighbours, without a switch, and slow links of a "
            "torus are not modelled; leave it out, or degrade a NIC"
        )
    for fault in cluster.degraded:
        if not graph.has_edge(fault.source, fault.target):
            near = graph.successors(fault.source) if fault.source in graph else ()
            raise unknown_link(fault, graph, near, cluster.name)
    for fault in cluster.degraded:
        if fault.factor == 0.0:
            graph.remove_edge(fault.source, fault.target)
        else:
            graph.edges[fault.source, fault.target]["bytes_per_s"] *= fault.factor


def _inner(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Neighbours of every leaf, spine and core among themselves."""
    inner = {name for name, data in graph.nodes(data=True) if data["kind"] in ("leaf", "spine", "core")}
    return {name: tuple(other for other in graph.successors(name) if other in inner) for name in graph if name in inner}


def check_connected(topology: Topology) -> None:
    """FactError when some GPU cannot reach another."""
    if topology.graph.number_of_nodes() and not nx.is_weakly_connected(topology.graph):
        parts = nx.number_weakly_connected_components(topology.graph)
        raise FactError(f"the graph of {topology.cluster.name} falls into {parts} parts that no link joins")
