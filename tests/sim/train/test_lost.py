"""Time lost: the difference to the same step without one thing, and only what was asked for is run."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from moesim.reports.tables.run import lost_text
from moesim.reports.tables.train import CATEGORY_TITLES, lost_lines, train_report
from moesim.reports.text import seconds as spelled
from moesim.sim.train.predict import predict_train
from moesim.sim.train.whole_run import training_run

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


def test_dollars_are_those_of_the_gpus_that_wait() -> None:
    p = predict_train({**SKEWED, "price_usd_per_gpu_hour": 3.6}, lost="cheap")
    assert p.lost_usd == {"busiest_rank": pytest.approx(p.lost_s["busiest_rank"] * 16 * 3.6 / 3600.0)}
    assert p.to_dict()["lost_usd"] == p.lost_usd
    whole = training_run(p, 1e9)
    even = training_run(predict_train({**SKEWED, "price_usd_per_gpu_hour": 3.6, "routing": "balanced"}), 1e9)
    assert whole.usd is not None and even.usd is not None
    assert whole.lost["busiest_rank"]["usd"] == pytest.approx(whole.usd - even.usd)  # failures and checkpoints, too
    assert whole.lost["busiest_rank"]["days"] == pytest.approx((whole.wall_s - even.wall_s) / 86400.0)
    assert lost_text(whole, "busiest_rank").startswith("costs ")
    assert "$" in lost_lines(p)[0]


def test_without_a_price_seconds_and_days_alone() -> None:
    p = predict_train(SKEWED, lost="cheap")
    p = replace(p, cost={name: value for name, value in p.cost.items() if "usd" not in name})
    assert p.lost_usd == {} and "$" not in lost_lines(p)[0]
    assert set(training_run(p, 1e9).lost["busiest_rank"]) == {"days"}


def test_the_answer_and_the_breakdown_say_the_same_seconds_of_waiting() -> None:
    """The box says what would be won, the table what was waited for: one name each, and how they hang together."""
    p = predict_train(SKEWED, lost="cheap")
    waited, title = p.breakdown_s["imbalance"], CATEGORY_TITLES["imbalance"]
    console = Console(width=200, record=True, file=StringIO())
    console.print(train_report(p))
    said = console.export_text()
    assert f"uneven routing costs {spelled(p.lost_s['busiest_rank'])}" in said
    assert f"{spelled(waited)} {title} (below)" in said
    lines = [line for line in said.splitlines() if "waiting for the busiest" in line]
    assert len(lines) == 2 and all(title in line for line in lines)


def test_a_slow_gpu_that_is_as_fast_as_the_others_costs_nothing_and_is_not_asked_about() -> None:
    even = {**SLOW, "slow": {"ids": [3], "factor": 1.0}}
    assert predict_train({**even, "jitter": 0.02}, lost="all").lost_s.keys() == {"jitter"}
    assert predict_train({**SLOW, "slow": {"ids": [3], "factor": 0.9}}, lost="all").lost_s.keys() == {"slow_gpus"}
    assert predict_train({**JOB, "routing": "balanced"}, lost="all").lost_s == {}
