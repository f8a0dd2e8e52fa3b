"""A whole training run: renewal theory against simulated failures, Daly's interval, money and energy that add up."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from moesim.sim.plan.train.plan import plan_train
from moesim.sim.plan.train.search import Effort
from moesim.sim.plan.words import axes, token_count
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prediction import Prediction
from moesim.sim.train.whole_run import daly_interval_s, expected_s, run, run_facts, sources, training_run
from moesim.traces.rng import stream

JOB: dict[str, Any] = {
    "model": "deepseek-v3",
    "cluster": {"node": "hgx-h800", "gpus": 2048},
    "layout": {"pp": 16, "ep": 64, "schedule": "dualpipe"},
    "train": {
        "global_batch": 15360, "seq_len": 4096, "precision": "fp8_block",
        "recompute": ["layernorm", "moe_act", "mla_up_proj"],
    },
    "stack": "hai-llm",
}  # fmt: skip


@cache
def _step() -> Prediction:
    """The step that all runs here are made of, predicted once."""
    return predict_train(JOB)


def _simulated_s(
    intervals: int, work_s: float, checkpoint_s: float, restart_s: float, mtbf_s: float, seed: int
) -> float:
    """Seconds of one run of `intervals` checkpoint intervals with failures drawn at random."""
    rng = stream(seed, "sim.run.failures")
    clock = 0.0
    failure = rng.exponential(mtbf_s)
    for _ in range(intervals):
        while clock + work_s + checkpoint_s > failure:
            clock = failure
            failure = clock + rng.exponential(mtbf_s)
            while clock + restart_s > failure:  # it fails again before it runs
                clock = failure
                failure = clock + rng.exponential(mtbf_s)
            clock += restart_s
        clock += work_s + checkpoint_s
    return clock


@pytest.mark.parametrize(
    ("work_s", "checkpoint_s", "restart_s", "mtbf_s"),
    [
        (3600.0, 60.0, 600.0, 36000.0),
        (1800.0, 120.0, 300.0, 7200.0),
        (600.0, 5.0, 60.0, 1e6),
        (900.0, 30.0, 0.0, 1800.0),
    ],
)
def test_simulated_runs_take_what_renewal_theory_says(
    work_s: float, checkpoint_s: float, restart_s: float, mtbf_s: float
) -> None:
    intervals = 20_000
    simulated = _simulated_s(intervals, work_s, checkpoint_s, restart_s, mtbf_s, seed=1) / intervals
    assert simulated == pytest.approx(expected_s(work_s, checkpoint_s, restart_s, mtbf_s), rel=0.02)


def test_without_failures_only_checkpoints_cost() -> None:
    assert expected_s(3600.0, 60.0, 600.0, 1e13) == pytest.approx(3660.0, rel=1e-6)


def test_where_a_checkpoint_takes_two_failures_it_is_written_after_each() -> None:
    assert daly_interval_s(2.0, 1.0) == daly_interval_s(9.0, 1.0) == 1.0
    # below: sqrt(2 C M) (1 + sqrt(C / 2M) / 3 + C / 18 M) - C, here with C = M / 2
    assert daly_interval_s(1.0, 2.0) == pytest.approx(2.0 * (1.0 + 1.0 / 6.0 + 1.0 / 36.0) - 1.0)


@pytest.mark.parametrize(("checkpoint_s", "mtbf_s"), [(30.0, 36000.0), (120.0, 7200.0), (5.0, 1e6)])
def test_dalys_interval_wastes_least(checkpoint_s: float, mtbf_s: float) -> None:
    best = daly_interval_s(checkpoint_s, mtbf_s)

    def waste(interval: float) -> float:
        return expected_s(interval, checkpoint_s, 0.0, mtbf_s) / interval

    assert waste(best) <= min(waste(best * 0.7), waste(best * 1.4))
    assert waste(best) == pytest.approx(min(waste(best * (0.8 + 0.01 * i)) for i in range(40)), rel=1e-4)


def test_deepseeks_pre_training() -> None:
    step = _step()
    run = training_run(step, 14.8e12, price=2.0)
    assert run.gpu_hours / 1.02 == pytest.approx(2.664e6, rel=0.05)  # published; two percent are our spares
    assert 0.9 < run.goodput < 1.0 and run.compute_s < run.wall_s
    assert run.failures == pytest.approx(run.wall_s / run.mtbf_s)
    assert run.usd is not None and run.usd == pytest.approx(run.gpu_hours * 2.0)
    assert run.energy_mwh == pytest.approx(run.gpu_hours * 0.7 * 0.85 / 1e3, rel=1e-9)
    for key, mwh in (("", run.energy_mwh), ("facility_", run.facility_energy_mwh)):  # as many times the step's own
        joules = float(step.cost[f"{key}energy_joules_per_step"]) * run.steps
        share = (run.gpus + run.spare_gpus) / run.gpus / run.goodput  # spares, checkpoints and failures on top
        assert mwh * 3.6e9 == pytest.approx(joules * share, rel=1e-9)
    assert run.usd_per_gpu_hour == 2.0


def test_worse_machines_have_less_goodput() -> None:
    step = _step()
    goodputs = [
        training_run(step, 1e12, run_facts({"gpu_mtbf_hours": hours})).goodput for hours in (1e9, 50_000.0, 5_000.0)
    ]
    assert goodputs == sorted(goodputs, reverse=True) and goodputs[0] > 0.999


def test_impossible_runs_are_refused() -> None:
    with pytest.raises(ScenarioError, match="did you mean 'pue'"):
        run_facts({"puee": 1.0})
    with pytest.raises(ScenarioError, match="must be a number of at least"):
        run_facts({"gpu_mtbf_hours": 0.0})
    with pytest.raises(ScenarioError, match="above 0"):
        training_run(_step(), 0.0)
    assert all(text.startswith(("fact:", "assumed:")) for text in sources().values())


def test_a_plan_by_goodput_counts_what_failures_leave() -> None:
    job = {
        "model": "mixtral-8x7b",
        "cluster": {"node": "dgx-h100", "gpus": 64},
        "train": {"global_batch": 128, "seq_len": 4096},
    }
    given = {"tp": (1,), "pp": (1, 2), "vpp": (1,), "micro_batch": (1,), "recompute": ("none",), "etp": (1,)}
    found = plan_train(job, gpus=(32, 64), objective="goodput", given=given, effort=Effort(top=3))
    kept = [o.tokens_per_s * o.surviving_share for o in found.options]
    assert kept == sorted(kept, reverse=True) and all(0.9 < o.surviving_share < 1.0 for o in found.options)
    assert any("survives failures" in note for note in found.notes)


def test_days_money_and_energy_carry_the_interval_of_the_step() -> None:
    """A run whose step takes as long as the interval's end takes as long as the interval says."""
    step = _step()
    whole = training_run(step, 1e12, price=2.0)
    assert whole.to_dict()["intervals"]["days"]["p50"] == whole.to_dict()["days"]
    ends = step.sureness.p10_to_p90(step.step_time_s, max(step.lower_bounds_s.values()))
    assert step.low_s < ends["p10"] < step.step_time_s < ends["p90"] < step.high_s
    for name in ("p10", "p90"):
        # what a step costs grows with its seconds, energy too: its watts stay
        joules = float(step.cost["energy_joules_per_step"]) * ends[name] / step.step_time_s
        other = replace(step, step_time_s=ends[name], cost={**step.cost, "energy_joules_per_step": joules})
        slower = training_run(other, 1e12, price=2.0)
        assert whole.intervals["days"][name] == pytest.approx(slower.wall_s / 86400.0, rel=1e-12)
        assert whole.intervals["usd"][name] == pytest.approx(slower.usd, rel=1e-12)
        assert whole.intervals["facility_energy_mwh"][name] == pytest.approx(slower.facility_energy_mwh, rel=1e-12)
    assert "usd" not in training_run(step, 1e12).intervals  # H800 has no price


@pytest.mark.parametrize("text", ["10T", "10e12", " 10_000B ", "1e13"])
def test_tokens_are_counted_as_people_write_them(text: str) -> None:
    assert token_count(text) == 1e13
    assert run(_step(), text).tokens == 1e13  # type: ignore[arg-type]  # text is what is tried


def test_values_of_axes_are_written_as_people_write_numbers() -> None:
    assert axes(["micro_batch=1, 2, 1Ki", "tp=8"]) == {"micro_batch": (1, 2, 1024), "tp": (8,)}
    for odd in ("micro_batch=1.5", "micro_batch=0", "tp=many", "tp=1T"):
        with pytest.raises(ScenarioError, match="is not a whole number of at least 1"):
            axes([odd])
