"""Flows on shared links: oracles with known answers, the max-min certificate, and nothing lost on the way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.hwmodels.cluster import build_cluster
from moesim.hwmodels.facts import FactError
from moesim.hwmodels.fairshare import Paths, Rates, max_min_rates
from moesim.hwmodels.topology import build_topology
from moesim.hwmodels.traffic import exchange_loads, uniform
from moesim.sim.clock.flows import Transfer, run_transfers

MIB64 = 64.0 * 2**20


def finish_s(paths: Paths, sizes_bytes: Rates, capacity: Rates) -> Rates:
    """When each flow is done if all start together: rates are solved again at every finish."""
    remaining, done = sizes_bytes.astype(float).copy(), np.zeros(len(sizes_bytes))
    clock = 0.0
    active = remaining > 0
    while active.any():
        rates = np.zeros(len(remaining))
        rates[active] = max_min_rates(paths[active], capacity)
        step = float((remaining[active] / rates[active]).min())
        clock += step
        remaining[active] -= rates[active] * step
        finished = active & (remaining <= 1e-9 * sizes_bytes)
        done[finished] = clock
        active &= ~finished
    return done


def test_a_lone_flow_takes_latency_plus_bytes_over_bandwidth() -> None:
    done = run_transfers([Transfer("one", {"a": 1e9}, {"a": 1.0}, start_s=1.0, latency_s=2e-6)], {"a": 50e9})
    assert done["one"] == pytest.approx(1.0 + 2e-6 + 1e9 / 50e9, rel=1e-12)


def test_two_flows_share_and_the_first_to_end_frees_its_half() -> None:
    pair = [Transfer("short", {"a": 1e9}, {"a": 1.0}), Transfer("long", {"a": 3e9}, {"a": 1.0})]
    done = run_transfers(pair, {"a": 1e9})
    assert done["short"] == pytest.approx(2.0)
    assert done["long"] == pytest.approx(4.0)


def test_many_flows_take_more_of_a_link_than_one() -> None:
    pair = [Transfer("ring", {"a": 1e9}, {"a": 1.0}), Transfer("all", {"a": 3e9}, {"a": 3.0})]
    done = run_transfers(pair, {"a": 1e9})
    assert done["ring"] == pytest.approx(4.0)
    assert done["all"] == pytest.approx(4.0)


def test_a_later_start_slows_what_already_runs() -> None:
    pair = [Transfer("early", {"a": 2e9}, {"a": 1.0}), Transfer("late", {"a": 1e9}, {"a": 1.0}, start_s=1.0)]
    done = run_transfers(pair, {"a": 1e9})
    assert done["early"] == pytest.approx(3.0)
    assert done["late"] == pytest.approx(3.0)


def test_other_links_are_not_touched() -> None:
    pair = [Transfer("a", {"a": 1e9}, {"a": 1.0}), Transfer("b", {"b": 1e9}, {"b": 1.0})]
    assert run_transfers(pair, {"a": 1e9, "b": 1e9}) == pytest.approx({"a": 1.0, "b": 1.0})


def test_links_without_bandwidth_are_refused() -> None:
    with pytest.raises(FactError, match="no bandwidth"):
        run_transfers([Transfer("x", {"a": 1.0}, {"a": 1.0})], {"a": 0.0})
    with pytest.raises(FactError, match="above zero"):
        max_min_rates(np.array([[0]], dtype=np.int32), np.array([0.0]))


@pytest.mark.parametrize(("ranks", "milliseconds"), [(64, 1.174), (256, 1.300), (1024, 1.332)])
@pytest.mark.parametrize("mode", ["direct", "pxn"])
def test_uniform_all_to_all_is_bound_by_the_nics(ranks: int, milliseconds: float, mode: str) -> None:
    """64 MiB per rank over 8-GPU nodes with 50 GB/s NICs: 67,108,864 B x (n - 8) / n / 50e9."""
    topology = build_topology(build_cluster("hgx-h800", ranks))
    loads = exchange_loads(uniform(ranks, MIB64), topology, mode)
    assert loads.seconds == pytest.approx(MIB64 * (ranks - 8) / ranks / 50e9, rel=1e-9)
    assert loads.seconds * 1e3 == pytest.approx(milliseconds, abs=1e-3)


@st.composite
def networks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    links = draw(st.integers(1, 8))
    capacity = np.array(draw(st.lists(st.floats(1.0, 100.0), min_size=links, max_size=links)))
    flows = draw(st.integers(1, 20))
    paths = []
    for _ in range(flows):
        chosen = draw(st.lists(st.integers(0, links - 1), min_size=1, max_size=4, unique=True))
        paths.append([*chosen, *[-1] * (4 - len(chosen))])
    return np.array(paths, dtype=np.int32), capacity


@settings(max_examples=200, deadline=None, derandomize=True)
@given(networks())
def test_max_min_certificate(network: tuple[np.ndarray, np.ndarray]) -> None:
    """No link is overfull, and every flow crosses a full link on which nobody is faster."""
    paths, capacity = network
    rates = max_min_rates(paths, capacity)
    used = np.zeros(len(capacity))
    for path, rate in zip(paths, rates, strict=True):
        used[path[path >= 0]] += rate
    assert (used <= capacity * (1 + 1e-9)).all()
    for path, rate in zip(paths, rates, strict=True):
        full = [link for link in path[path >= 0] if used[link] >= capacity[link] * (1 - 1e-9)]
        assert any(
            all(rates[i] <= rate * (1 + 1e-9) for i, other in enumerate(paths) if link in other) for link in full
        )


def _explicit(matrix: np.ndarray, nic: float, link: float, domain: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair as a flow of its own: NVLink out and in inside a domain, NIC out and in between domains."""
    n = len(matrix)
    paths, sizes = [], []
    for s in range(n):
        for d in range(n):
            if s == d or matrix[s, d] == 0:
                continue
            near = s // domain == d // domain
            paths.append([s, n + d] if near else [2 * n + s, 3 * n + d])
            sizes.append(matrix[s, d])
    capacity = np.concatenate([np.full(2 * n, link), np.full(2 * n, nic)])
    return np.array(paths, dtype=np.int32), np.array(sizes), capacity


