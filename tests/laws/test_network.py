"""Transfers on shared wires: alone as their closed form, max-min fair together, nothing lost, time scaling exact."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.hwmodels.cluster import build_cluster
from moesim.hwmodels.wires import flows, wire_seconds
from moesim.hwmodels.work import Comm, ExpertExchange, Group
from moesim.sim.clock.events import HeapClock, SimpyClock
from moesim.sim.clock.network import Flow, Network, fair_rates

LINKS = 4
LOADS = st.lists(
    st.tuples(st.integers(0, LINKS - 1), st.floats(0.01, 1.0)), min_size=1, max_size=3, unique_by=lambda load: load[0]
).map(tuple)
TRANSFERS = st.lists(
    st.tuples(st.floats(0.0, 10.0), st.floats(1e-6, 10.0), LOADS, st.integers(1, 63).map(float)), min_size=1, max_size=8
)
Transfer = tuple[float, float, tuple[tuple[int, float], ...], float]


def _run(transfers: list[Transfer], simpy: bool = False) -> list[float]:
    """When each transfer (start, seconds alone, loads, weight) ends."""
    clock = SimpyClock() if simpy else HeapClock()
    network, ends = Network(clock), [-1.0] * len(transfers)

    def launch(number: int, start: float, seconds: float, loads: tuple[tuple[int, float], ...], weight: float) -> None:
        def done(end: float, _: bool) -> None:
            ends[number] = end

        clock.at(start, lambda: network.start(Flow(seconds, loads, weight, done), start))

    for number, transfer in enumerate(transfers):
        launch(number, *transfer)
    clock.run()
    return ends


@given(TRANSFERS)
def test_rates_are_weighted_max_min_fair(transfers: list[Transfer]) -> None:
    """The certificate: links are not overfull; who is below full rate has a full link on which no one gets more."""
    loads, weights = [t[2] for t in transfers], [t[3] for t in transfers]
    rates = fair_rates(loads, weights, range(LINKS))
    used = [sum(r * s for r, load in zip(rates, loads, strict=True) for k, s in load if k == link) for link in range(4)]
    assert all(u <= 1.0 + 1e-9 for u in used)
    for rate, load, weight in zip(rates, loads, weights, strict=True):
        if rate == 1.0:
            continue
        full = [link for link, _ in load if used[link] > 1.0 - 1e-9]
        assert any(
            all(
                r / w <= rate / weight * (1 + 1e-9)
                for r, other, w in zip(rates, loads, weights, strict=True)
                if link in dict(other)
            )
            for link in full
        )


@given(st.floats(0.0, 1e9), st.floats(1e-9, 1e3), LOADS)
def test_a_lone_transfer_takes_its_seconds_to_the_last_bit(start: float, seconds: float, loads: object) -> None:
    assert _run([(start, seconds, loads, 7.0)]) == [start + seconds]  # type: ignore[list-item]  # drawn loads


@given(TRANSFERS)
def test_both_clocks_give_the_same_bits_and_nobody_is_faster_than_alone(transfers: list[Transfer]) -> None:
    ends = _run(transfers)
    assert ends == _run(transfers, simpy=True)
    for end, (start, seconds, _, _) in zip(ends, transfers, strict=True):
        assert end >= start + seconds * (1 - 1e-9)


@given(TRANSFERS)
def test_what_goes_over_a_link_takes_at_least_as_long_as_at_full_rate(transfers: list[Transfer]) -> None:
    """Bytes are conserved: no link carries more in the time that its transfers are under way than it can."""
    ends = _run(transfers)
    for link in range(LINKS):
        mine = [(t, e) for t, e in zip(transfers, ends, strict=True) if link in dict(t[2])]
        if mine:
            first, last = min(t[0] for t, _ in mine), max(e for _, e in mine)
            assert last - first >= sum(t[1] * dict(t[2])[link] for t, _ in mine) * (1 - 1e-9)


@given(TRANSFERS, st.integers(-30, 30))
def test_time_scaling_is_exact(transfers: list[Transfer], power: int) -> None:
    factor = 2.0**power
    scaled = [(start * factor, seconds * factor, loads, weight) for start, seconds, loads, weight in transfers]
    assert _run(scaled) == [end * factor for end in _run(transfers)]


def test_a_transfer_that_ends_gives_its_rate_back() -> None:
    """Two that fill a link share it until the shorter is through."""
    assert _run([(0.0, 1.0, ((0, 1.0),), 1.0), (0.0, 2.0, ((0, 1.0),), 1.0)]) == pytest.approx([2.0, 3.0])


def test_bytes_on_wires_by_hand() -> None:
    """8 H100 hosts: 50 GB/s of NIC and 450 GB/s of link per GPU."""
    cluster = build_cluster("dgx-h100", 64)
    far, near = Group(64, 8), Group(8, 8)
    ring = wire_seconds(Comm("reduce_scatter", 64e9, far), cluster)
    assert ring["nic"] == pytest.approx(64e9 * 7 / 8 / 8 / 50e9)
    assert wire_seconds(Comm("all_gather", 8e9, near), cluster) == {"link": pytest.approx(7e9 / 450e9)}
    summed = wire_seconds(Comm("all_reduce", 64e9, far), cluster)
    assert summed["nic"] == pytest.approx(2 * 64e9 * 7 / 64 / 50e9)
    assert summed["link"] == pytest.approx(2 * 64e9 * 7 / 8 / 450e9)  # once up, once down: several hosts add in turn
    sent = wire_seconds(Comm("all_to_all", 64e9, far), cluster)
    assert sent["nic"] == pytest.approx(56e9 / 50e9)
    dispatch = ExpertExchange(
        "dispatch", tokens=4096.0, top_k=8, payload_bytes=7168.0, group=far, node_copies=4.0, rank_copies=7.0
    )
    assert wire_seconds(dispatch, cluster)["nic"] == pytest.approx(4096 * 7168 * 4 * 7 / 8 / 50e9)
    assert (flows(Comm("all_to_all", 1.0, far)), flows(dispatch), flows(Comm("all_gather", 1.0, far))) == (56, 7, 1)
