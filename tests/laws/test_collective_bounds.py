"""Collectives obey their wires: none beats its bound, more ranks or bytes never take less, and nothing jumps."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from moesim.hwmodels.cluster import Cluster, build_cluster, fabric_names, node_names
from moesim.hwmodels.collectives import algorithms, choose, collective_s, load_fabric_fit
from moesim.hwmodels.exchange_kernels import exchange_kernels, exchange_lower_bound_s, exchange_s
from moesim.hwmodels.lower_bounds import collective_lower_bound_s
from moesim.hwmodels.profile import load_profile
from moesim.hwmodels.work import COLLECTIVES, Comm, CommKind, ExpertExchange, Group
from moesim.sim.transfer.predict import predict_comm

_IN_SWITCH = ("nvls", "nvls_tree", "symmetric")
_NODES = st.sampled_from(node_names())
_KINDS = st.sampled_from(COLLECTIVES)
_BYTES = st.floats(0.0, 38.0).map(lambda power: 2.0**power)
_NIC = st.one_of(st.none(), st.floats(0.0, 11.9).map(lambda power: 10.0**power))  # 1 B/s to 800 GB/s
_FABRICS = st.one_of(st.none(), st.sampled_from(fabric_names()))


def _timed(kind: CommKind, size_bytes: float, group: Group, cluster: Cluster, algorithm: str = "auto") -> float:
    fit, fabric = load_profile(cluster.gpu.name).collectives, load_fabric_fit(cluster.gpu.generation)
    return collective_s(Comm(kind, size_bytes, group, algorithm), cluster, fit, fabric)


def _chosen(kind: CommKind, size_bytes: float, group: Group, cluster: Cluster) -> tuple[str, float]:
    fit, fabric = load_profile(cluster.gpu.name).collectives, load_fabric_fit(cluster.gpu.generation)
    return choose(Comm(kind, size_bytes, group), cluster, fit, fabric)


def _even(cluster: Cluster, ranks: int) -> bool:
    """All domains of the group hold the same number: nobody is short of NICs."""
    group = cluster.group(ranks)
    return group.domains == 1 or group.fewest == group.per_domain


@settings(max_examples=400)
@given(kind=_KINDS, node=_NODES, ranks=st.integers(2, 4096), size=_BYTES, nic=_NIC, fabric=_FABRICS)
def test_no_algorithm_beats_its_wires(
    kind: CommKind, node: str, ranks: int, size: float, nic: float | None, fabric: str | None
) -> None:
    cluster = build_cluster(node, ranks, fabric, nic)
    group = cluster.group(ranks)
    fit = load_profile(cluster.gpu.name).collectives
    for name in ("auto", *algorithms(Comm(kind, size, group), cluster, fit)):
        chosen = _chosen(kind, size, group, cluster)[0] if name == "auto" else name
        bound = collective_lower_bound_s(Comm(kind, size, group), cluster, in_switch=chosen in _IN_SWITCH)
        assert _timed(kind, size, group, cluster, name) >= bound > 0.0, (name, chosen)


@settings(max_examples=400)
@given(kind=_KINDS, node=_NODES, ranks=st.integers(1, 1024), times=st.integers(2, 8), size=_BYTES, nic=_NIC)
def test_more_ranks_take_no_less(
    kind: CommKind, node: str, ranks: int, times: int, size: float, nic: float | None
) -> None:
    """With the same buffer, and all domains full; a sum in the switches falls with its bytes, S (1 + 1/n)."""
    ranks, more = max(2, ranks), max(2, ranks) * times
    cluster = build_cluster(node, 8192, nic_bytes_per_s=nic)
    assume(_even(cluster, ranks) and _even(cluster, more))
    assume(
        not cluster.torus_dimensions
    )  # there more chips have more links: they close a line to a ring, add dimensions
    few, many = cluster.group(ranks), cluster.group(more)
    algorithm, after = _chosen(kind, size, many, cluster)
    fewer_bytes = (1.0 + 1.0 / more) / (1.0 + 1.0 / ranks) if algorithm in _IN_SWITCH else 1.0
    assert after >= 0.995 * fewer_bytes * _timed(kind, size, few, cluster)


@settings(max_examples=400)
@given(kind=_KINDS, node=_NODES, ranks=st.integers(2, 4096), size=_BYTES, nic=_NIC)
def test_a_tenth_more_bytes_neither_jumps_nor_falls(
    kind: CommKind, node: str, ranks: int, size: float, nic: float | None
) -> None:
    cluster = build_cluster(node, ranks, nic_bytes_per_s=nic)
    group = cluster.group(ranks)
    before, after = (_timed(kind, size * factor, group, cluster) for factor in (1.0, 1.1))
    assert before <= after <= 1.2 * before


@settings(max_examples=400)
@given(kind=_KINDS, node=_NODES, ranks=st.integers(2, 4096), size=_BYTES, nic=_NIC)
def test_one_more_rank_does_not_jump_inside_its_domains(
    kind: CommKind, node: str, ranks: int, size: float, nic: float | None
) -> None:
    """The cliffs that remain are wires: from the first domain to a second one, and hosts short of NICs."""
    cluster = build_cluster(node, 8192, nic_bytes_per_s=nic)
    few, many = cluster.group(ranks), cluster.group(ranks + 1)
    assume(not cluster.torus_dimensions)  # the last chip of a side closes it to a ring of twice the rate
    assume(many.domains == 1 or few.per_domain == 1 == many.per_domain)
    before, after = (_timed(kind, size, group, cluster) for group in (few, many))
    assert 0.85 * before <= after <= 2.0 * before


@pytest.mark.parametrize("kind", COLLECTIVES)
@pytest.mark.parametrize("node", ["dgx-a100", "dgx-h100", "dgx-b200", "gb200-nvl72", "pcie-8x-l40s"])
def test_a_short_host_is_no_bargain(kind: CommKind, node: str) -> None:
    """Ranks that spill over into a host of their own take no less than if they had stayed at home."""
    for full in (1, 2, 3):
        cluster = build_cluster(node, 512)
        home = full * cluster.domain
        for size in (1e3, 1e6, 1e9):
            stayed = _timed(kind, size, cluster.group(home), cluster)
            for spill in (1, cluster.domain // 2, cluster.domain - 1):
                assert _timed(kind, size, cluster.group(home + spill), cluster) >= 0.995 * stayed


def test_a_broadcast_to_another_node_takes_its_nic() -> None:
    cluster = build_cluster("gh200-node", 2)
    assert _timed("broadcast", 1e10, cluster.group(2), cluster) >= 0.2


def test_two_hosts_reduce_inside_first() -> None:
    """2 GiB over two hosts of 8 A100 with 50 GB/s each: the buffer out and in take 43 ms, a flat ring 80.5 ms."""
    cluster = replace(build_cluster("dgx-a100", 16), nic_bytes_per_s=6.25e9)
    assert 0.043 <= _timed("all_reduce", 2.0**31, cluster.group(16), cluster) < 0.060


@settings(max_examples=200)
@given(
    kernel=st.sampled_from([name for name in exchange_kernels() if not name.endswith("_sided")]),
    stage=st.sampled_from(["dispatch", "combine"]),
    node=_NODES,
    ranks=st.integers(2, 512),
    tokens=st.floats(1.0, 1e5),
    nic=_NIC,
)
def test_no_exchange_beats_its_nic(
    kernel: str, stage: Literal["dispatch", "combine"], node: str, ranks: int, tokens: float, nic: float | None
) -> None:
    cluster = build_cluster(node, ranks, nic_bytes_per_s=nic)
    copies = (min(8.0, cluster.group(ranks).domains), min(8.0, ranks))
    work = ExpertExchange(stage, tokens, 8, 7168.0, cluster.group(ranks), *copies, kernel=kernel, experts=512)
    assert exchange_s(work, cluster) >= exchange_lower_bound_s(work, cluster)


def test_a_tree_over_two_hosts_passes_the_buffer_once() -> None:
    """2 (D-1)/D of the buffer: large all-reduces over 2, 4 and 64 hosts take 1, 1.5 and 2 times as long."""
    cluster = build_cluster("dgx-a100", 512, nic_bytes_per_s=1e9)
    two, four, many = (_timed("all_reduce", 1e13, cluster.group(8 * hosts), cluster, "tree") for hosts in (2, 4, 64))
    assert four / two == pytest.approx(1.5, rel=0.01)
    assert many / two == pytest.approx(63 / 32, rel=0.01)


@given(
    st.sampled_from(["dgx-h100", "dgx-h200"]),
    st.sampled_from([8, 16, 32, 64]),
    st.integers(1, 8192),
    st.sampled_from(["uccl-ep", "deepep-nvshmem"]),
    st.sampled_from(["normal", "low_latency"]),
)
def test_a_cpu_that_posts_messages_only_ever_adds(
    node: str, ranks: int, tokens: int, library: str, kernel: str
) -> None:
    """As long as the GPU's own posting inside a host, no shorter between hosts, and longer with every token."""
    asked = {"node": node, "op": "moe_dispatch", "ranks": ranks, "tokens": tokens, "algorithm": kernel}
    asked |= {"hidden": 4096, "top_k": 8, "experts": 64}
    gpu, cpu = (predict_comm({**asked, "library": name}).prediction.time_s for name in ("deepep", library))
    assert cpu == gpu if ranks <= 8 else cpu >= gpu
    assert predict_comm({**asked, "library": library, "tokens": 2 * tokens}).prediction.time_s >= cpu
