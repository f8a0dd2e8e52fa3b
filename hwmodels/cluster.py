"""Cluster: how many GPUs, which of them share a scale-up domain, and what the links between domains carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moesim.hwmodels.facts import FabricRecord, FactError, NodeRecord, catalogue, checked, lookup
from moesim.hwmodels.gpu import GpuSpec, load_gpu
from moesim.hwmodels.work import Group

_DEFAULT_FABRIC = {2.5e10: "rail-ib-200", 5.0e10: "rail-ib-400", 1.0e11: "rail-ib-800", 1.25e10: "ib-edr-100"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """`gpus` GPUs in scale-up domains of `domain`; every GPU owns a share of its host's NICs."""

    name: str
    gpu: GpuSpec
    gpus: int
    domain: int  # GPUs per scale-up domain that a job can use together
    gpus_per_host: int
    nic_bytes_per_s: float  # per GPU, one direction; 0 when the domain is all there is
    fabric: str
    fabric_latency_s: float
    oversubscription: float
    topology: str  # of the fabric, see hwmodels.topology
    host_cpu: str  # "x86" or "grace"
    source: str

    def group(self, ranks: int, stride: int = 1) -> Group:
        """The communicator of `ranks` GPUs that lie `stride` apart in rank order."""
        return Group(ranks, max(1, min(ranks, self.domain // stride)))

    @property
    def domains(self) -> int:
        """Scale-up domains in use."""
        return -(-self.gpus // self.domain)


def node_names() -> tuple[str, ...]:
    """Names of all nodes in the catalogue."""
    return tuple(catalogue("nodes"))


def fabric_names() -> tuple[str, ...]:
    """Names of all fabrics in the catalogue."""
    return tuple(catalogue("fabrics"))


def node_for_gpu(gpu: str) -> str:
    """The first catalogue node that is built from this GPU. FactError when there is none."""
    spec = load_gpu(gpu)
    for name, record in catalogue("nodes").items():
        if record["gpu"] == spec.name:
            return name
    raise FactError(f"no node in the catalogue holds {spec.name}; give cluster.node, one of {', '.join(node_names())}")


def _usable_domain(per_domain: int, gpus: int) -> int:
    """NVL72 jobs that span racks take 64 GPUs of each, so that groups of a power of two stay inside (assumed)."""
    if per_domain == 72 and gpus > 72:
        return 64
    return per_domain


def build_cluster(
    node: str,
    gpus: int,
    fabric: str | None = None,
    nic_bytes_per_s: float | None = None,
    oversubscription: float | None = None,
) -> Cluster:
    """A cluster of `gpus` GPUs from a catalogue node and fabric; NIC rate per GPU may be overridden."""
    record = checked(NodeRecord, "nodes", node, lookup(catalogue("nodes"), node, "node"))
    if gpus < 1:
        raise FactError(f"a cluster needs at least one GPU, not {gpus}")
    nic = record.nic_bytes_per_s or 0.0
    asked = fabric is not None
    fabric = fabric or _DEFAULT_FABRIC.get(nic, "rail-ib-400")
    link = checked(FabricRecord, "fabrics", fabric, lookup(catalogue("fabrics"), fabric, "fabric"))
    if asked and nic:  # a NIC runs no faster than the port it is plugged into
        nic = min(nic, link.link_bytes_per_s)
    rate = nic * (record.nics_per_host or 0.0) / record.gpus_per_host or link.link_bytes_per_s
    if nic_bytes_per_s is not None:
        rate = nic_bytes_per_s
    return Cluster(
        name=f"{gpus} x {record.gpu} ({node}, {fabric})",
        gpu=load_gpu(record.gpu),
        gpus=gpus,
        domain=_usable_domain(record.gpus_per_domain, gpus),
        gpus_per_host=record.gpus_per_host,
        nic_bytes_per_s=rate,
        fabric=fabric,
        fabric_latency_s=link.latency_s,
        oversubscription=link.oversubscription if oversubscription is None else oversubscription,
        topology=link.topology,
        host_cpu=record.host_cpu,
        source=f"{record.source}; {link.source}",
    )


def link_bytes_per_s(cluster: Cluster) -> float:
    """The scale-up link of one GPU, or PCIe where a box has none."""
    return cluster.gpu.scale_up_bytes_per_s or cluster.gpu.pcie_bytes_per_s


# What leaves hang together, and how much of a transfer climbs from leaves to spines: where oversubscription bites. A
# NIC that sends through an uplink shared `oversubscription` to one gets that share of its rate, but only for what
# leaves the leaf. Traffic that stays below one leaf, or on a rail whose leaf all hosts share, does not
# notice. The same leaf sizes draw the graph in hwmodels/topology.py.
LEAF_PORTS = 32  # assumed: a 64-port switch, half of it facing down
RAILED = ("rail-optimised", "multi-plane")  # one leaf per position in the host

Pattern = Literal["neighbours", "everyone"]


def gpus_below_leaf(cluster: Cluster) -> int:
    """GPUs that reach each other (on their rail, where there are rails) without a spine."""
    if cluster.topology in RAILED:  # a leaf takes one NIC of each of its hosts
        return LEAF_PORTS * cluster.gpus_per_host
    return max(1, LEAF_PORTS // cluster.gpus_per_host) * cluster.gpus_per_host


def climbing_share(cluster: Cluster, group: Group, pattern: Pattern, on_rail: bool) -> float:
    """Share of what a NIC sends that goes over an uplink, 0 to 1.

    `neighbours`: each domain talks to the next one (rings); `everyone`: to all alike. `on_rail`: messages go to the
    same position in the other domain, as rings, PXN and forwarding arrange it.
    """
    if group.domains <= 1:
        return 0.0
    below = gpus_below_leaf(cluster) / cluster.domain  # domains behind one leaf, or a part of one
    inside = min(1.0, below / group.domains)
    climbs = 1.0 - inside
    if pattern == "neighbours" and inside < 1.0:  # only the last domain behind a leaf talks to another leaf
        climbs = min(1.0, 1.0 / below)
    if not on_rail and cluster.topology in RAILED:  # only messages that happen to stay on the rail stay below
        climbs = 1.0 - (1.0 - climbs) / group.per_domain
    return climbs


def slowdown(cluster: Cluster, group: Group, pattern: Pattern, on_rail: bool = True) -> float:
    """By how much uplinks stretch what the NICs carry: 1 unless the climbing share fills them."""
    return max(1.0, cluster.oversubscription * climbing_share(cluster, group, pattern, on_rail))