def test_the_busiest_link_is_the_exact_answer_on_symmetric_traffic() -> None:
    cluster = build_cluster("hgx-h800", 16)
    matrix = uniform(16, MIB64)
    paths, sizes, capacity = _explicit(matrix, cluster.nic_bytes_per_s, cluster.gpu.scale_up_bytes_per_s, 8)
    exact = finish_s(paths, sizes, capacity).max()
    assert exchange_loads(matrix, build_topology(cluster), "direct").seconds == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("seed", range(6))
def test_the_busiest_link_is_close_on_adversarial_traffic(seed: int) -> None:
    """Sparse, heavy-tailed traffic: never slower than exact, at most a tenth faster."""
    cluster = build_cluster("hgx-h800", 16)
    rng = np.random.default_rng(seed)
    matrix = rng.lognormal(10.0, 2.0, (16, 16)) * (rng.random((16, 16)) < 0.5)
    paths, sizes, capacity = _explicit(matrix, cluster.nic_bytes_per_s, cluster.gpu.scale_up_bytes_per_s, 8)
    exact = finish_s(paths, sizes, capacity).max()
    found = exchange_loads(matrix, build_topology(cluster), "direct").seconds
    assert found <= exact * (1 + 1e-9)
    assert found >= 0.9 * exact


@pytest.mark.parametrize("mode", ["direct", "pxn"])
def test_bytes_are_conserved(mode: str) -> None:
    rng = np.random.default_rng(3)
    matrix = rng.random((32, 32)) * 1e6
    loads = {
        c.name: c.load_bytes
        for c in exchange_loads(matrix, build_topology(build_cluster("hgx-h800", 32)), mode).classes
    }
    own = np.arange(32) // 8
    remote = matrix[own[:, None] != own[None, :]].sum()
    assert loads["NIC out"].sum() == pytest.approx(remote)
    assert loads["NIC in"].sum() == pytest.approx(remote)
    assert loads["NVLink out"].sum() == pytest.approx(loads["NVLink in"].sum())


def test_oversubscribed_spines_slow_what_crosses_rails() -> None:
    free, tight = (build_cluster("hgx-h800", 64, oversubscription=ratio) for ratio in (1.0, 4.0))
    matrix = uniform(64, MIB64)
    direct = [exchange_loads(matrix, build_topology(c), "direct").seconds for c in (free, tight)]
    pxn = [exchange_loads(matrix, build_topology(c), "pxn").seconds for c in (free, tight)]
    assert direct[1] > 2.0 * direct[0]  # most pairs sit on different rails
    assert pxn[1] == pytest.approx(pxn[0])  # one rail, one leaf: no spine in between


@pytest.mark.parametrize("matrix", [np.ones((3, 4)), np.full((4, 4), np.nan), -np.ones((4, 4)), np.ones((64, 64))])
def test_bad_matrices_are_refused(matrix: np.ndarray) -> None:
    with pytest.raises(FactError, match="traffic"):
        exchange_loads(matrix, build_topology(build_cluster("hgx-h800", 16)))


