"""Cluster: how many GPUs, which of them share a scale-up domain, and what the links between domains carry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import log
from typing import Literal, NamedTuple, get_args

from moesim.hwmodels.facts import (
    FabricKind,
    FabricRecord,
    FactError,
    InstanceRecord,
    NodeRecord,
    catalogue,
    did_you_mean,
)
from moesim.hwmodels.gpu import GpuSpec, load_gpu
from moesim.hwmodels.hardware import SHIPPED, Hardware, record_of
from moesim.hwmodels.link_faults import LinkFault
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
    fabric_kind: str  # one of fabric_kinds(), or none
    fabric_latency_s: float
    oversubscription: float
    topology: str  # of the fabric, see hwmodels.topology
    host_cpu: str  # "x86" or "grace"
    source: str
    degraded: tuple[LinkFault, ...] = ()  # links that run slower than that, or not at all
    leaf_share: float = 1.0  # of a leaf's NICs in use, those of this job: the others of its fabric have the rest
    host_memory_bytes: float = 0.0  # of one host; 0 where nobody knows
    host_memory_source: str = ""
    torus_dimensions: int = 0  # of the links inside a domain; 0: switches, or all pairs joined
    leaf_gpus: int = 0  # of this job behind one leaf, where it shares leaves; 0: as many as a leaf takes

    def group(self, ranks: int, stride: int = 1) -> Group:
        """The communicator of `ranks` GPUs that lie `stride` apart in rank order."""
        return Group(ranks, max(1, min(ranks, self.domain // stride)), max(1, stride // self.domain))

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


def fabric_kinds() -> tuple[FabricKind, ...]:
    """What a fabric may be: its hardware and what talks to it."""
    return get_args(FabricKind)


def _fabric_named(asked: str, rate_bytes_per_s: float, hardware: Hardware) -> str:
    """A fabric's name; of a kind, the first whose link is nearest to what one GPU's NICs carry."""
    if asked not in fabric_kinds():
        if asked not in hardware.names("fabrics"):
            known = [*hardware.names("fabrics"), *fabric_kinds()]
            raise FactError(f"unknown fabric {asked!r}; {did_you_mean(asked, known)}")
        return asked
    alike = {name: record_of(FabricRecord, "fabrics", name, hardware) for name in hardware.names("fabrics")}
    alike = {name: record for name, record in alike.items() if record.kind == asked}
    return min(alike, key=lambda name: abs(log(alike[name].link_bytes_per_s / (rate_bytes_per_s or 5.0e10))))


def node_for_gpu(gpu: str, hardware: Hardware = SHIPPED) -> str:
    """The first node that is built from this GPU, or the instance of that spelling. FactError when there is none."""
    node = hardware.node_of(gpu)
    if node is None:
        spec = load_gpu(gpu, hardware)
        known = ", ".join(hardware.names("nodes"))
        raise FactError(f"no node holds {spec.name}; give cluster.node, one of {known}")
    return node


class _Machine(NamedTuple):
    """A node as it is bought or rented: the record, its GPU, and the price that an instance has."""

    node: NodeRecord
    gpu: GpuSpec


def _machine(name: str, hardware: Hardware) -> _Machine:
    """The node or instance of that name. FactError with the nearest names otherwise."""
    rented = None if name in hardware.names("nodes") else hardware.instance_called(name)
    if rented is None:
        node = record_of(NodeRecord, "nodes", name, hardware)
        return _Machine(node, _in_node(load_gpu(node.gpu, hardware), node))
    instance = record_of(InstanceRecord, "instances", rented, hardware)
    node = record_of(NodeRecord, "nodes", instance.node, hardware)
    own = instance.model_dump(exclude_none=True, include=_OF_INSTANCE)
    node = node.model_copy(update={**own, "source": f"{instance.source}; otherwise as {instance.node}: {node.source}"})
    gpu, price = _in_node(load_gpu(node.gpu, hardware), node), instance.usd_per_hour
    if price is None:
        return _Machine(node, gpu)
    middle = (price.low + price.high) / 2.0 / node.gpus_per_host
    note = f"{rented} on demand, {price.date}" if price.low == price.high else f"{rented}, {price.date}"
    return _Machine(node, replace(gpu, price_usd_per_hour=middle, price_note=f"{note} ({instance.source})"))


_OF_INSTANCE = {
    "nics_per_host", "nic_bytes_per_s", "nic_type", "fabric", "host_memory_bytes", "host_memory_source",
}  # fmt: skip


def _in_node(gpu: GpuSpec, node: NodeRecord) -> GpuSpec:
    """The GPU with the links that this node gives it."""
    rate = node.scale_up_bytes_per_s
    return gpu if rate is None else replace(gpu, scale_up_bytes_per_s=rate)


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
    degraded: tuple[LinkFault, ...] = (),
    hardware: Hardware = SHIPPED,
) -> Cluster:
    """A cluster of `gpus` GPUs from a node or instance and a fabric; NIC rate per GPU may be overridden.

    `fabric` is a name of the catalogue or one of `fabric_kinds`; `hardware`: what names stand for. A NIC runs no faster
    than the GPU's PCIe slot, where its own rate is not known. FactError for names that nothing is called, and for
    oversubscription where no uplinks are.
    """
    record, gpu = _machine(node, hardware)
    if gpus < 1:
        raise FactError(f"a cluster needs at least one GPU, not {gpus}")
    nic = record.nic_bytes_per_s or 0.0
    asked = fabric is not None
    of_node = nic * (record.nics_per_host or 0.0) / record.gpus_per_host
    usual = "efa" if (record.nic_type or "").startswith("EFA") else _DEFAULT_FABRIC.get(nic, "rail-ib-400")
    fabric = _fabric_named(fabric or record.fabric or usual, nic_bytes_per_s or of_node, hardware)
    link = record_of(FabricRecord, "fabrics", fabric, hardware)
    if asked and nic:  # a NIC runs no faster than the port it is plugged into
        nic = min(nic, link.link_bytes_per_s)
    rate = nic * (record.nics_per_host or 0.0) / record.gpus_per_host
    if not rate:
        rate = min(link.link_bytes_per_s, gpu.pcie_bytes_per_s or link.link_bytes_per_s)
    if nic_bytes_per_s is not None:
        rate = nic_bytes_per_s
    cluster = Cluster(
        name=f"{gpus} x {gpu.name} ({node}, {fabric})",
        gpu=gpu,
        gpus=gpus,
        domain=_usable_domain(record.gpus_per_domain, gpus),
        gpus_per_host=record.gpus_per_host,
        nic_bytes_per_s=rate,
        fabric=fabric,
        fabric_kind=link.kind,
        fabric_latency_s=link.latency_s,
        oversubscription=link.oversubscription if oversubscription is None else oversubscription,
        topology=link.topology,
        host_cpu=record.host_cpu,
        source=f"{record.source}; {link.source}",
        degraded=degraded,
        host_memory_bytes=record.host_memory_bytes,
        host_memory_source=record.host_memory_source,
        torus_dimensions=record.torus_dimensions,
    )
    if oversubscription is not None and oversubscription > 1.0:
        check_uplinks(cluster)
    return cluster


def with_hosts_of(cluster: Cluster, gpus_per_host: int) -> Cluster:
    """The same cluster with fewer GPUs in each host; each keeps its NIC rate. Where the host was the scale-up domain it
    stays so. FactError for more than the node holds."""
    most = cluster.gpus_per_host
    if not 1 <= gpus_per_host <= most:
        known = f"use 1 to {most}, or another node"
        raise FactError(f"gpus_per_node = {gpus_per_host}, but a host of {cluster.name} holds {most}; {known}")
    domain = gpus_per_host if cluster.domain == most else cluster.domain
    return replace(cluster, gpus_per_host=gpus_per_host, domain=domain)


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


def check_uplinks(cluster: Cluster) -> None:
    """FactError where oversubscription is asked for, but no leaf has a link to anything above it."""
    where = ""
    if cluster.domains == 1:
        where = f"its {cluster.gpus} GPUs share one scale-up domain"
    elif cluster.gpus <= gpus_below_leaf(cluster) and not (
        cluster.topology == "rail-optimised" and cluster.gpus_per_host > 1  # leaves of several rails meet at spines
    ):
        where = "one leaf holds all NICs" + (" of a plane" if cluster.topology == "multi-plane" else "")
    if where:
        raise FactError(
            f"oversubscription = {cluster.oversubscription:g} needs uplinks from leaves to spines, but {cluster.name} "
            f"has none: {where}; leave oversubscription out, or ask for more GPUs or another fabric"
        )


def climbing_share(cluster: Cluster, group: Group, pattern: Pattern, on_rail: bool) -> float:
    """Share of what a NIC sends that goes over an uplink, 0 to 1.

    `neighbours`: each domain talks to the next one (rings); `everyone`: to all alike. `on_rail`: messages go to the
    same position in the other domain, as rings, PXN and forwarding arrange it.
    """
    if group.domains <= 1:
        return 0.0
    behind = cluster.leaf_gpus or gpus_below_leaf(cluster)
    below = max(1.0, behind / (cluster.domain * group.apart))  # of the group's domains, behind one leaf
    climbs = max(0.0, (group.domains - below) / (group.domains - 1))
    if pattern == "neighbours" and climbs > 0.0:  # only the last domain behind a leaf talks to another leaf
        climbs = 1.0 / below
    if not on_rail and cluster.topology in RAILED:  # only messages that happen to stay on the rail stay below
        climbs = 1.0 - (1.0 - climbs) / group.per_domain
    return climbs


def slowdown(cluster: Cluster, group: Group, pattern: Pattern, on_rail: bool = True) -> float:
    """By how much uplinks stretch what the NICs carry: 1 unless the climbing share fills them.

    All GPUs of the job behind a leaf send at once; other jobs of the fabric do not.
    """
    return max(1.0, uplink_ratio(cluster, group, pattern, on_rail))


def uplink_ratio(cluster: Cluster, group: Group, pattern: Pattern, on_rail: bool = True) -> float:
    """Seconds that a leaf's uplinks are busy for one second of its NICs of this job, all at their full rate."""
    return cluster.oversubscription * cluster.leaf_share * climbing_share(cluster, group, pattern, on_rail)


