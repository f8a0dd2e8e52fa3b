"""Copies of a token inside a tensor group, and transfers under recompute (DeepSpeed-TED, arXiv:2303.06318)."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.sim.layout.layout import BadLayout
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prediction import Prediction


def _predict(duplicates: str, recompute: list[str], tp: int = 2) -> Prediction:
    scenario: dict[str, Any] = {
        "model": "deepspeed-ted-6.7b-16e",
        "cluster": {"node": "dgx-v100", "gpus": 128},
        "layout": {"tp": tp, "ep": 16, "etp": tp, "sequence_parallel": False, "duplicates": duplicates},
        "train": {
            "global_batch": 512, "micro_batch": 2, "seq_len": 2048, "precision": "fp16", "recompute": recompute,
        },
        "stack": "megatron-2021",
    }  # fmt: skip
    return predict_train(scenario)


def test_dropping_duplicates_divides_what_is_exchanged_by_the_tensor_width() -> None:
    for tp in (2, 4):
        sent, dropped = (_predict(d, ["full"], tp) for d in ("send", "drop"))
        ratio = sent.breakdown_s["ep_comm"] / dropped.breakdown_s["ep_comm"]
        assert 0.9 * tp < ratio < 1.1 * tp
        assert dropped.breakdown_s["grouped_gemm"] == pytest.approx(sent.breakdown_s["grouped_gemm"])
        assert dropped.breakdown_s["tp_comm"] > sent.breakdown_s["tp_comm"]  # what was dropped is gathered again


def test_kept_collectives_are_a_third_fewer_and_take_memory() -> None:
    again, kept = _predict("send", ["full"]), _predict("send", ["full", "keep_collectives"])
    for part in ("ep_comm", "tp_comm"):
        assert kept.breakdown_s[part] == pytest.approx(again.breakdown_s[part] * 2.0 / 3.0, rel=0.02)
    assert kept.memory[0].activations > again.memory[0].activations


def test_both_together_save_what_ted_reports() -> None:
    plain, ted = _predict("send", ["full"], 4), _predict("drop", ["full", "keep_collectives"], 4)
    assert 0.20 < 1.0 - ted.step_time_s / plain.step_time_s < 0.30  # published: 26 % on 128 V100
    assert ted.breakdown_s["ep_comm"] < 0.36 * plain.breakdown_s["ep_comm"]  # published: -64 %


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(BadLayout, match="duplicates=send needs copies to send"):
        _predict("send", ["full"], 1)
    with pytest.raises(ScenarioError, match="keep_collectives keeps transfers of what runs again"):
        _predict("drop", ["keep_collectives"])
