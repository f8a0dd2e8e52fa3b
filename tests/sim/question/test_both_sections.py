"""One file may hold training and serving: each with its own layout, answered as two files would be."""

from __future__ import annotations

from typing import Any

import pytest

from moesim import BadLayout, Plan, ServePlan, compare, plan, predict_serve, predict_train, sweep, whatif

LOAD = {"kind": "closed", "concurrency": 8, "count": 16, "input_tokens": 256, "output_tokens": 16}
TRAIN: dict[str, Any] = {
    "model": {"base": "mixtral-8x7b", "layers": 8}, "cluster": {"node": "dgx-h100", "gpus": 16},
    "layout": {"pp": 2, "vpp": 2, "ep": 8}, "train": {"global_batch": 64, "seq_len": 2048}, "stack": "megatron-core",
}  # fmt: skip
SHARED = {key: TRAIN[key] for key in ("model", "cluster")}
SERVE: dict[str, Any] = {**SHARED, "layout": {"tp": 4}, "serve": {"requests": LOAD}}
BOTH: dict[str, Any] = {**TRAIN, "serve": {"requests": LOAD, "layout": {"tp": 4}}}


def test_each_verb_answers_its_section() -> None:
    assert predict_train(BOTH).step_time_s == predict_train(TRAIN).step_time_s
    served = predict_serve(BOTH)
    assert served.to_dict() == predict_serve(SERVE).to_dict()
    assert served.resolved.deployment.replicas == 4
    assert whatif(BOTH).step_time_s == predict_train(TRAIN).step_time_s
    both, one, two = (compare([s, s], break_even=False).columns[0] for s in (BOTH, TRAIN, SERVE))
    assert both.train == one.train and both.serve == two.serve


def test_plans_and_sweeps_of_it_run() -> None:
    found = plan(BOTH)
    assert isinstance(found, Plan)
    assert predict_train(found.scenario(found.options[0])).step_time_s == found.options[0].finalist.step_time_s
    (row,) = sweep({**SHARED, "serve": BOTH["serve"]}, {"serve.layout.tp": (8,)}).rows
    assert row["tpot_s"] == predict_serve({**SERVE, "layout": {"tp": 8}}).tpot_s.mean
    served = plan(BOTH, slo="ttft=5s,tpot=100ms", given={"pools": "no"})
    assert isinstance(served, ServePlan) and predict_serve(served.scenario(0)).tpot_s.mean > 0


def test_a_layout_of_training_that_no_replica_can_have_says_where_its_own_goes() -> None:
    asked = {**TRAIN, "serve": {"requests": LOAD}}
    with pytest.raises(BadLayout, match=r"say the replica's in serve.layout"):
        predict_serve(asked)
    with pytest.raises(BadLayout) as refusal:
        predict_serve({**SERVE, "layout": {"tp": 3}})
    assert "serve.layout" not in str(refusal.value)
