"""Many steps of a run: each its own draw, step 0 is the one that is predicted, workers change nothing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from moesim.sim.question.scenario import ScenarioError
from moesim.sim.train.many_steps import many_steps
from moesim.sim.train.predict import predict_train

JOB: dict[str, Any] = {
    "model": {"base": "mixtral-8x7b", "layers": 4},
    "cluster": {"node": "dgx-h100", "gpus": 16},
    "layout": {"pp": 2, "ep": 8},
    "train": {"global_batch": 32, "seq_len": 2048},
    "routing": {"lognormal": 0.6, "drift": 0.9, "seed": 3},
}


def test_step_zero_is_the_predicted_one_and_others_are_drawn_anew() -> None:
    run = many_steps(JOB, 4)
    seconds = [step.step_time_s for step in run.steps]
    assert seconds[0] == predict_train(JOB).step_time_s
    assert len(set(seconds)) == 4 and len({step.busiest_ratio for step in run.steps}) == 4
    assert all(sum(s.breakdown_s.values()) == pytest.approx(s.step_time_s, rel=1e-9) for s in run.steps)
    assert sum(run.breakdown_s.values()) == pytest.approx(run.mean_s, rel=1e-9)


def test_quantiles_are_those_of_the_steps() -> None:
    run = many_steps(JOB, 5)
    record = run.to_dict()
    seconds = record["each"]["step_time_s"]
    said = record["step_time_s"]
    assert said["p50"] == np.median(seconds) and said["sd"] == pytest.approx(np.std(seconds, ddof=1))
    assert said["min"] <= said["p50"] <= said["p95"] <= said["p99"] <= said["max"] == max(seconds)
    assert (said["first"], said["last"]) == (seconds[0], seconds[4])
    assert many_steps(JOB, 3).steps == run.steps[:3]  # more of them change none


def test_workers_give_the_same_bytes() -> None:
    alone, crew = many_steps(JOB, 4), many_steps(JOB, 4, workers=2)
    assert json.dumps(alone.to_dict()) == json.dumps(crew.to_dict())


def test_a_dask_cluster_with_threads_gives_the_same_bytes() -> None:
    distributed = pytest.importorskip("distributed", reason="the extra 'dask' is not installed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        found = many_steps(JOB, 4, dask=cluster.scheduler_address)
    assert json.dumps(found.to_dict()) == json.dumps(many_steps(JOB, 4).to_dict())


def test_one_step_stands_for_all_where_nothing_is_drawn() -> None:
    calls: list[int] = []
    run = many_steps({**JOB, "routing": "balanced"}, 1000, progress=lambda what, done, total: calls.append(total))
    assert calls == [1] and run.alike and len(run.steps) == 1000
    assert run.sd_s == 0.0 and run.busiest_ratio == 1.0
    assert run.quantile_s(0.99) == run.steps[0].step_time_s


def test_jitter_alone_makes_steps_differ() -> None:
    run = many_steps({**JOB, "routing": "balanced", "jitter": 0.05}, 3)
    assert not run.alike and len({step.step_time_s for step in run.steps}) == 3


@pytest.mark.parametrize("steps", [0, -1, 2_000_000, True, 2.0])
def test_numbers_of_steps_that_cannot_be_are_refused(steps: Any) -> None:
    with pytest.raises(ScenarioError, match="must be a whole number from 1"):
        many_steps(JOB, steps)
