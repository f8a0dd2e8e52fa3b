"""New placements of experts while a service runs: what moves, what a pass waits for, how often it pays."""

from __future__ import annotations

from typing import Any

import pytest

from moesim import predict_train
from moesim.sim.layout.slots import Placement
from moesim.sim.question.scenario import ScenarioError, parse_scenario
from moesim.sim.serve.job import ServeJob
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.rebalance import moved_bytes, once_s, rebalance_s
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.software.serving_engine import engine_tuning


def asked(every: int | None, drift: float = 0.9995, gpus: int = 16) -> dict[str, Any]:
    load = {"kind": "closed", "concurrency": 256, "count": 256, "input_tokens": 64, "output_tokens": 32}
    placement = {"spare_slots": 16, **({"rebalance_every_steps": every} if every else {})}
    return {
        "model": "deepseek-v3", "cluster": {"node": "dgx-h200", "gpus": gpus}, "layout": {"ep": gpus},
        "routing": {"lognormal": 0.65, "drift": drift}, "placement": placement,
        "serve": {"engine": "sglang", "precision": "fp8", "attention_dp": gpus, "requests": load},
    }  # fmt: skip


def job_of(*given: Any) -> ServeJob:
    return resolve_serve(parse_scenario(asked(*given))).deployment.job


def test_cost_is_shared_out_over_the_passes_between() -> None:
    tuning = engine_tuning()
    assert rebalance_s(job_of(None), tuning) == 0.0
    job = job_of(1000)
    assert rebalance_s(job, tuning) == pytest.approx(once_s(job, tuning) / 1000)
    assert once_s(job, tuning) > tuning.get("rebalance_plan_s", "sglang")


def test_what_moves_is_at_most_all_and_nothing_where_popularity_stands_still() -> None:
    """A plan from scratch moves nearly all of a rank's experts as soon as loads have changed a little."""
    still, moving, far = (moved_bytes(job_of(n, drift)) for n, drift in ((1000, 1.0), (100, 0.9995), (10_000, 0.9995)))
    all_experts = 58 * 17 * 3 * 7168 * 2048 * 1.01
    assert still == 0.0 and 0.5 * all_experts < min(moving, far) <= max(moving, far) < all_experts


def test_plans_age_by_half_their_interval() -> None:
    assert Placement(planned=True, plan_age_steps=10, rebalance_steps=100).mean_age_steps == 60
    often, seldom = (predict_serve(asked(n)) for n in (20, 2000))
    assert often.utilisation["rebalance"] > 10 * seldom.utilisation["rebalance"] > 0.0
    assert often.tpot_s.mean > seldom.tpot_s.mean
    assert any("passes would cost least" in line for line in seldom.assumptions)
    assert any("one plan for good" in line for line in predict_serve(asked(2000, 1.0)).assumptions)


def test_training_does_not_rebalance() -> None:
    train = {key: value for key, value in asked(100).items() if key != "serve"}
    train["train"] = {"global_batch": 16, "seq_len": 2048}
    with pytest.raises(ScenarioError, match="rebalance_every_steps is about serving, and this scenario only trains"):
        predict_train(train)


def test_one_placement_takes_a_plan_and_its_bytes_over_a_link_at_its_efficiency() -> None:
    """Sixteen ranks on two hosts: over the NIC of each; eight on one: over its scale-up link."""
    tuning = engine_tuning({"rebalance_plan_s[*]": 0.25, "rebalance_efficiency[*]": 0.5})
    two, one = job_of(1000), job_of(1000, 0.9995, 8)
    assert once_s(two, tuning) == pytest.approx(0.25 + moved_bytes(two) / (0.5 * two.cluster.nic_bytes_per_s))
    assert two.cluster.nic_bytes_per_s == 5e10
    assert once_s(one, tuning) == pytest.approx(0.25 + moved_bytes(one) / (0.5 * 450e9))
