"""What leaves hang together, and how much of a transfer climbs from leaves to spines: where oversubscription bites.

A NIC that sends through an uplink shared `oversubscription` to one gets that share of its rate, but only for the part
of its traffic that leaves the leaf. Traffic that stays below one leaf, or on a rail whose leaf all hosts share, does
not notice. The same leaf sizes draw the graph in hwmodels.topology.
"""

from __future__ import annotations

from typing import Literal

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.work import Group

LEAF_PORTS = 32  # assumed: a 64-port switch, half of it facing down
RAILED = ("rail-optimised", "multi-plane")  # one leaf per position in the host

Pattern = Literal["neighbours", "everyone"]


def gpus_below_leaf(cluster: Cluster) -> int:
    """GPUs that reach each other (on their rail, where there are rails) without a spine."""
    if cluster.topology in RAILED:  # every leaf takes one NIC of each of so many hosts
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
