"""Collectives to the digit, by hand: 8 or 16 GPUs a domain with 400 GB/s links and 50 GB/s NICs, one term at a time."""

from __future__ import annotations

from dataclasses import replace
from math import log2, sqrt
from typing import Any

import pytest

from moesim.hwmodels.cluster import Cluster, build_cluster
from moesim.hwmodels.collectives import FabricFit, choose, collective_s, crowd_s
from moesim.hwmodels.domain_collectives import CollectiveFit, domain_nvls_s, domain_ring_s, switch_wire_bytes
from moesim.hwmodels.units import MIB
from moesim.hwmodels.wires import flows, wire_seconds
from moesim.hwmodels.work import Comm, CommKind, ExpertExchange, Group

LINK, NIC, LATENCY_S, HBM = 400e9, 50e9, 0.25, 4e12
PLAIN = CollectiveFit(
    base_s=0.0, hop_s=0.0, a2a_base_s=0.0, link_efficiency=1.0, a2a_efficiency=1.0, pair_efficiency=1.0,
    ramp_sqrt_s=0.0, own_share=0.0, a2a_own_share=0.0, a2a_chunk_s=0.0, a2a_chunk_bytes=1.0, a2a_ramp_sqrt_s=0.0,
    nvls_fill_s=0.0, switch_bytes=0.0, small_efficiency=0.0, fill_hop_s=0.0, nvls_base_s=0.0, nvls_efficiency=1.0,
    nvls_min_ranks=2,
)  # fmt: skip
FABRIC = FabricFit(
    nic_efficiency=1.0, ring_hop_s=0.0, tree_hop_s=0.0, tree_ramp_sqrt_s=0.0, nvls_tree_efficiency=1.0,
    peer_message_s=0.0, send_message_s=0.0, symmetric_base_s=0.0, symmetric_efficiency=1.0, one_shot_base_s=0.0,
)  # fmt: skip
S = 64e9  # bytes of the buffer
EIGHT = Group(64, 8)  # eight domains of eight
UNEVEN = Group(12, 8)  # eight, and four


def cluster() -> Cluster:
    made = build_cluster("dgx-h100", 256)
    gpu = replace(made.gpu, scale_up_bytes_per_s=LINK, hbm_bytes_per_s=HBM)
    return replace(made, gpu=gpu, nic_bytes_per_s=NIC, fabric_latency_s=LATENCY_S)


def exchange(group: Group) -> ExpertExchange:
    return ExpertExchange(
        stage="dispatch", group=group, tokens=1.0, top_k=8, payload_bytes=1.0, node_copies=1.0, rank_copies=7.5
    )


def seconds(kind: CommKind, algorithm: str, group: Group, size: float = S, **changes: Any) -> float:
    """Of one algorithm; changes of either fit by name."""
    inside = {k: v for k, v in changes.items() if k in CollectiveFit.__dataclass_fields__}
    across = {k: v for k, v in changes.items() if k in FabricFit.__dataclass_fields__}
    assert inside | across == changes
    work = Comm(kind, size, group, algorithm)
    return choose(work, cluster(), replace(PLAIN, **inside), replace(FABRIC, **across))[1]


RING = 2.0 * 63 / 64 * S / LINK  # eight rails of 50 GB/s are as fast as the links that feed them


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, RING + 2 * 7 * LATENCY_S),  # up to the last domain and back
        ({"ring_hop_s": 0.5}, RING + 2 * 7 * (LATENCY_S + 0.5)),
        ({"hop_s": 0.125}, RING + 2 * (7 * LATENCY_S + 56 * 0.125)),  # 56 hops inside domains
        ({"base_s": 3.0}, 3.0 + RING + 2 * 7 * LATENCY_S),
        ({"ramp_sqrt_s": 2.0}, RING + 2 * 7 * LATENCY_S + 2.0 * sqrt(RING)),
        ({"nic_efficiency": 0.5}, 2.0 * RING + 2 * 7 * LATENCY_S),
        ({"link_efficiency": 0.5}, 2.0 * RING + 2 * 7 * LATENCY_S),
    ],
)
def test_ring_between_domains(changes: dict[str, float], expected: float) -> None:
    assert seconds("all_reduce", "ring", EIGHT, **changes) == pytest.approx(expected)


