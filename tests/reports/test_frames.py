"""Answers as pandas objects say what the records say."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.reports import frames
from moesim.sim.comparison.comparison import compare
from moesim.sim.plan.fleet.plan import FleetAsk, plan_fleet
from moesim.sim.plan.serve.plan import plan_serve
from moesim.sim.plan.serve.search import ServeEffort
from moesim.sim.plan.train.plan import plan_train
from moesim.sim.plan.train.search import Effort
from moesim.sim.serve.predict import predict_serve
from moesim.sim.train.predict import predict_train
from moesim.sim.train.whole_run import training_run
from moesim.sim.variation.sweep import sweep
from moesim.sim.variation.whatif_serve import whatif_serve
from moesim.sim.variation.whatif_train import whatif_train
from moesim.traces.day import Hour

JOB: dict[str, Any] = {
    "model": {"base": "mixtral-8x7b", "layers": 4},
    "cluster": {"node": "dgx-h100", "gpus": 8},
    "layout": {"pp": 2, "ep": 4},
    "train": {"global_batch": 64, "seq_len": 2048},
}
LOAD = {"kind": "closed", "concurrency": 4, "count": 12, "input_tokens": 200, "output_tokens": 50}
SERVED: dict[str, Any] = {
    "model": "gpt-oss-20b", "cluster": {"node": "dgx-h100", "gpus": 1}, "serve": {"requests": LOAD},
}  # fmt: skip


def test_a_plan_has_a_row_per_layout_best_first() -> None:
    plan = plan_train(JOB, given={"tp": (1,), "cp": (1,), "micro_batch": (1,)}, effort=Effort(4))
    frame = frames.plan(plan)
    assert len(frame) == len(plan.options) >= 4
    assert frame["step_time_s"].is_monotonic_increasing and frame["why"][0].startswith("best")


def test_a_sweep_keeps_failing_points() -> None:
    points = sweep(JOB, {"layout.ep": (2, 3, 4)})
    frame = frames.sweep(points)
    assert list(frame["layout.ep"]) == [2, 3, 4] and list(frame["error"].notna()) == [False, True, False]
    assert list(frame.columns) == [*points.names, *points.results]


def test_what_if_and_step_and_run() -> None:
    answer = whatif_train(JOB)
    frame = frames.whatif(answer)
    assert len(frame) == len(answer.outcomes) and frame["tokens_per_s_factor"][0] == answer.outcomes[0].speed_factor
    p = predict_train(JOB)
    assert frames.train(p).sum() == pytest.approx(p.step_time_s)
    run = training_run(p, 1e11)
    assert frames.run(run)["days"] == pytest.approx(run.wall_s / 86400)


def test_a_comparison_has_a_column_per_model() -> None:
    comparison = compare([{**JOB, **{"serve": SERVED["serve"], "layout": {"tp": 2, "ep": 2}}}], twin="iso-active")
    frame = frames.compare(comparison)
    assert list(frame.columns) == [c.name for c in comparison.columns]
    first = comparison.columns[0]
    assert first.train is not None and first.serve is not None
    assert frame.loc["train.step_time_s", first.name] == first.train.step_time_s
    assert frame.loc["serve.gpus_for_same_work", first.name] == first.serve.gpus
    points = frames.break_evens(comparison)
    assert set(points["section"]) == {"train", "serve"} and points["answer"].str.len().min() > 10


def test_serving_has_a_row_per_request() -> None:
    p = predict_serve(SERVED)
    frame = frames.serve(p)
    assert len(frame) == 12 and frame["ttft_s"].mean() == pytest.approx(p.ttft_s.mean)
    assert (frame["e2e_s"] >= frame["ttft_s"]).all()


def test_serving_plans_and_fleets_are_tables_too() -> None:
    requests = {"kind": "poisson", "rate_per_s": 5, "count": 60, "input_tokens": 500, "output_tokens": 30}
    job = {"model": "mixtral-8x7b", "cluster": {"node": "dgx-h100", "gpus": 2}, "layout": {"tp": 2},
           "serve": {"engine": "vllm", "requests": requests}}  # fmt: skip
    given, effort = {"pools": ("no",), "pp": (1,), "tp": (1, 2)}, ServeEffort(top=2, most=8)
    plan = plan_serve(job, given=given, effort=effort)
    assert list(frames.plan(plan)["gpus"]) == [2] * len(plan.options)
    assert frames.front(plan)["tokens_per_s_per_user"].is_monotonic_increasing
    sized = frames.fleet(plan_fleet(job, (Hour(20.0),) * 24, FleetAsk(given=given, effort=effort)))
    assert (sized["usd.rent, autoscaled"] <= sized["usd.rent, fixed"]).all()
    assert {"tpot_s", "tokens_per_usd"} <= set(frames.whatif(whatif_serve(job)))
