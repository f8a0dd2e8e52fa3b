"""Time lost: the difference to the same step without one thing, and only what was asked for is run."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.sim.train.predict import predict_train

JOB: dict[str, Any] = {
    "model": {"base": "mixtral-8x7b", "layers": 4},
    "cluster": {"node": "dgx-h100", "gpus": 16},
    "layout": {"pp": 2, "ep": 8},
    "train": {"global_batch": 32, "seq_len": 2048},
}
SKEWED: dict[str, Any] = {**JOB, "routing": {"lognormal": 0.6, "seed": 3}}
SLOW: dict[str, Any] = {**JOB, "routing": "balanced", "slow": {"ids": [3], "factor": 0.7}}


def seconds(**changes: Any) -> float:
    return predict_train({**JOB, **changes}).step_time_s


def test_what_the_busiest_rank_costs() -> None:
    p = predict_train(SKEWED, lost="cheap")
    assert p.lost_s == {"busiest_rank": pytest.approx(p.step_time_s - seconds(routing="balanced"), abs=1e-12)}
    assert p.lost_s["busiest_rank"] > 0.1 * p.step_time_s


def test_what_each_bad_gpu_and_link_costs() -> None:
    both = {**SLOW, "jitter": 0.05, "links": {"degraded": {"link2": 0.25}}}
    p = predict_train(both, lost="all")
    assert set(p.lost_s) == {"slow_gpus", "jitter", "links"}
    for name, key in (("slow_gpus", "slow"), ("jitter", "jitter"), ("links", "links")):
        without = predict_train({k: v for k, v in both.items() if k != key}).step_time_s
        if key != "slow":  # the seed of the jitter is the slow GPUs' where there are some
            assert p.lost_s[name] == pytest.approx(p.step_time_s - without, abs=1e-12)
        assert p.lost_s[name] > 0.0


def test_cheap_runs_only_what_folds() -> None:
    assert predict_train({**SKEWED, "jitter": 0.05}, lost="cheap").lost_s == {}
    assert set(predict_train({**SKEWED, "jitter": 0.05}, lost="all").lost_s) == {"busiest_rank", "jitter"}
    assert predict_train(SKEWED).lost_s == {}
    assert predict_train({**JOB, "routing": "balanced"}, lost="all").lost_s == {}
