"""Who gets the tokens: rows are conserved, ratios are the clock's, nothing is drawn before it is looked at."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from moesim.sim.train.predict import predict_train
from moesim.sim.train.prediction import Prediction

JOB: dict[str, Any] = {
    "model": {"base": "mixtral-8x7b", "layers": 4},
    "cluster": {"node": "dgx-h100", "gpus": 16},
    "layout": {"pp": 2, "ep": 4},
    "train": {"global_batch": 32, "seq_len": 2048},
    "routing": {"lognormal": 0.6, "seed": 3},
}
WIDE: dict[str, Any] = {
    "model": {"base": "deepseek-v3", "layers": 5},
    "cluster": {"node": "hgx-h800", "gpus": 128},
    "layout": {"ep": 128},
    "train": {"global_batch": 128, "seq_len": 512, "precision": "bf16"},
    "routing": {"lognormal": 0.6, "seed": 3},
}


def predicted(**changes: Any) -> Prediction:
    return predict_train({**JOB, **changes}, check_memory=False)


def test_rows_are_conserved() -> None:
    p = predicted()
    view, job = p.experts, p.resolved.job
    assert view is not None
    pairs = p.tokens_per_step * 2  # top-2 of every token, in each layer
    for layer in view.layers:
        assert layer.expert_rows.sum() == pairs
        assert layer.rank_rows.sum() * job.layout.edp == pytest.approx(pairs, rel=1e-12)
        assert layer.over_mean.mean() == pytest.approx(1.0)
        assert 1.0 < layer.busiest_rank_ratio <= layer.worst_rank_ratio
    assert view.over_mean.shape == (4, 8)


def test_ratios_are_those_of_the_step() -> None:
    p = predicted()
    assert p.experts is not None
    rows = p.experts.prices.routed(0)
    assert {layer.place: layer.busiest_rank_ratio for layer in p.experts.layers} == rows.imbalance
    for layer in p.experts.layers:
        assert (layer.expert_rows == rows.expert_rows[layer.place]).all()


def test_every_pair_travels_once_where_kernels_send_a_copy_per_expert() -> None:
    p = predicted(stack={"name": "megatron-tuned", "dispatcher": "alltoall"})
    assert p.experts is not None
    sent = p.experts.exchange_bytes
    assert sent.shape == (4, 4) and np.ptp(sent, axis=0) == pytest.approx(0.0)
    group_pairs = p.tokens_per_step * 2 / p.resolved.job.layout.edp
    assert sent.sum() == pytest.approx(group_pairs * 4 * 4096 * 2)  # layers x hidden x bytes of bf16
    once = predicted(stack={"name": "megatron-tuned", "dispatcher": "deepep"}).experts
    assert once is not None and once.exchange_bytes.sum() < sent.sum()


def test_many_ranks_are_shown_by_domain() -> None:
    view = predict_train(WIDE, check_memory=False).experts
    assert view is not None
    assert view.exchange_bytes.shape == (16, 16) and view.rank_rows.shape == (128,)
    assert view.to_dict()["dispatched_bytes"]["between"] == "domains"
    assert len(view.layers) == 2  # the first three are dense


def test_balanced_routing_is_flat() -> None:
    view = predicted(routing="balanced").experts
    assert view is not None and not view.drawn
    assert (view.over_mean == 1.0).all() and view.busiest_rank_ratio == 1.0


def test_capacity_drops_are_counted_once() -> None:
    p = predicted(train={**JOB["train"], "capacity_factor": 1.0})
    assert p.experts is not None and 0.1 < p.experts.dropped_share < 0.5
    assert p.experts.busiest_rank_ratio == 1.0  # every expert is padded to the limit
    assert p.experts.busiest_expert_ratio > 1.2  # before drops


def test_nothing_is_drawn_before_it_is_looked_at() -> None:
    view = predicted(routing="balanced").experts
    assert view is not None and "layers" not in vars(view)
    assert view.to_dict()["busiest_expert_over_mean"] == 1.0 and "layers" in vars(view)


def test_json_and_dense_models() -> None:
    record = json.loads(json.dumps(predicted().to_dict(), allow_nan=False))
    assert record["experts"]["ranks"] == 4 and len(record["experts"]["layers"]) == 4
    dense = {"model": "llama-3.1-8b", "cluster": JOB["cluster"], "train": JOB["train"]}
    assert predict_train(dense).to_dict()["experts"] is None
