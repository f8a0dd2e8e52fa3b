"""Collectives: closed forms of ring, all-to-all and send; nothing for one rank; never faster for more bytes."""

from __future__ import annotations

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.hwmodels.cluster import Cluster, build_cluster, slowdown
from moesim.hwmodels.collectives import collective_s, load_fabric_fit
from moesim.hwmodels.domain_collectives import domain_collective_s, domain_ring_s, ring_steps, wire_bytes
from moesim.hwmodels.profile import load_profile
from moesim.hwmodels.topology import build_topology
from moesim.hwmodels.traffic import exchange_loads, uniform
from moesim.hwmodels.work import Comm, CommKind, Group

KINDS: tuple[CommKind, ...] = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send", "broadcast")
FABRIC = load_fabric_fit()
FIT = load_profile("h100-sxm").collectives


def ring_s(steps: int, hop_s: float, wire_bytes: float, bytes_per_s: float, base_s: float, ramp: float) -> float:
    """Seconds of a ring: base + steps x hop + w/B + c sqrt(w/B)."""
    return base_s + steps * hop_s + wire_bytes / bytes_per_s + ramp * sqrt(wire_bytes / bytes_per_s)


def _cluster(gpus: int = 256) -> Cluster:
    return build_cluster("dgx-h100", gpus)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", [Group(1, 1), Group(8, 8), Group(64, 8)])
def test_one_rank_or_no_bytes_cost_nothing(kind: CommKind, group: Group) -> None:
    assert collective_s(Comm(kind, 1e9, Group(1, 1)), _cluster(), FIT, FABRIC) == 0.0
    assert collective_s(Comm(kind, 0.0, group), _cluster(), FIT, FABRIC) == 0.0


@given(
    kind=st.sampled_from(KINDS),
    group=st.sampled_from([Group(2, 2), Group(4, 4), Group(8, 8), Group(16, 8), Group(32, 4), Group(64, 1)]),
    size=st.floats(1.0, 1e11),
    factor=st.floats(1.0, 1e3),
)
def test_more_bytes_never_take_less_time(kind: CommKind, group: Group, size: float, factor: float) -> None:
    less, more = (collective_s(Comm(kind, s, group), _cluster(), FIT, FABRIC) for s in (size, size * factor))
    assert 0.0 < less <= more


@pytest.mark.parametrize(
    ("kind", "steps", "share"),
    [("all_reduce", 14, 2 * 7 / 8), ("all_gather", 7, 7 / 8), ("reduce_scatter", 7, 7 / 8), ("all_to_all", 1, 7 / 8)],
)
def test_steps_and_wire_bytes_of_eight_ranks(kind: CommKind, steps: int, share: float) -> None:
    assert ring_steps(kind, 8) == steps
    assert wire_bytes(kind, 8, 1e6) == share * 1e6


def test_all_reduce_is_reduce_scatter_then_all_gather_on_the_wire() -> None:
    for ranks in (2, 3, 8, 64):
        parts = wire_bytes("reduce_scatter", ranks, 1e9) + wire_bytes("all_gather", ranks, 1e9)
        assert wire_bytes("all_reduce", ranks, 1e9) == parts


@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter", "all_reduce"])
@pytest.mark.parametrize("ranks", [3, 4, 8])
def test_ring_inside_a_domain(kind: CommKind, ranks: int) -> None:
    rate = 450e9 * FIT.link_efficiency
    passes, own = (2, 0.0) if kind == "all_reduce" else (1, FIT.own_share)  # an all-reduce works in place
    wire = passes * 1e8 * (ranks - 1 + own) / ranks
    expected = ring_s(passes * (ranks - 1), FIT.hop_s, wire, rate, FIT.base_s, FIT.ramp_sqrt_s)
    assert domain_ring_s(kind, ranks, 1e8, 450e9, FIT) == pytest.approx(expected, rel=1e-12)


def test_all_to_all_inside_a_domain() -> None:
    chunk = FIT.a2a_chunk_s / (1.0 + (FIT.a2a_chunk_bytes / (1e8 / 2)) ** 2)
    wire, rate = 1e8 * (7 + FIT.a2a_own_share) / 8, 450e9 * FIT.a2a_efficiency
    expected = ring_s(0, 0.0, wire, rate, FIT.a2a_base_s + chunk, FIT.a2a_ramp_sqrt_s)
    assert domain_collective_s("all_to_all", 8, 1e8, 450e9, FIT) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_blackwell_rings_climb_where_the_protocol_switches_and_never_fall(ranks: int) -> None:
    """Twice the largest buffer that travels with flags takes far more than twice its wire, yet nothing jumps."""
    fit = load_profile("b200-hgx").collectives
    sizes = [2.0 ** (10 + i / 4) for i in range(80)]
    times = [domain_ring_s("all_gather", ranks, size, 900e9, fit) for size in sizes]
    assert times == sorted(times)
    below, above = (domain_ring_s("all_gather", ranks, fit.switch_bytes * ranks * x, 900e9, fit) for x in (1.0, 2.0))
    flat, nudged = (domain_ring_s("all_gather", ranks, fit.switch_bytes * ranks * x, 900e9, fit) for x in (1.0, 1.001))
    assert above > 1.3 * below and nudged < 1.01 * flat


