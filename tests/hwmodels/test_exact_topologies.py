"""Rates of the links of fabrics by hand: leaves share what comes from below; which fabric a NIC is plugged into."""

from __future__ import annotations

import pytest

from moesim.hwmodels.cluster import build_cluster
from moesim.hwmodels.topology import build_topology


@pytest.mark.parametrize(
    ("node", "fabric"),
    [("dgx-a100", "rail-ib-200"), ("dgx-h100", "rail-ib-400"), ("hgx-b300", "rail-ib-800"), ("dgx-v100", "ib-edr-100"),
     ("aws-p5", "efa-v2")],
)  # fmt: skip
def test_nics_are_plugged_into_the_fabric_of_their_speed(node: str, fabric: str) -> None:
    assert build_cluster(node, 16).fabric == fabric


def links(node: str, gpus: int, fabric: str, kind: str | None = None) -> tuple[dict[tuple[str, str], float], float]:
    """Bytes per second of links between leaves, and of one NIC."""
    cluster = build_cluster(node, gpus, fabric)
    graph = build_topology(cluster, kind).graph
    found = {
        (a, b): data["bytes_per_s"]
        for a, b, data in graph.edges(data=True)
        if a.startswith("leaf") and b.startswith("leaf")
    }
    return found, cluster.nic_bytes_per_s


def test_leaves_of_a_dragonfly_share_their_nics_over_the_others_of_the_group_and_over_the_other_groups() -> None:
    rates, nic = links("dgx-a100", 1024, "slingshot-11", "dragonfly")
    names = sorted({a for a, _ in rates}, key=lambda name: int(name[4:]))
    groups = [names[i : i + 8] for i in range(0, len(names), 8)]
    assert len(groups) >= 3
    hung = {name: build_topology(build_cluster("dgx-a100", 1024, "slingshot-11"), "dragonfly").leaf_of.count(name)
            for name in names}  # fmt: skip
    first, second = groups[0][0], groups[0][1]
    assert rates[first, second] == pytest.approx(hung[first] * nic / (len(groups[0]) - 1))
    across = rates[first, groups[1][0]]
    assert across == pytest.approx(hung[first] * nic / (len(groups) - 1))
    assert (first, groups[1][1]) not in rates  # only matching leaves of two groups are joined
    whole = (len(groups[0]) - 1) * rates[first, second]
    assert whole == pytest.approx(hung[first] * nic)
