"""What no schedule of a collective can beat: bytes that must pass the busiest NIC and the busiest scale-up link."""

from __future__ import annotations

from moesim.hwmodels.cluster import Cluster, link_bytes_per_s
from moesim.hwmodels.work import Comm, Group


def collective_lower_bound_s(comm: Comm, cluster: Cluster, in_switch: bool = False) -> float:
    """Seconds that the busiest NIC and the busiest scale-up link need at the rates of their data sheets.

    Every GPU owns one NIC share and one scale-up link, each with one direction out and one in; where neighbours talk
    over PCIe, the NIC hangs on the same slot. S is `comm.bytes`, n the
    ranks, D the domains, f the ranks of the domain that holds the fewest. What must enter (or, mirrored, leave):

    - a GPU, over its link alone inside one domain, over link and NIC together otherwise: (n-1)/n S for gathers,
      scatters and all-to-all; twice that for an all-reduce, but once where switches add up (`in_switch`); S for a
      broadcast or a message.
    - a domain, over the NICs of its ranks: (n-f)/n S of gathers and scatters; S of a broadcast, message or all-reduce
      (a host sends each of its sums away, or is sent what came of it); all hosts together 2 (D-1) S of an all-reduce;
      (n-f)/n S per rank of an all-to-all.

    0 for one rank or no bytes; infinite where several domains have no NICs.
    """
    group = comm.group
    if group.ranks <= 1 or comm.bytes <= 0.0:
        return 0.0
    link = link_bytes_per_s(cluster)
    if group.domains == 1:
        return comm.bytes * _gpu_share(comm, in_switch) / link
    nic = cluster.nic_bytes_per_s
    if nic <= 0.0:
        return float("inf")
    ports = link + nic
    if not cluster.gpu.scale_up_bytes_per_s:  # one PCIe slot for neighbours and for the NIC
        nic, ports = min(nic, link), link
    gpu_s = 0.0 if comm.kind == "send" else comm.bytes * _gpu_share(comm, in_switch) / ports
    return max(gpu_s, comm.bytes * nic_share(comm.kind, group) / nic)


def _gpu_share(comm: Comm, in_switch: bool) -> float:
    """Of the buffer, through the ports of one GPU in one direction."""
    if comm.kind in ("send", "broadcast"):
        return 1.0
    remote = (comm.group.ranks - 1) / comm.group.ranks
    return remote * (2.0 if comm.kind == "all_reduce" and not in_switch else 1.0)


def nic_share(kind: str, group: Group) -> float:
    """Of the buffer, through the busiest NIC in one direction."""
    n, fewest = group.ranks, group.fewest
    if kind == "send":
        return 1.0
    if kind == "all_to_all":
        return (n - fewest) / n
    if kind == "broadcast":
        return 1.0 / fewest
    if kind == "all_reduce":
        return max(1.0 / fewest, 2.0 * (group.domains - 1) / n)
    return (n - fewest) / n / fewest