def test_the_own_part_costs_a_quarter_of_the_wire_on_every_gpu() -> None:
    """Fitted GPU by GPU: what holds for all of them is physics, not a fit."""
    for gpu in ("a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200-hgx", "gb200", "gb300"):
        assert load_profile(gpu).collectives.own_share == pytest.approx(0.24, abs=0.06)


def test_all_to_all_across_domains_is_the_nics_share_and_a_message_per_peer() -> None:
    cluster = _cluster()
    remote = 1e9 * (64 - 8) / 64 / (cluster.nic_bytes_per_s * FABRIC.nic_efficiency)
    remote += 56 * (FABRIC.peer_message_s + FABRIC.send_message_s)
    expected = FIT.a2a_base_s + cluster.fabric_latency_s + remote
    seconds = collective_s(Comm("all_to_all", 1e9, Group(64, 8), "direct"), cluster, FIT, FABRIC)
    assert seconds == pytest.approx(expected, rel=1e-12)


def test_send_across_domains_is_alpha_plus_bytes_over_rate() -> None:
    cluster = _cluster()
    expected = 1e8 / (cluster.nic_bytes_per_s * FABRIC.nic_efficiency) + cluster.fabric_latency_s + FIT.a2a_base_s
    assert collective_s(Comm("send", 1e8, Group(2, 1)), cluster, FIT, FABRIC) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", [8, 1e4, 1e7])
def test_a_neighbour_in_the_domain_is_never_farther_than_one_outside(size: float) -> None:
    near, far = (collective_s(Comm("send", size, Group(2, per)), _cluster(), FIT, FABRIC) for per in (2, 1))
    assert near < far


def test_a_large_ring_across_domains_moves_at_the_rate_of_its_rails() -> None:
    cluster, size = _cluster(), 1e12
    seconds = collective_s(Comm("all_gather", size, Group(64, 8)), cluster, FIT, FABRIC)
    rails = 8 * cluster.nic_bytes_per_s * FABRIC.nic_efficiency
    assert seconds == pytest.approx(63 / 64 * size / min(rails, 450e9 * FIT.link_efficiency), rel=0.01)


@pytest.mark.parametrize(
    ("fabric", "ranks", "algorithm", "slower"),
    [
        ("rail-ib-400", 64, "pxn", 1.0),  # rails of eight hosts meet in their own leaf
        ("rail-ib-400", 64, "direct", 3.0),  # other rails are reached over spines
        ("rail-ib-400", 512, "pxn", 1.8),  # half of the domains hang on other leaves
        ("fat-tree-ib-400", 64, "pxn", 1.8),
    ],
)
def test_oversubscription_slows_what_climbs_to_spines(fabric: str, ranks: int, algorithm: str, slower: float) -> None:
    work = Comm("all_to_all", 1e10, Group(ranks, 8), algorithm)
    free, tight = (
        collective_s(work, build_cluster("dgx-h100", ranks, fabric, oversubscription=o), FIT, FABRIC)
        for o in (1.0, 4.0)
    )
    assert slower * free <= tight <= (slower + 0.75) * free if slower > 1 else tight == free


def test_rings_climb_where_they_leave_a_leaf() -> None:
    """Of four hosts behind a leaf one sends to another leaf: its four-fold oversubscription is just enough."""
    for ratio, slower in ((4.0, 1.0), (8.0, 2.0)):
        cluster = build_cluster("dgx-h100", 64, "fat-tree-ib-400", oversubscription=ratio)
        assert slowdown(cluster, Group(64, 8), "neighbours") == slower
    assert slowdown(cluster, Group(8, 8), "neighbours") == 1.0


@pytest.mark.parametrize("node", ["hgx-h800", "dgx-h100", "gb200-nvl72"])
@pytest.mark.parametrize("algorithm", ["direct", "pxn"])
def test_no_number_of_ranks_beats_its_busiest_link(node: str, algorithm: str) -> None:
    for ranks in (9, 10, 11, 12, 13, 16, 24, 27, 73, 80, 96, 128):
        cluster = build_cluster(node, ranks)
        group = cluster.group(ranks)
        if group.domains == 1:
            continue
        loads = exchange_loads(uniform(ranks, 2.0**26), build_topology(cluster), algorithm)
        seconds = collective_s(Comm("all_to_all", 2.0**26, group, algorithm), cluster, FIT, FABRIC)
        assert loads.seconds <= seconds <= 4.0 * loads.seconds
        assert all(len(c.load_bytes) == ranks for c in loads.classes if c.name != "fabric")


def test_no_nics_cannot_span_domains() -> None:
    cluster = build_cluster("dgx-h100", 64, nic_bytes_per_s=0.0)
    with pytest.raises(ValueError, match="has no NICs"):
        collective_s(Comm("all_gather", 1e6, Group(64, 8)), cluster, FIT, FABRIC)
