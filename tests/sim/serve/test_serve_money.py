"""Dollars and joules of serving: workers of pools by their GPUs, idle GPUs paid for, one definition in every verb."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from moesim.hwmodels.gpu import load_gpu
from moesim.hwmodels.power_and_money import busy_w, idle_w
from moesim.reports.page.serve_sections import tokens_at_most, usd_as_asked, usd_at_most
from moesim.reports.tables.compare import compare_report
from moesim.reports.tables.plan import plan_report
from moesim.reports.tables.serve import serve_report
from moesim.reports.tables.serve_plan import serve_plan_report
from moesim.sim.comparison.comparison import compare
from moesim.sim.plan.serve.plan import plan_serve
from moesim.sim.plan.serve.search import ServeEffort
from moesim.sim.plan.train.plan import plan_train
from moesim.sim.plan.train.search import Effort
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.prediction import ServePrediction
from moesim.sim.variation.whatif_serve import whatif_serve

REQUESTS = {"kind": "poisson", "rate_per_s": 6, "count": 120, "input_tokens": 1500, "output_tokens": 60}
POOLS: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "cluster": {"node": "dgx-h100", "gpus": 8},
    "price_usd_per_gpu_hour": 2.0,
    "serve": {"requests": REQUESTS, "pools": {"prefill": {"workers": 4}, "decode": {"workers": 1, "tp": 4}}},
}
REPLICAS: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "cluster": {"node": "dgx-h100", "gpus": 2},
    "layout": {"tp": 2},
    "price_usd_per_gpu_hour": 2.0,
    "serve": {"requests": REQUESTS},
}
FIXED = {"tp": ("2",), "pp": ("1",), "pools": ("no",), "max_batch": ("256",)}


def _pools(prefill: dict[str, int], gpus: int = 8) -> ServePrediction:
    pools = {**POOLS["serve"]["pools"], "prefill": prefill}
    cluster = {**POOLS["cluster"], "gpus": gpus}
    return predict_serve({**POOLS, "cluster": cluster, "serve": {**POOLS["serve"], "pools": pools}})


def _usd_per_hour(p: ServePrediction) -> float:
    """What the deployment takes in at the price that its tokens are said to cost."""
    return float(p.cost["usd_per_million_output_tokens"]) * p.output_tokens_per_s * 3600.0 / 1e6


@pytest.mark.parametrize("prefill", [{"workers": 4}, {"workers": 2, "tp": 2}, {"workers": 1, "tp": 4}])
def test_splitting_gpus_into_workers_changes_no_price(prefill: dict[str, int]) -> None:
    p = _pools(prefill)
    assert p.resolved.deployment.gpus == 8
    assert _usd_per_hour(p) == pytest.approx(8 * 2.0, rel=1e-9)
    gpu, hours = load_gpu("h100-sxm"), float(p.cost["gpu_hours"])
    watts = float(p.cost["energy_joules"]) / hours / 3600.0
    assert idle_w(gpu) < watts < busy_w(gpu, "serving")


def test_joules_and_shares_weigh_workers_by_their_gpus() -> None:
    p = _pools({"workers": 4})
    run, gpu = p.run, load_gpu("h100-sxm")
    assert run.prefill_replicas is not None
    busy = sum(r.busy_s for r in run.prefill_replicas) + 4 * sum(r.busy_s for r in run.replicas)
    span = float(p.cost["gpu_hours"]) * 3600.0 / 8
    joules = busy_w(gpu, "serving") * busy + idle_w(gpu) * (8 * span - busy)
    assert float(p.cost["energy_joules"]) == pytest.approx(joules, rel=1e-9)
    prompts = sum(r.busy_s for r in run.prefill_replicas) / busy  # one GPU a worker; decode workers read no prompts
    whole = float(p.cost["gpu_hours"]) * 2.0 / sum(run.log.prompt) * 1e6
    assert float(p.cost["prompt_steps_usd_per_million_input_tokens"]) == pytest.approx(whole * prompts, rel=1e-6)


def test_gpus_beside_the_pools_are_paid_for_and_named() -> None:
    used, wide = _pools({"workers": 4}), _pools({"workers": 4}, gpus=24)
    assert wide.tpot_s == used.tpot_s and wide.output_tokens_per_s == used.output_tokens_per_s
    assert _usd_per_hour(wide) == pytest.approx(24 * 2.0, rel=1e-9)
    more = float(wide.cost["energy_joules"]) - float(used.cost["energy_joules"])
    span = float(used.cost["gpu_hours"]) * 3600.0 / 8
    assert more == pytest.approx(16 * span * idle_w(load_gpu("h100-sxm")), rel=1e-6)
    assert any("16 of 24 GPUs belong to no pool: idle, and paid for" in a for a in wide.assumptions)
    assert wide.to_dict()["idle_gpus"] == 16 and wide.to_dict()["gpus"] == 8
    assert not any("idle" in a for a in used.assumptions)


def test_the_two_ways_to_share_dollars_out_add_up() -> None:
    p = predict_serve(REPLICAS)
    c = {name: float(value) for name, value in p.cost.items() if not isinstance(value, str)}
    dollars = c["gpu_hours"] * c["usd_per_gpu_hour"]
    prompts, outputs = sum(p.run.log.prompt), sum(p.run.log.output)
    split = c["prompt_steps_usd_per_million_input_tokens"] * prompts
    split += c["other_steps_usd_per_million_output_tokens"] * outputs
    assert split / 1e6 == pytest.approx(dollars)
    assert c["usd_per_million_output_tokens"] * outputs / 1e6 == pytest.approx(dollars)
    assert c["usd_per_million_tokens"] * (prompts + outputs) / 1e6 == pytest.approx(dollars)


def test_dollars_per_million_output_tokens_have_one_definition() -> None:
    asked = predict_serve(REPLICAS)
    said = float(asked.cost["usd_per_million_output_tokens"])
    assert said == pytest.approx(2 * 2.0 / 3600.0 / asked.output_tokens_per_s * 1e6)
    other = {**REPLICAS, "price_usd_per_gpu_hour": 3.0}
    sides = [c.serve for c in compare([REPLICAS, other], break_even=False).columns]
    assert [s and s.usd_per_million_output_tokens for s in sides] == [said, pytest.approx(said * 1.5)]
    plan = plan_serve(REPLICAS, given=FIXED, slo="ttft=2s,tpot=200ms", effort=ServeEffort(top=1, most=2))
    served = plan.options[0].served
    assert served.output_tokens_per_s == pytest.approx(asked.output_tokens_per_s, rel=1e-3)
    assert served.usd_per_million_output_tokens == pytest.approx(said, rel=1e-3)
    assert usd_as_asked(asked) == said
    at_most = usd_at_most(asked)
    assert at_most == pytest.approx(2 * 2.0 / 3600.0 / tokens_at_most(asked) * 1e6)
    assert whatif_serve(REPLICAS).usd_per_million_output_tokens_at_most == pytest.approx(at_most)


def _text(report: Any) -> str:
    console = Console(width=200, file=StringIO(), record=True)
    console.print(report)
    return console.export_text()


def test_every_answer_says_the_price_of_a_gpu_hour() -> None:
    asked = predict_serve(REPLICAS)
    assert asked.to_dict()["cost"]["usd_per_gpu_hour"] == 2.0
    assert "$ per GPU-hour" in _text(serve_report(asked)) and "given in the scenario" in _text(serve_report(asked))
    plan = plan_serve(REPLICAS, given=FIXED, slo="ttft=2s,tpot=200ms", effort=ServeEffort(top=1, most=1))
    assert plan.to_dict()["usd_per_gpu_hour"] == 2.0
    assert "$ per GPU-hour: 2, given in the scenario" in _text(serve_plan_report(plan, "plan"))
    found = compare([REPLICAS, REPLICAS], break_even=False)
    assert found.to_dict()["columns"][0]["serve"]["usd_per_gpu_hour"] == 2.0
    assert "$ per GPU-hour" in _text(compare_report(found))
    train = {key: value for key, value in REPLICAS.items() if key != "serve"}
    train |= {"train": {"global_batch": 16, "seq_len": 1024}, "cluster": {"node": "dgx-h100", "gpus": 8}}
    layouts = plan_train(train, given={"tp": (2,), "pp": (1,), "cp": (1,)}, effort=Effort(top=1, most=1))
    assert layouts.to_dict()["usd_per_gpu_hour"] == 2.0
    assert "$ per GPU-hour: 2, given in the scenario" in _text(plan_report(layouts, "plan"))


def test_the_price_that_is_printed_is_the_mean_of_unlike_pools() -> None:
    pools = {"prefill": {"workers": 1, "tp": 2}, "decode": {"gpu": "h200-sxm", "price_usd_per_gpu_hour": 8.0, "tp": 2}}
    asked = {**POOLS, "cluster": {"node": "dgx-h100", "gpus": 2}, "serve": {"requests": REQUESTS, "pools": pools}}
    console = Console(width=200, file=StringIO())
    console.print(serve_report(predict_serve(asked, meets=False)))
    text = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert "$ per GPU-hour" in text and "5, mean of 2 GPUs at 2" in text