class Crossing(NamedTuple):
    """How the transfers of one kind cross the fabric: see `climbing_share`."""

    group: Group
    pattern: Pattern = "everyone"
    on_rail: bool = True


def climbs(cluster: Cluster, crossings: Iterable[Crossing]) -> bool:
    """Whether any of these transfers goes over an uplink from a leaf to a spine."""
    return any(climbing_share(cluster, *crossing) > 0.0 for crossing in crossings)


def oversubscription_note(cluster: Cluster, crossings: Iterable[Crossing]) -> str:
    """For an answer's assumptions: why oversubscribed uplinks change nothing here; empty where they do, or are not.

    `crossings` are all transfers of the run that leave a scale-up domain.
    """
    asked = list(crossings)
    if cluster.oversubscription <= 1.0 or any(slowdown(cluster, *crossing) > 1.0 for crossing in asked):
        return ""
    said = f"cluster.oversubscription = {cluster.oversubscription:g} has no effect: "
    if climbs(cluster, asked):
        most = max(climbing_share(cluster, *crossing) for crossing in asked)
        return said + f"at most {most:.0%} of what a NIC sends climbs from leaves to spines, and uplinks carry that"
    hosts = gpus_below_leaf(cluster) // cluster.gpus_per_host
    rail = " on each rail" if cluster.topology in RAILED else ""
    return said + f"no transfer climbs from leaves to spines (a leaf joins {hosts} hosts{rail})"
