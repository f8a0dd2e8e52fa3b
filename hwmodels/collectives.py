"""How long one collective takes when it has the links to itself: closed forms on the cluster's two levels.

Inside a scale-up domain time = base + steps x hop + w/B + c sqrt(w/B): w bytes on the wire per GPU, B the achieved
link rate, and the square root a size ramp (protocols and pipelines that only large messages fill). Between domains
rings carry at most what the NICs of the participating GPUs carry. A link-level flow model can stand in behind the
same functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hwmodels.cluster import Cluster
from hwmodels.collective_fit import CollectiveFit, domain_collective_s
from hwmodels.exchange_kernels import link_bytes_per_s
from hwmodels.work import Comm


@dataclass(frozen=True, slots=True, kw_only=True)
class FabricFit:
    """Constants of transfers between scale-up domains. Starting values from published NCCL runs."""

    nic_efficiency: float = 0.91  # 45-47 of 50 GB/s in every published kernel
    ring_hop_s: float = 5.0e-6
    tree_hop_s: float = 15.0e-6
    tree_ramp_sqrt_s: float = 32e-3  # s^0.5: 32 us^0.5
    peer_message_s: float = 2.0e-6  # per remote peer of a direct all-to-all
    source: str = "assumed: ranges of published NCCL measurements"


def _ring_across_s(comm: Comm, cluster: Cluster, fit: CollectiveFit, fabric: FabricFit) -> float:
    """Multi-rail ring: each of the group's GPUs in a domain drives its own NIC."""
    n, local = comm.group.ranks, comm.group.per_domain
    nic = cluster.nic_bytes_per_s * fabric.nic_efficiency / cluster.oversubscription
    rate = min(local * nic, link_bytes_per_s(cluster) * fit.link_efficiency) if local > 1 else nic
    passes = 2 if comm.kind == "all_reduce" else 1
    hops = (comm.group.domains - 1) * fabric.ring_hop_s + (n - comm.group.domains) * fit.hop_s
    fill = passes * (n - 1) / n * comm.bytes / rate
    return fit.base_s + passes * hops + fill + fit.ramp_sqrt_s * math.sqrt(fill)


def _tree_across_s(comm: Comm, cluster: Cluster, fit: CollectiveFit, fabric: FabricFit) -> float:
    local = comm.group.per_domain
    nic = cluster.nic_bytes_per_s * fabric.nic_efficiency / cluster.oversubscription
    rate = min(local * nic, link_bytes_per_s(cluster) * fit.link_efficiency) if local > 1 else nic
    fill = 2 * comm.bytes / rate
    hops = 2 * math.log2(comm.group.domains) * fabric.tree_hop_s
    return fit.base_s + hops + fill + fabric.tree_ramp_sqrt_s * math.sqrt(fill)


def _all_to_all_across_s(comm: Comm, cluster: Cluster, fit: CollectiveFit, fabric: FabricFit) -> float:
    n, local = comm.group.ranks, comm.group.per_domain
    nic = cluster.nic_bytes_per_s * fabric.nic_efficiency / cluster.oversubscription
    remote = comm.bytes * (n - local) / n / nic + (n - local) * fabric.peer_message_s
    near = comm.bytes * (local - 1) / n / (link_bytes_per_s(cluster) * fit.link_efficiency) if local > 1 else 0.0
    return fit.a2a_base_s + fabric.ring_hop_s + max(remote, near)


def collective_s(comm: Comm, cluster: Cluster, fit: CollectiveFit, fabric: FabricFit) -> float:
    """Seconds of one collective alone on the network; 0 for a group of one."""
    if comm.group.ranks <= 1 or comm.bytes <= 0:
        return 0.0
    if comm.group.domains == 1:
        link = link_bytes_per_s(cluster)
        return domain_collective_s(comm.kind, comm.group.ranks, comm.bytes, link, fit)
    if cluster.nic_bytes_per_s <= 0:
        raise ValueError(f"{cluster.name} has no NICs, but a {comm.kind} spans {comm.group.domains} domains")
    if comm.kind == "all_reduce":
        return min(_ring_across_s(comm, cluster, fit, fabric), _tree_across_s(comm, cluster, fit, fabric))
    if comm.kind == "all_to_all":
        return _all_to_all_across_s(comm, cluster, fit, fabric)
    if comm.kind == "send":
        nic = cluster.nic_bytes_per_s * fabric.nic_efficiency / cluster.oversubscription
        return cluster.fabric_latency_s + comm.bytes / nic
    if comm.kind in ("all_gather", "reduce_scatter", "broadcast"):
        return _ring_across_s(comm, cluster, fit, fabric)
    raise ValueError(f"no closed form for {comm.kind!r} between domains")
