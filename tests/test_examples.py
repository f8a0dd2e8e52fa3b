"""Every example loads, predicts and keeps within its GPUs' memory; and each shows what its comment says."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from moesim.sim.plan.serve.judge import ServeJudge
from moesim.sim.plan.serve.space import ServeCandidate, Shape
from moesim.sim.question.scenario import load_scenario
from moesim.sim.serve.day import predict_day
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.slo import slo_of
from moesim.sim.train.predict import predict_train
from moesim.traces.day import load_day

EXAMPLES = Path(__file__).parents[1] / "examples"
TRAFFIC = EXAMPLES / "traffic-chat-day.csv"
EVERY = sorted(path.name for path in EXAMPLES.glob("*.yaml"))
SERVED = [name for name in EVERY if name.startswith("serve-")]
PLANNED = [name for name in EVERY if name.startswith("plan-")]  # layouts left open: tests/sim/plan
DAYS = [name for name in EVERY if name.startswith("day-")]
SCENARIOS = [name for name in EVERY if name not in (*SERVED, *DAYS, *PLANNED)]


def test_there_are_examples() -> None:
    assert len(SCENARIOS) >= 5 and len(SERVED) >= 5


@pytest.mark.parametrize("name", SCENARIOS)
def test_example_predicts_with_the_memory_check_on(name: str) -> None:
    prediction = predict_train(EXAMPLES / name)
    assert 0.5 < prediction.step_time_s < 60.0
    assert 0.1 < prediction.mfu < 0.9
    assert prediction.memory_fits


@pytest.mark.parametrize("name", PLANNED)
def test_planned_example_has_layouts_that_may_meet_its_limits(name: str) -> None:
    scenario = load_scenario(EXAMPLES / name)
    assert scenario.serve is not None
    slo = slo_of("", scenario.serve.slo)
    judge = ServeJudge(scenario, slo)
    by_hand = ServeCandidate(Shape(1, 1, 16, 16), 3, 1024, Shape(1, 1, 16, 16), 3)
    assert judge.bounds(by_hand).attainable_share >= slo.share


@pytest.mark.parametrize("name", SERVED)
def test_served_example_fits_and_is_stable(name: str) -> None:
    answer = predict_serve(EXAMPLES / name)
    assert answer.label == "stable" and answer.output_tokens_per_s > 1.0
    assert 0.0 < answer.kv_use <= 1.0 and 0.001 < answer.tpot_s.mean < 1.0


@pytest.mark.parametrize("name", DAYS)
def test_a_day_is_served_within_its_limits(name: str) -> None:
    quiet = tuple(replace(hour, requests_per_s=hour.requests_per_s / 10) for hour in load_day(TRAFFIC))
    day = predict_day(EXAMPLES / name, quiet)
    assert day.attained_share > 0.95 and day.overloaded_since_s is None and day.usd is not None


def test_experts_are_served_several_times_faster_than_the_dense_model() -> None:
    moe, dense = (predict_serve(EXAMPLES / f"serve-{m}-h100.yaml") for m in ("mixtral-8x7b", "llama-2-70b"))
    assert 2.0 < moe.output_tokens_per_s / dense.output_tokens_per_s < 6.0


@pytest.mark.parametrize("name", EVERY)
def test_example_says_what_it_is_on_its_first_line(name: str) -> None:
    assert (EXAMPLES / name).read_text().startswith("# ")


def test_skewed_routing_costs_time() -> None:
    even = predict_train(EXAMPLES / "mixtral-8x7b-h100.yaml")
    skewed = predict_train(EXAMPLES / "mixtral-8x7b-skewed.yaml")
    assert skewed.step_time_s > 1.2 * even.step_time_s


def test_the_demo_runs_and_says_where_its_files_are(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "demo.py"), "--out", str(tmp_path), "--chapters"]
    done = subprocess.run(command, cwd=EXAMPLES.parent, capture_output=True, text=True, timeout=400, check=True)
    assert "19.93" in done.stdout and "dense" in done.stdout
    written = {path.name for path in tmp_path.iterdir()}
    assert {"deepseek-v3.png", "deepseek-v3.trace.json", "dense-twin.png"} <= written
    assert all(name in done.stdout for name in ("deepseek-v3.png", "deepseek-v3.trace.json"))
    assert "report.html" not in written  # of no chapter; pages: tests/reports/page


def test_the_capacity_plan_is_short_and_runs() -> None:
    script = EXAMPLES / "capacity_plan.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) < 40
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=400, check=True)
    for word in ("step_time_s", "energy_mwh", "tokens_per_s_factor", "gpus_for_same_work", "traffic", "ttft_s"):
        assert word in done.stdout
    assert done.stderr == ""