def test_gathers_pass_once_and_a_small_domain_has_few_rails() -> None:
    assert seconds("all_gather", "ring", EIGHT) == pytest.approx(RING / 2.0 + 7 * LATENCY_S)
    # twelve ranks, four rails: 11/12 of the buffer at 200 GB/s; one hop between domains
    assert seconds("all_gather", "ring", UNEVEN) == pytest.approx(11 / 12 * S / 200e9 + LATENCY_S)
    # one GPU a domain: its own NIC, whatever the links do
    assert seconds("all_gather", "ring", Group(8, 1)) == pytest.approx(7 / 8 * S / NIC + 7 * LATENCY_S)


LEVELS = 2 * 3 * LATENCY_S  # log2 of eight domains, up and down
TREE = 2.0 * 7 / 8 * S / LINK


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, TREE + LEVELS),
        ({"tree_hop_s": 0.5}, TREE + 2 * 3 * (LATENCY_S + 0.5)),
        ({"base_s": 3.0}, 3.0 + TREE + LEVELS),
        ({"tree_ramp_sqrt_s": 2.0}, TREE + LEVELS + 2.0 * sqrt(log2(8) * TREE)),
        ({"nvls_tree_efficiency": 0.5}, TREE + LEVELS),  # of the other tree
        ({"nvls_base_s": 9.0}, TREE + LEVELS),
    ],
)
def test_tree_between_domains(changes: dict[str, float], expected: float) -> None:
    assert seconds("all_reduce", "tree", EIGHT, **changes) == pytest.approx(expected)


def test_tree_over_switches() -> None:
    assert seconds("all_reduce", "nvls_tree", EIGHT) == pytest.approx(TREE + LEVELS)
    assert seconds("all_reduce", "nvls_tree", EIGHT, nvls_tree_efficiency=0.5) == pytest.approx(2 * TREE + LEVELS)
    assert seconds("all_reduce", "nvls_tree", EIGHT, nvls_base_s=9.0) == pytest.approx(9.0 + TREE + LEVELS)
    assert seconds("all_reduce", "nvls_tree", EIGHT, base_s=9.0) == pytest.approx(TREE + LEVELS)
    # where the switches are the slow part, they alone count: S (1 + 1/8) over a tenth of the link
    assert seconds("all_reduce", "nvls_tree", EIGHT, nvls_efficiency=0.1) == pytest.approx(10 * 1.125 * S / LINK)


@pytest.mark.parametrize(
    ("algorithm", "group", "changes", "expected"),
    [
        ("direct", EIGHT, {}, LATENCY_S + 56 * (S / 64 / NIC)),
        ("direct", EIGHT, {"a2a_base_s": 3.0}, 3.0 + LATENCY_S + 56 * (S / 64 / NIC)),
        ("direct", EIGHT, {"send_message_s": 0.5}, LATENCY_S + 56 * (S / 64 / NIC + 0.5)),
        ("direct", UNEVEN, {}, LATENCY_S + 8 * (S / 12 / NIC)),  # of the four: eight peers are remote
        ("direct", EIGHT, {"a2a_efficiency": 1e-3}, 1e3 * 63 / 64 * S / LINK),  # no pair is faster than the links
        ("pxn", EIGHT, {}, LATENCY_S + 7 * (S / 8 / NIC)),
        ("pxn", EIGHT, {"send_message_s": 0.5}, LATENCY_S + 7 * (S / 8 / NIC + 0.5)),
        ("pxn", UNEVEN, {}, LATENCY_S + S * 8 / 12 / NIC),  # each of four rails carries for two of the eight
        ("two_level", EIGHT, {}, LATENCY_S + 7 / 8 * S / LINK + 7 / 8 * S / NIC + 4 * S / HBM),
        ("two_level", EIGHT, {"a2a_base_s": 1.0}, 2.0 + LATENCY_S + 7 / 8 * S / LINK + 7 / 8 * S / NIC + 4 * S / HBM),
    ],
)
def test_all_to_all_between_domains(algorithm: str, group: Group, changes: dict[str, float], expected: float) -> None:
    assert seconds("all_to_all", algorithm, group, **changes) == pytest.approx(expected)


