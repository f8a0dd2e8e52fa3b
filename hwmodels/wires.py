"""What a transfer puts on wires: seconds at full rate on one GPU's NIC and scale-up link, and on its leaf's uplinks.

The link to the host's memory has its directions apart, `down` from the GPU and `up` to it, for copies fill one each.

Bytes in and bytes out are alike for collectives and exchanges, so one number stands for both directions of a wire. No
schedule beats these seconds; a transfer alone fills that share of a wire which they are of its own time. Uplinks are
those of one leaf together, while all GPUs of the job behind it do the same; they are left out where they carry all that
NICs can send (an oversubscription of 1), for nothing ever waits there. They have two names, for leaves that hold fewer
GPUs of the job: an `uplink` is as full as those GPUs make it, but of a `ring` only the last domain behind a leaf sends
beyond it, however few lie there.
"""

from __future__ import annotations

from typing import Literal

from moesim.hwmodels.cluster import Cluster, link_bytes_per_s, uplink_ratio
from moesim.hwmodels.exchange_kernels import exchange_lower_bound_s
from moesim.hwmodels.lower_bounds import nic_share
from moesim.hwmodels.work import Comm, ExpertExchange, Transfer

Wire = Literal["nic", "link", "uplink", "ring", "down", "up"]
WIRES: tuple[Wire, ...] = ("nic", "link", "uplink", "ring", "down", "up")
OWN_WIRES: tuple[Wire, ...] = ("nic", "link")  # of one GPU
LEAF_WIRES: tuple[Wire, ...] = ("uplink", "ring")  # of a leaf
HOST_WIRES: tuple[Wire, ...] = ("down", "up")  # of one GPU, to and from the host's memory


def link_of(rank: int, wire: Wire) -> int:
    """The number by which a step's network knows one wire of the GPUs of a pipeline rank."""
    return rank * len(WIRES) + WIRES.index(wire)


def wire_of(link: int) -> tuple[int, Wire]:
    """The pipeline rank and the wire that a number of `link_of` means."""
    return link // len(WIRES), WIRES[link % len(WIRES)]


def _crossing_bytes(comm: Comm) -> tuple[float, float]:
    """(bytes through the busiest NIC, bytes through the busiest scale-up link) that the result cannot do without."""
    group, size = comm.group, comm.bytes
    near, domains = min(group.ranks, group.per_domain), group.domains
    far = size * nic_share(comm.kind, group) if domains > 1 else 0.0
    if comm.kind == "send":
        return far, 0.0 if domains > 1 else size
    if comm.kind == "all_to_all":
        return far, size * (near - 1) / group.ranks
    inside = size * (near - 1) / near
    # switches that add up in the network halve what a port carries of an all-reduce
    return far, 2.0 * inside if comm.kind == "all_reduce" and domains > 1 else inside


def wire_seconds(work: Transfer, cluster: Cluster) -> dict[Wire, float]:
    """Seconds at full rate on each wire that `work` uses; empty for a group of one."""
    if work.group.ranks <= 1:
        return {}
    found = _own_seconds(work, cluster)
    if cluster.oversubscription > 1.0 and "nic" in found:
        wire, ratio = _uplink_ratio(work, cluster)
        if ratio > 0.0:
            found[wire] = found["nic"] * ratio
    return found


def _uplink_ratio(work: Transfer, cluster: Cluster) -> tuple[Wire, float]:
    """Of the pattern that climbs least among those that can run the transfer: rings, and exchanges on their rails."""
    if isinstance(work, ExpertExchange):
        return "uplink", uplink_ratio(cluster, work.group, "everyone", work.kernel != "low_latency")
    if work.kind in ("all_to_all", "send"):
        return "uplink", uplink_ratio(cluster, work.group, "everyone")
    return "ring", uplink_ratio(cluster, work.group, "neighbours")


def _own_seconds(work: Transfer, cluster: Cluster) -> dict[Wire, float]:
    """On the NIC and the scale-up link."""
    if isinstance(work, ExpertExchange):
        far = exchange_lower_bound_s(work, cluster)
        copies = work.rank_copies if work.deduplicated else float(work.top_k)
        near = min(work.group.per_domain, work.group.ranks)
        inside = work.tokens * work.payload_bytes * copies * (1.0 - 1.0 / near) / link_bytes_per_s(cluster)
        return _used(far, inside)
    far_bytes, near_bytes = _crossing_bytes(work)
    nic = cluster.nic_bytes_per_s
    return _used(far_bytes / nic if nic > 0.0 else 0.0, near_bytes / link_bytes_per_s(cluster))


def _used(nic_s: float, link_s: float) -> dict[Wire, float]:
    seconds: dict[Wire, float] = {"nic": nic_s, "link": link_s}
    return {wire: s for wire, s in seconds.items() if s > 0.0}


def slot_seconds(found: dict[Wire, float], cluster: Cluster) -> dict[Wire, float]:
    """Seconds at full rate on the two directions of the link to the host's memory, of a transfer that needs these on
    other wires: where GPUs have no scale-up link, neighbours and the NIC hang on the same PCIe slot as that link."""
    gpu = cluster.gpu
    if gpu.scale_up_bytes_per_s or gpu.host_link_bytes_per_s != gpu.pcie_bytes_per_s:
        return {}
    crossing = found.get("nic", 0.0) * cluster.nic_bytes_per_s + found.get("link", 0.0) * gpu.pcie_bytes_per_s
    seconds = crossing / gpu.pcie_bytes_per_s
    return dict.fromkeys(HOST_WIRES, seconds) if seconds > 0.0 else {}


def flows(work: Transfer) -> int:
    """Flows of a transfer on a wire that it shares: one per peer of an exchange, one for a ring or a message."""
    group = work.group
    far = group.domains > 1
    if isinstance(work, ExpertExchange) and work.deduplicated and far:
        return max(1, group.domains - 1)
    if isinstance(work, ExpertExchange) or work.kind == "all_to_all":
        return max(1, group.ranks - (group.fewest if far else 1))
    return 1
