"""Cluster: how many GPUs, which of them share a scale-up domain, and what the links between domains carry."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.hwmodels.facts import FactError, catalogue, lookup
from moesim.hwmodels.gpu import GpuSpec, load_gpu
from moesim.hwmodels.records import FabricRecord, NodeRecord, checked
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