def test_messages_to_many_peers_cost_more_and_small_ones_at_most_three_transfers() -> None:
    fabric = replace(FABRIC, peer_message_s=1.0)
    assert [crowd_s(fabric, peers) for peers in (1, 128, 188, 248, 500)] == [0.0, 0.0, 188 * 0.5, 248.0, 500.0]
    # 56 peers are no crowd: each message costs three times its transfer, or what a message costs at most
    small = LATENCY_S + 56 * 4 * (6.4e9 / 64 / NIC)
    assert seconds("all_to_all", "direct", EIGHT, 6.4e9, peer_message_s=1.0) == pytest.approx(small)
    large = LATENCY_S + 56 * (S / 64 / NIC + 0.01)
    assert seconds("all_to_all", "direct", EIGHT, peer_message_s=0.01) == pytest.approx(large)


def test_send_between_domains() -> None:
    assert seconds("send", "direct", Group(2, 1), a2a_base_s=3.0) == pytest.approx(3.0 + LATENCY_S + S / NIC)


@pytest.mark.parametrize(
    ("algorithm", "changes", "expected"),
    [
        ("ring", {}, 2 * 7 / 8 * S / LINK),
        ("ring", {"base_s": 1.0, "hop_s": 0.5}, 1.0 + 14 * 0.5 + 2 * 7 / 8 * S / LINK),
        ("ring", {"ramp_sqrt_s": 2.0}, 2 * 7 / 8 * S / LINK + 2.0 * sqrt(2 * 7 / 8 * S / LINK)),
        ("nvls", {}, 9 / 8 * S / LINK),
        ("nvls", {"nvls_base_s": 1.0, "nvls_efficiency": 0.5}, 1.0 + 2 * 9 / 8 * S / LINK),
        ("symmetric", {"symmetric_base_s": 1.0, "symmetric_efficiency": 0.5}, 1.0 + 2 * 9 / 8 * S / LINK),
        ("one_shot", {"one_shot_base_s": 1.0}, 1.0 + 7 * S / LINK),
        ("two_shot", {"one_shot_base_s": 1.0}, 2.0 + 2 * 7 / 8 * S / LINK),
        ("custom", {"one_shot_base_s": 1.0}, 9 / 8 * S / LINK),  # too large for its own buffers: the library's
    ],
)
def test_all_reduce_inside_a_domain(algorithm: str, changes: dict[str, float], expected: float) -> None:
    assert seconds("all_reduce", algorithm, Group(8, 8), **changes) == pytest.approx(expected)


def test_an_engines_own_kernels_for_small_messages() -> None:
    kept = {"base_s": 1.0, "nvls_base_s": 1.0, "one_shot_base_s": 1e-9}
    assert seconds("all_reduce", "custom", Group(8, 8), 8 * MIB, **kept) == pytest.approx(
        min(1e-9 + 7 * 8 * MIB / LINK, 2e-9 + 2 * 7 / 8 * 8 * MIB / LINK)
    )
    assert seconds("all_reduce", "custom", Group(8, 8), 8 * MIB + 1, **kept) > 1.0
    assert seconds("all_reduce", "custom", Group(8, 8), 8 * MIB, nvls_min_ranks=9, **kept) < 1.0


