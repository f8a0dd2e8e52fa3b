"""Exchanges of many ranks: drawn by leaf they conserve every byte and load links as the dense matrices do."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.hwmodels.cluster import build_cluster
from moesim.hwmodels.link_loads import Loads, link_loads
from moesim.hwmodels.topology import Topology, build_topology
from moesim.hwmodels.traffic import exchange_loads
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.transfer import exchange_traffic as module
from moesim.sim.transfer.drawn_exchange import Shares, drawn_exchange
from moesim.sim.transfer.exchange_traffic import Exchange, exchange_shares, exchange_traffic
from moesim.sim.transfer.predict import predict_comm
from moesim.traces.rng import stream

CASES = [
    ("dgx-h100", 256, "rail-ib-400"),
    ("dgx-h100", 256, "fat-tree-ib-400"),
    ("dgx-h100", 256, "mpft-ib-400"),
    ("dgx-h100", 250, "fat-tree-ib-400"),  # the last host lacks six
    ("gb200-nvl72", 256, "rail-ib-400"),
]


def _ask(topology: Topology, sigma: float) -> Exchange:
    ranks, domain = topology.cluster.gpus, topology.cluster.domain
    return Exchange(
        ranks=ranks, domain=domain, experts=2 * ranks, top_k=8, tokens=4096, payload_bytes=7168.0, sigma=sigma
    )


def _drawn(topology: Topology, ask: Exchange, mode: str) -> Loads:
    by_rank, by_domain, _ = exchange_shares(ask)
    shares = Shares(tokens=ask.tokens, to_rank=by_rank, to_domain=by_domain)
    return link_loads(topology, drawn_exchange(shares, topology, mode, stream(1, "test")).times(ask.payload_bytes))


@pytest.mark.parametrize(("node", "ranks", "fabric"), CASES)
@pytest.mark.parametrize("mode", ["direct", "pxn", "forwarded"])
@pytest.mark.parametrize("sigma", [0.0, 0.65])
def test_leaves_load_links_as_pairs_do(node: str, ranks: int, fabric: str, mode: str, sigma: float) -> None:
    if fabric == "mpft-ib-400" and mode == "direct":
        pytest.skip("planes meet only inside the hosts")
    topology = build_topology(build_cluster(node, ranks, fabric))
    ask = _ask(topology, sigma)
    traffic = exchange_traffic(ask)
    assert traffic.to_ranks is not None
    dense = exchange_loads(traffic.to_ranks, topology, mode, traffic.to_domains if mode == "forwarded" else None)
    drawn = _drawn(topology, ask, mode)
    assert [c.name for c in dense.classes] == [c.name for c in drawn.classes]
    for pairs, leaves in zip(dense.classes, drawn.classes, strict=True):
        assert leaves.load_bytes.shape == pairs.load_bytes.shape
        assert leaves.load_bytes.sum() == pytest.approx(pairs.load_bytes.sum(), rel=0.01), pairs.name
        assert leaves.seconds == pytest.approx(pairs.seconds, rel=0.05), pairs.name
        if pairs.load_bytes.std() > 0.1 * pairs.load_bytes.mean():  # the same links are busy, not only as many
            assert np.corrcoef(leaves.load_bytes, pairs.load_bytes)[0, 1] > 0.95, pairs.name


@pytest.mark.parametrize(("node", "ranks", "fabric"), [*CASES, ("hgx-h800", 2048, "fat-tree-ib-400")])
@pytest.mark.parametrize("mode", ["direct", "pxn", "forwarded"])
def test_bytes_in_are_bytes_out(node: str, ranks: int, fabric: str, mode: str) -> None:
    topology = build_topology(build_cluster(node, ranks, fabric))
    by_rank, by_domain, _ = exchange_shares(_ask(topology, 0.65))
    shares = Shares(tokens=4096, to_rank=by_rank, to_domain=by_domain)
    copies = drawn_exchange(shares, topology, mode, stream(2, "test"))
    assert copies.leaves is not None
    assert copies.far_out.sum() == copies.far_into.sum() == copies.leaves.sum() > 0.0
    assert copies.near_out.sum() == copies.near_into.sum() > 0.0
    for load in (copies.far_out, copies.far_into, copies.near_out, copies.near_into):
        assert (load >= 0.0).all() and (load == np.rint(load)).all()
    _, leaf = topology.leaves_of(ranks)
    np.testing.assert_array_equal(np.bincount(leaf, copies.far_out), copies.leaves.sum(axis=1))
    np.testing.assert_array_equal(np.bincount(leaf, copies.far_into), copies.leaves.sum(axis=0))


@pytest.mark.parametrize("sigma", [0.0, 0.3, 0.65, 1.0])
@pytest.mark.parametrize("experts", [512, 2048])
def test_shares_in_closed_form_are_those_of_a_pool(sigma: float, experts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Exchange(ranks=512, domain=8, experts=experts, top_k=8, tokens=1, payload_bytes=1.0, sigma=sigma, seed=3)
    pooled_rank, pooled_domain, pooled_rows = exchange_shares(ask)
    monkeypatch.setattr(module, "MOST_DENSE", 8)
    rank, domain, rows = exchange_shares(ask)
    assert rank.sum() == pytest.approx(pooled_rank.sum(), rel=0.005)
    assert domain.sum() == pytest.approx(pooled_domain.sum(), rel=0.005)
    assert domain.max() == pytest.approx(pooled_domain.max(), rel=0.05)
    assert rows == pytest.approx(pooled_rows, rel=0.15)


def test_many_ranks_answer_by_domain() -> None:
    ask = {"node": "dgx-h100", "op": "moe_dispatch", "ranks": 1024, "tokens": 128, "hidden": 64, "top_k": 8}
    answer = predict_comm({**ask, "experts": 1024, "algorithm": "normal", "sigma": 0.5})
    traffic = answer.traffic
    assert traffic is not None and traffic.to_ranks is None
    assert traffic.block == 8 and traffic.between.shape == (128, 128)
    assert traffic.between.sum() == pytest.approx(traffic.sent_bytes)
    again = predict_comm({**ask, "experts": 1024, "algorithm": "normal", "sigma": 0.5})
    assert again.to_dict() == answer.to_dict()
    assert predict_comm({**ask, "experts": 1024, "algorithm": "normal", "seed": 1}).to_dict() != answer.to_dict()


def test_more_ranks_than_can_be_drawn_are_refused() -> None:
    ask = {"node": "dgx-h100", "op": "moe_dispatch", "tokens": 128, "hidden": 64, "top_k": 8}
    with pytest.raises(ScenarioError, match="between 2 and 65536"):
        predict_comm({**ask, "ranks": 131072, "experts": 131072})
    with pytest.raises(ScenarioError, match="between 2 and 4096"):
        predict_comm({**ask, "ranks": 8192, "experts": 8192, "ecmp": True})