@pytest.mark.parametrize("kind", ["rail-optimised", "fat-tree", "three-tier", "dragonfly"])
def test_every_topology_carries_what_is_sent(kind: str) -> None:
    """Bytes that leave a leaf equal bytes that reach one, and tighter fabrics are never faster."""
    cluster = build_cluster("hgx-h800", 1024)
    topology = build_topology(cluster, kind)
    leaves = sorted(set(topology.leaf_of), key=lambda name: int(name[4:]))
    wanted = dict.fromkeys(leaves[1:], 10.0)
    carried = topology.spread(leaves[0], wanted)
    out = sum(size for (a, _), size in carried.items() if a == leaves[0])
    into = {leaf: sum(s for (_, b), s in carried.items() if b == leaf) for leaf in leaves[1:]}
    passed_on = {leaf: sum(s for (a, _), s in carried.items() if a == leaf) for leaf in leaves[1:]}
    assert out == pytest.approx(10.0 * len(wanted))
    for leaf in leaves[1:]:
        assert into[leaf] - passed_on[leaf] == pytest.approx(10.0)
    matrix = uniform(64, MIB64)
    free, tight = (build_cluster("hgx-h800", 64, oversubscription=ratio) for ratio in (1.0, 4.0))
    times = [exchange_loads(matrix, build_topology(c, kind), "direct").seconds for c in (free, tight)]
    assert times[0] <= times[1]


def test_planes_meet_only_in_hosts() -> None:
    topology = build_topology(build_cluster("hgx-h800", 512, "mpft-ib-400"))
    with pytest.raises(FactError, match="cannot reach"):
        topology.spread("leaf0", {"leaf1": 1.0})
    assert exchange_loads(uniform(512, MIB64), topology, "pxn").seconds > 0.0
    with pytest.raises(FactError, match="pxn"):
        exchange_loads(uniform(512, MIB64), topology, "direct")


def test_a_three_tier_tree_has_cores() -> None:
    graph = build_topology(build_cluster("dgx-h100", 1024, "three-tier-roce-400")).graph
    kinds = {data["kind"] for _, data in graph.nodes(data=True)}
    assert kinds == {"gpu", "switch", "nic", "leaf", "spine", "core"}


@pytest.mark.parametrize("start", [0.0, 0.1, 1.0, 1e4, 1e7])
def test_late_transfers_end_too(start: float) -> None:
    """Residues that a large clock rounds away must not keep a transfer running."""
    both = [Transfer(name, {"l": size}, {"l": 1.0}, start_s=start) for name, size in (("a", 1e4), ("b", 3e4))]
    done = run_transfers(both, {"l": 5e10})
    assert start <= done["a"] <= done["b"] <= start + 1e-6


def test_names_are_used_once() -> None:
    twice = [Transfer("a", {"l": 1.0}, {"l": 1.0}), Transfer("a", {"l": 3.0}, {"l": 1.0})]
    with pytest.raises(FactError, match="two transfers"):
        run_transfers(twice, {"l": 1.0})


@pytest.mark.parametrize("mode", ["direct", "pxn", "forwarded"])
@pytest.mark.parametrize("ranks", [9, 12, 15])
def test_a_short_domain_conserves_bytes(ranks: int, mode: str) -> None:
    """What its GPUs lack in rails they carry in turns: NICs send what NICs receive, and nobody else does."""
    topology = build_topology(build_cluster("hgx-h800", ranks))
    matrix = np.random.default_rng(1).random((ranks, ranks))
    copies = matrix[:, :2] if mode == "forwarded" else None
    for back in (False, True):
        loads = {c.name: c for c in exchange_loads(matrix, topology, mode, copies, back=back).classes}
        assert loads["NIC out"].load_bytes.sum() == pytest.approx(loads["NIC in"].load_bytes.sum())
        assert loads["NVLink out"].load_bytes.sum() == pytest.approx(loads["NVLink in"].load_bytes.sum())
        if mode != "forwarded":
            crosses = matrix[:8, 8:].sum() + matrix[8:, :8].sum()
            assert loads["NIC out"].load_bytes.sum() == pytest.approx(crosses)


def test_planes_need_a_gpu_in_every_domain() -> None:
    with pytest.raises(FactError, match="multiple of 8"):
        exchange_loads(uniform(12, 1e6), build_topology(build_cluster("hgx-h800", 12, "mpft-ib-400")))
