"""Transfers beside each other on one cluster, and fabric links that a hash picks."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.hwmodels.cluster import build_cluster
from moesim.hwmodels.collective_traffic import collective_matrix, groups_of
from moesim.hwmodels.facts import FactError
from moesim.hwmodels.topology import TOPOLOGIES, build_topology
from moesim.hwmodels.traffic import exchange_loads, uniform
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.transfer.beside import parse_beside
from moesim.sim.transfer.predict import predict_comm
from moesim.sim.transfer.question import CommQuestion

MIB = 2.0**20
EXCHANGE = CommQuestion(
    node="hgx-h800", op="moe_dispatch", ranks=64, tokens=4096, hidden=7168, top_k=8, experts=256, groups=8, dtype="fp8"
)


def _beside(*texts: str) -> CommQuestion:
    from dataclasses import replace

    return replace(EXCHANGE, beside=tuple(parse_beside(t) for t in texts))


def test_what_shares_the_nics_is_slower_and_what_does_not_is_not() -> None:
    exchange, reduction = predict_comm(_beside("reduce_scatter:1GiB:8:8")).together
    assert 1.0 < exchange.together_s / exchange.alone_s < 1.1  # 63 flows against one
    assert reduction.together_s == pytest.approx(reduction.alone_s + exchange.alone_s, rel=0.02)
    exchange, near = predict_comm(_beside("all_gather:1MiB:2")).together
    assert exchange.together_s == pytest.approx(exchange.alone_s, rel=1e-6)
    assert near.together_s < 2.0 * near.alone_s  # the exchange waits for its NICs: half of NVLink is left


def test_equals_share_alike() -> None:
    question = CommQuestion(
        node="dgx-h100", op="reduce_scatter", ranks=64, size_bytes=256 * MIB,
        beside=(parse_beside("reduce_scatter:256MiB:64"),),
    )  # fmt: skip
    for row in predict_comm(question).together:
        assert row.together_s == pytest.approx(2.0 * row.alone_s, rel=1e-6)


def test_a_ring_loads_all_nics_of_a_group_alike() -> None:
    matrix = collective_matrix("all_reduce", 64 * MIB, 32, 32, 1, 8)
    topology = build_topology(build_cluster("dgx-h100", 32))
    load = exchange_loads(matrix, topology, "direct").summary()
    wire = 2.0 * 31 / 32 * 64 * MIB
    assert load["NIC out"]["busiest_bytes"] == pytest.approx(wire / 8)
    assert load["NIC out"]["mean_bytes"] == pytest.approx(wire / 8)
    assert load["NVLink out"]["busiest_bytes"] == pytest.approx(wire)


def test_groups_lie_apart_as_asked() -> None:
    assert groups_of(16, 2, 8).tolist() == [[i, i + 8] for i in range(8)]
    assert groups_of(8, 4, 1).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(FactError, match="do not fit 16 GPUs"):
        groups_of(16, 4, 8)


@pytest.mark.parametrize("kind", [k for k in TOPOLOGIES if k != "multi-plane"])
def test_hashing_moves_the_same_bytes_and_never_less_over_the_busiest_link(kind: str) -> None:
    topology = build_topology(build_cluster("dgx-h100", 1024), kind)
    matrix = uniform(1024, 64 * MIB)
    even, hashed = (exchange_loads(matrix, topology, "direct", hashed=h) for h in (False, True))
    totals = [next(c.load_bytes for c in loads.classes if c.name == "fabric") for loads in (even, hashed)]
    assert totals[1].sum() == pytest.approx(totals[0].sum(), rel=1e-9)
    assert totals[1].max() >= totals[0].max() * (1 - 1e-9)


def test_few_large_flows_collide_under_hashing() -> None:
    topology = build_topology(build_cluster("dgx-h100", 1024), "fat-tree")
    matrix = np.zeros((1024, 1024))
    matrix[np.arange(1024), (np.arange(1024) + 512) % 1024] = 64 * MIB
    even, hashed = (exchange_loads(matrix, topology, "direct", hashed=h) for h in (False, True))
    assert hashed.seconds > 1.3 * even.seconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("all_reduce", "write OP:BYTES:RANKS"),
        ("all_redcue:1MiB:8", "did you mean 'all_reduce'"),
        ("all_reduce:1MiB:x", "whole numbers above zero"),
        ("all_reduce:1MiB:8:0", "whole numbers above zero"),
        ("all_reduce:0:8", "bytes must be above zero"),
    ],
)
def test_unusable_neighbours_are_refused(text: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        parse_beside(text)


def test_too_many_gpus_are_refused() -> None:
    with pytest.raises(ScenarioError, match="are more than 4096 in all"):
        predict_comm(_beside("all_reduce:1MiB:64:6400"))