def test_switches_add_up_for_at_most_eight_as_measured_and_fill() -> None:
    assert switch_wire_bytes(2, 8.0) == 12.0 and switch_wire_bytes(8, 8.0) == switch_wire_bytes(72, 8.0) == 9.0
    fit = replace(PLAIN, nvls_fill_s=2.0)
    wire_s = 9 / 8 * S / LINK
    assert domain_nvls_s(8, S, LINK, fit) == pytest.approx(wire_s + 2.0 * wire_s / (wire_s + 1.0))
    assert domain_nvls_s(1, S, LINK, fit) == domain_nvls_s(8, 0.0, LINK, fit) == 0.0


def test_messages_inside_a_domain() -> None:
    fit = replace(PLAIN, a2a_base_s=1.0, a2a_own_share=0.7, a2a_ramp_sqrt_s=2.0, a2a_chunk_s=4.0, a2a_chunk_bytes=S / 2)
    wire_s = 7 / 8 * S / LINK * 1.1  # the own part is a seventh of what is sent
    got = domain_ring_s("all_to_all", 8, S, LINK, fit)
    assert got == pytest.approx(1.0 + 2.0 + wire_s + 2.0 * sqrt(wire_s))  # half the buffer: half of the chunks' cost
    send_s = S / LINK
    assert domain_ring_s("send", 2, S, LINK, fit) == pytest.approx(1.0 + 4.0 * 0.8 + send_s + 2.0 * sqrt(send_s))


def test_pairs_have_their_own_rate_and_a_broadcast_the_slower_of_both() -> None:
    fit = replace(PLAIN, pair_efficiency=0.25, link_efficiency=0.5)
    assert domain_ring_s("all_gather", 2, S, LINK, fit) == pytest.approx(4 * S / 2 / LINK)
    assert domain_ring_s("all_gather", 4, S, LINK, fit) == pytest.approx(2 * S * 3 / 4 / LINK)
    assert domain_ring_s("broadcast", 4, S, LINK, fit) == pytest.approx(4 * S / LINK)
    own = replace(PLAIN, own_share=0.6)
    assert domain_ring_s("all_gather", 4, S, LINK, own) == pytest.approx(S * 3 / 4 * 1.2 / LINK)
    assert domain_ring_s("all_reduce", 4, S, LINK, own) == pytest.approx(2 * S * 3 / 4 / LINK)  # in place


def test_seconds_on_wires() -> None:
    where = cluster()
    assert wire_seconds(Comm("all_reduce", S, Group(8, 8)), where) == {"link": pytest.approx(7 / 8 * S / LINK)}
    across = wire_seconds(Comm("all_gather", S, EIGHT), where)
    assert across["link"] == pytest.approx(7 / 8 * S / LINK) and across["nic"] == pytest.approx(7 / 64 * S / NIC)
    assert wire_seconds(Comm("all_gather", S, Group(1, 1)), where) == {}
    half = replace(build_cluster("dgx-h100", 1024, fabric="roce-400"), oversubscription=2.0)
    found = wire_seconds(Comm("all_to_all", S, Group(1024, 8)), half)
    # of 1,016 GPUs on other hosts 768 are behind other leaves (256 GPUs each), whose uplinks are half as fast
    assert found["uplink"] == pytest.approx(2.0 * found["nic"] * 768 / 1016)


@pytest.mark.parametrize(
    ("work", "number"),
    [
        (Comm("all_reduce", S, EIGHT), 1),
        (Comm("all_to_all", S, EIGHT), 56),
        (Comm("all_to_all", S, UNEVEN), 8),
        (Comm("all_to_all", S, Group(8, 8)), 7),
        (exchange(EIGHT), 7),  # one per remote domain
        (exchange(Group(16, 8)), 1),
        (exchange(Group(8, 8)), 7),
    ],
)
def test_flows_on_a_wire_that_is_shared(work: Comm | ExpertExchange, number: int) -> None:
    assert flows(work) == number


def test_auto_takes_the_fastest_that_needs_no_help() -> None:
    work = Comm("all_reduce", S, EIGHT)
    timed = {name: seconds("all_reduce", name, EIGHT) for name in ("ring", "tree", "nvls_tree")}
    assert collective_s(work, cluster(), PLAIN, FABRIC) == min(timed.values())
