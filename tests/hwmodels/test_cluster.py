"""Clusters: catalogue nodes and fabrics, groups of ranks, and what is said about names that do not exist."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.hwmodels.cluster import (
    Crossing,
    build_cluster,
    climbs,
    fabric_names,
    node_for_gpu,
    node_names,
    oversubscription_note,
    slowdown,
)
from moesim.hwmodels.facts import FactError, catalogue
from moesim.hwmodels.gpu import gpu_names, load_gpu


@pytest.mark.parametrize("name", gpu_names())
def test_every_gpu_has_plausible_facts_and_a_source(name: str) -> None:
    gpu = load_gpu(name)
    assert gpu.source and gpu.vendor and gpu.arch
    assert 1e12 < max(gpu.peak_flops_per_s.values()) < 1e17
    # the driver's figure may exceed the marketed one: "80 GB" are 80 GiB, less what the driver keeps
    assert 0.9 < gpu.usable_bytes / gpu.hbm_bytes < 1.10
    assert 1e10 < gpu.hbm_bytes < 1e12
    assert 1e11 < gpu.hbm_bytes_per_s < 2e13
    assert 50 < gpu.tdp_w < 2000
    assert 0.0 <= gpu.scale_up_bytes_per_s < gpu.hbm_bytes_per_s


@pytest.mark.parametrize("node", node_names())
def test_every_node_builds(node: str) -> None:
    cluster = build_cluster(node, 8)
    assert cluster.gpus == 8 and cluster.domain >= 1 and cluster.source
    assert cluster.nic_bytes_per_s >= 0.0 and cluster.oversubscription >= 1.0


@pytest.mark.parametrize("fabric", fabric_names())
def test_every_fabric_builds(fabric: str) -> None:
    cluster = build_cluster("dgx-h100", 64, fabric)
    assert cluster.fabric == fabric and 0.0 < cluster.fabric_latency_s < 1e-3


def test_every_alias_leads_to_one_gpu() -> None:
    aliases = [a for record in catalogue("gpus").values() for a in record.get("aliases", [])]
    assert len(aliases) == len(set(aliases))
    assert not set(aliases) & set(gpu_names())
    assert all(load_gpu(alias).name in gpu_names() for alias in aliases)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: build_cluster("dgx-h10", 8), "unknown node 'dgx-h10'; did you mean .*dgx-h100"),
        (lambda: build_cluster("dgx-h100", 8, "rail-ib-4000"), "unknown fabric 'rail-ib-4000'; did you mean"),
        (lambda: load_gpu("H1000"), "unknown GPU 'H1000'; did you mean"),
        (lambda: build_cluster("dgx-h100", 0), "at least one GPU, not 0"),
        (lambda: build_cluster("dgx-h100", 8, oversubscription=4.0), "needs uplinks .* share one scale-up domain"),
        (lambda: build_cluster("dgx-h100", 32, "fat-tree-ib-400", oversubscription=2.0), "one leaf holds all NICs;"),
        (lambda: build_cluster("hgx-h800", 256, "mpft-ib-400", oversubscription=2.0), "all NICs of a plane"),
        (lambda: build_cluster("gh200-node", 32, oversubscription=2.0), "one leaf holds all NICs;"),
        (lambda: load_gpu("a100-sxm-80gb").peak("fp8"), "has no fp8 tensor path; it has"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(build: Callable[[], object], message: str) -> None:
    with pytest.raises(FactError, match=message):
        build()


def test_node_for_gpu_finds_the_usual_node() -> None:
    assert build_cluster(node_for_gpu("H100"), 8).gpu.name == load_gpu("H100").name
    lonely = [g for g in gpu_names() if all(r["gpu"] != g for r in catalogue("nodes").values())]
    for name in lonely:
        with pytest.raises(FactError, match=r"no node in the catalogue holds .*; give cluster\.node"):
            node_for_gpu(name)


@given(
    ranks=st.integers(1, 512),
    stride=st.integers(1, 64),
    node=st.sampled_from(["dgx-h100", "gb200-nvl72", "summit-node"]),
)
def test_groups_fill_domains_one_after_the_other(ranks: int, stride: int, node: str) -> None:
    cluster = build_cluster(node, 1152)
    group = cluster.group(ranks, stride)
    assert group.ranks == ranks
    assert 1 <= group.fewest <= group.per_domain
    assert (group.domains - 1) * group.per_domain + group.fewest == ranks
    assert (group.per_domain - 1) * stride < cluster.domain


@pytest.mark.parametrize(
    ("ranks", "stride", "per_domain"), [(8, 1, 8), (16, 1, 8), (8, 8, 1), (4, 2, 4), (16, 4, 2), (1, 1, 1), (64, 16, 1)]
)
def test_groups_on_hosts_of_eight(ranks: int, stride: int, per_domain: int) -> None:
    assert build_cluster("dgx-h100", 128).group(ranks, stride).per_domain == per_domain


def test_overrides_win_over_the_catalogue() -> None:
    cluster = build_cluster("dgx-h100", 64, nic_bytes_per_s=1e9, oversubscription=2.0)
    assert (cluster.nic_bytes_per_s, cluster.oversubscription, cluster.domains) == (1e9, 2.0, 8)


def test_a_nic_runs_no_faster_than_the_fabric_that_is_asked_for() -> None:
    assert build_cluster("dgx-h100", 64).nic_bytes_per_s == 5.0e10
    assert build_cluster("dgx-h100", 64, "rail-ib-200").nic_bytes_per_s == 2.5e10
    assert build_cluster("dgx-h100", 64, "rail-ib-800").nic_bytes_per_s == 5.0e10
    assert build_cluster("dgx-h100", 64, "rail-ib-200", nic_bytes_per_s=4e10).nic_bytes_per_s == 4e10


def test_oversubscription_acts_or_is_said_to_have_no_effect() -> None:
    """A leaf takes the rail of 32 hosts: 16 stay below it, 64 do not; four hosts share a leaf of a fat tree."""
    rail = build_cluster("dgx-h100", 512, oversubscription=8.0)
    near, wide = Crossing(rail.group(128)), Crossing(rail.group(512))
    assert not climbs(rail, [near]) and climbs(rail, [near, wide])
    assert oversubscription_note(rail, [near]) == (
        "cluster.oversubscription = 8 has no effect: no transfer climbs from leaves to spines "
        "(a leaf joins 32 hosts on each rail)"
    )
    assert oversubscription_note(rail, [near, wide]) == ""
    assert oversubscription_note(build_cluster("dgx-h100", 512), [near]) == ""
    tree = build_cluster("dgx-h100", 64, "fat-tree-ib-400", oversubscription=4.0)
    ring = Crossing(tree.group(64), "neighbours")
    assert "at most 25% of what a NIC sends climbs" in oversubscription_note(tree, [ring])
    assert oversubscription_note(tree, [ring, Crossing(tree.group(64))]) == ""


def test_groups_whose_hosts_lie_apart_climb_sooner() -> None:
    """16 hosts side by side share a leaf; 16 of which each is the 16th lie behind eight leaves."""
    cluster = build_cluster("dgx-h100", 2048, oversubscription=8.0)
    side_by_side, apart = cluster.group(16, 8), cluster.group(16, 128)
    assert (side_by_side.domains, side_by_side.apart, apart.domains, apart.apart) == (16, 1, 16, 16)
    assert slowdown(cluster, side_by_side, "everyone") == 1.0
    assert slowdown(cluster, apart, "everyone") == pytest.approx(8.0 * 14 / 15)
    assert slowdown(cluster, apart, "neighbours") == pytest.approx(4.0)
