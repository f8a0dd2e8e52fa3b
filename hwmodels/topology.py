"""The cluster as a graph: GPUs, switches inside scale-up domains, NICs, leaves and spines, and the links between them.

Nodes are named "gpu3", "switch0", "nic3", "leaf2", "spine1" and carry `kind`; edges are directed and carry
`bytes_per_s` and `latency_s`. What a fabric's `topology` means:

rail-optimised  NICs of the same position in their host share leaves; leaves of all rails meet at spines
fat-tree        all NICs of a host hang on one leaf; leaves meet at spines
multi-plane     as rail-optimised, but every rail has spines of its own: planes meet only inside the hosts
dragonfly       leaves form groups; within and between groups every pair of leaves has a direct link
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import networkx as nx

from hwmodels.cluster import Cluster
from hwmodels.facts import FactError

if TYPE_CHECKING:
    Graph = nx.DiGraph[str]
else:
    Graph = nx.DiGraph  # not subscriptable at run time

TOPOLOGIES = ("rail-optimised", "fat-tree", "multi-plane", "dragonfly")
_NVLINK_HOP_S = 0.5e-6  # assumed: one traversal of the switch inside a domain
_LEAF_PORTS = 32  # hosts behind one leaf: a 64-port switch, half of it facing down
_GROUP_LEAVES = 8  # leaves of one dragonfly group


@dataclass(frozen=True, slots=True)
class Topology:
    """A graph and the names that routing needs: where a GPU, its NIC and its leaf are."""

    graph: Graph
    cluster: Cluster
    kind: str
    leaf_of: tuple[str, ...]  # leaf of every GPU's NIC; empty when the domain is all there is

    def domain_of(self, gpu: int) -> int:
        """The scale-up domain of a GPU."""
        return gpu // self.cluster.domain

    def rail_of(self, gpu: int) -> int:
        """Position of a GPU among those of its domain."""
        return gpu % self.cluster.domain

    def capacity(self, link: tuple[str, str]) -> float:
        """Bytes per second of one directed edge."""
        return float(self.graph.edges[link]["bytes_per_s"])

    def latency_s(self, path: list[str]) -> float:
        """Sum of the latencies along a path."""
        return sum(float(self.graph.edges[edge]["latency_s"]) for edge in pairwise(path))


def _join(graph: Graph, a: str, b: str, bytes_per_s: float, latency_s: float) -> None:
    if bytes_per_s <= 0:
        raise FactError(f"the link between {a} and {b} has no bandwidth")
    graph.add_edge(a, b, bytes_per_s=bytes_per_s, latency_s=latency_s)
    graph.add_edge(b, a, bytes_per_s=bytes_per_s, latency_s=latency_s)


def _inside(graph: Graph, cluster: Cluster) -> None:
    """GPUs of a domain around one switch (several planes count as one), or around the host's PCIe root."""
    rate = cluster.gpu.scale_up_bytes_per_s or cluster.gpu.pcie_bytes_per_s
    for gpu in range(cluster.gpus):
        switch = f"switch{gpu // cluster.domain}"
        graph.add_node(f"gpu{gpu}", kind="gpu")
        graph.add_node(switch, kind="switch")
        _join(graph, f"gpu{gpu}", switch, rate, _NVLINK_HOP_S)


def _leaf_name(cluster: Cluster, kind: str, gpu: int) -> str:
    domain, rail = divmod(gpu, cluster.domain)
    host = gpu // cluster.gpus_per_host
    if kind in ("rail-optimised", "multi-plane"):
        pod = domain // _LEAF_PORTS
        return f"leaf{pod * cluster.domain + rail}"
    return f"leaf{host // max(1, _LEAF_PORTS // cluster.gpus_per_host)}"


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


def _spines(graph: Graph, cluster: Cluster, leaves: tuple[str, ...], kind: str) -> None:
    """Uplinks: every leaf sends 1/oversubscription of what its NICs bring, spread over the spines it reaches."""
    hop = cluster.fabric_latency_s / 4.0
    down: dict[str, int] = {}
    for leaf in leaves:
        down[leaf] = down.get(leaf, 0) + 1
    if len(down) < 2:
        return
    planes: dict[str, list[str]] = {}
    for leaf in down:
        plane = str(int(leaf[4:]) % cluster.domain) if kind == "multi-plane" else ""
        planes.setdefault(plane, []).append(leaf)
    number = 0
    for members in planes.values():
        if len(members) < 2:
            continue
        count = max(2, min(8, len(members) // 2))
        for spine in range(number, number + count):
            graph.add_node(f"spine{spine}", kind="spine")
            for leaf in members:
                rate = down[leaf] * cluster.nic_bytes_per_s / cluster.oversubscription / count
                _join(graph, leaf, f"spine{spine}", rate, hop)
        number += count


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
    topology = Topology(graph, cluster, kind, leaves)
    check_connected(topology)
    return topology


def check_connected(topology: Topology) -> None:
    """FactError when some GPU cannot reach another."""
    if topology.graph.number_of_nodes() and not nx.is_weakly_connected(topology.graph):
        parts = nx.number_weakly_connected_components(topology.graph)
        raise FactError(f"the graph of {topology.cluster.name} falls into {parts} parts that no link joins")
