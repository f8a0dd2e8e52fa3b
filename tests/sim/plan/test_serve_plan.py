"""Plans of deployments: limits, money, the front, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moesim.reports.cli.app import run
from moesim.sim.plan.serve.plan import ServePlan, plan_serve
from moesim.sim.plan.serve.search import ServeEffort
from moesim.sim.plan.serve.space import ServeCandidate, serve_axes
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.question.serving_sections import SloAsk
from moesim.sim.serve.slo import slo_of

REQUESTS = {"kind": "poisson", "rate_per_s": 10, "count": 200, "input_tokens": 1000, "output_tokens": 200}
JOB: dict[str, Any] = {
    "model": "mixtral-8x7b",
    "cluster": {"node": "dgx-h100", "gpus": 4},
    "serve": {"engine": "vllm", "requests": REQUESTS},
}


@pytest.fixture(scope="module")
def plan() -> ServePlan:
    return plan_serve(JOB, gpus=(2, 4, 8), slo="ttft=1s,tpot=40ms", effort=ServeEffort(top=5, most=14))


def test_options_meet_the_limits_and_the_fewest_gpus_win(plan: ServePlan) -> None:
    assert all(o.served.attained_share >= 0.9 and o.served.label == "stable" for o in plan.options)
    per_gpu = [o.served.goodput_per_s / o.served.candidate.gpus for o in plan.options]
    assert plan.options[0].served.candidate.gpus == min(o.served.candidate.gpus for o in plan.options)
    assert per_gpu[0] >= max(per_gpu) * 0.99
    assert plan.options[0].why.startswith("best")
    row = plan.to_dict()["options"][0]
    assert row["goodput_per_usd"] == pytest.approx(row["goodput_per_s"] * 3600 / (3.5 * row["gpus"]), rel=0.2)


def test_no_point_of_the_front_is_beaten(plan: ServePlan) -> None:
    users = [p.tokens_per_s_per_user for p in plan.front]
    gpus = [p.tokens_per_s_per_gpu for p in plan.front]
    assert users == sorted(users) and gpus == sorted(gpus, reverse=True) and len(plan.front) >= 4


def test_obvious_choices_are_named(plan: ServePlan) -> None:
    by = {v.choice: v for v in plan.verdicts}
    assert "does not fit" in by["a replica per GPU"].why and by["a replica per GPU"].meets is None
    assert {"a pipeline", "tensor parallel over a node"} <= set(by)
    assert any(v.why == "the best of all" for v in plan.verdicts)


def test_a_verdict_is_of_the_best_that_was_simulated_of_its_choice(plan: ServePlan) -> None:
    """Of all sizes of the cluster; what meets the limits before what does not, and that by the share within them."""
    made_by: dict[str, Callable[[ServeCandidate, int], bool]] = {
        "tensor parallel over a node": lambda c, gpus: c.prefill is None and c.shape.tp == min(gpus, 8),
        "experts spread (ep)": lambda c, _: c.prefill is None and c.shape.ep > 1,
        "prefill and decode apart": lambda c, _: c.prefill is not None,
        "small batches": lambda c, _: c.prefill is None and c.max_batch == 64,
    }
    by = {v.choice: v for v in plan.verdicts}
    for choice, test in made_by.items():
        own = [s for f in plan.searches for s in f.served if test(s.candidate, f.gpus)]
        good = [s for s in own if s.meets(plan.slo)]
        assert by[choice].meets is (bool(good) if own else None), choice
        shown = next(s for s in own if s.candidate.title == by[choice].candidate)
        if good:
            best = max(s.goodput_per_s / s.candidate.gpus for s in good)
            assert shown.goodput_per_s / shown.candidate.gpus >= 0.989 * best, choice
        else:
            assert shown.attained_share == max(s.attained_share for s in own), choice


def test_a_batch_limit_that_is_never_reached_is_not_another_answer(plan: ServePlan) -> None:
    assert len({(o.served.candidate.layout, o.served.ttft_s) for o in plan.options}) == len(plan.options)


def test_money_and_queued_requests() -> None:
    queued = {**JOB, "serve": {"engine": "vllm", "requests": {**REQUESTS, "kind": "offline", "rate_per_s": None}}}
    found = plan_serve(queued, objective="tokens_per_dollar", given={"pools": ("no",)})
    usd = [o.served.usd_per_million_output_tokens for o in found.options]
    assert usd == sorted(usd, key=lambda v: v or 0.0) and not found.must
    assert plan_serve(queued, given={"pools": ("no",)}, effort=ServeEffort(top=1)).objective == "tokens_per_s_per_gpu"


def test_a_search_says_that_it_does_not_wait_until_a_percentile_is_sure() -> None:
    requests = {key: value for key, value in REQUESTS.items() if key != "count"}
    asked = {**JOB, "serve": {"engine": "vllm", "requests": {**requests, "sure_of": {"percentile": 90}}}}
    found = plan_serve(asked, given={"pools": ("no",), "pp": (1,)}, effort=ServeEffort(top=1, most=2))
    assert any(note.startswith("requests.sure_of is not used by a search") for note in found.notes)


def test_limits_as_people_write_them() -> None:
    found = slo_of("ttft=500ms, tpot=0.02s,share=0.99", SloAsk())
    assert (found.ttft_s, found.tpot_s, found.share) == (0.5, 0.02, 0.99)
    assert slo_of("tpot=20ms", SloAsk(ttft_s=3.0)).ttft_s == 3.0


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"slo": "ttft=1s,tpot=50"}, "tpot='50' has no unit .* write tpot=50ms or 50s"),
        ({}, {"slo": "ttft=1s,tpot=2ms"}, "nothing on up to 4 GPUs meets .* the best found, .* within the limits"),
        ({}, {"slo": "latency=1s"}, "'latency' is no limit"),
        ({}, {"slo": "ttft"}, "sets nothing"),
        ({}, {"slo": "ttft=fast"}, "is no time"),
        ({}, {"slo": "share=2"}, "above 0 and at most 1"),
        ({}, {"objective": "speed"}, "use goodput, cost"),
        ({}, {"given": {"tp": (3,)}}, "no layout of mixtral-8x7b on 4 GPUs divides"),
        ({"model": "deepseek-v3"}, {}, "none of .* fits 4 x h100-sxm: the smallest"),
        ({"serve": None, "train": {"global_batch": 8, "seq_len": 512}}, {}, "no serve section"),
        ({"cluster": {"node": "hgx-h800", "gpus": 4}}, {"objective": "cost"}, "has no price"),
    ],
)
def test_bad_questions_are_refused(change: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        plan_serve({**JOB, **change}, **options)


def test_axes_as_people_write_them() -> None:
    assert serve_axes(["max_batch=1Ki", "token_budget=8Ki, asked", "kv_dtype=fp8"]) == {
        "max_batch": ("1024",), "token_budget": ("8192", "asked"), "kv_dtype": ("fp8",),
    }  # fmt: skip
    assert serve_axes(["tp=4,8", "pools=no"]) == {"tp": ("4", "8"), "pools": ("no",)}
    refused = {"cp=2": "is not searched for serving", "tp": "fixes", "tp=x": "whole numbers", "pools=2": "use yes, no"}
    for text, message in refused.items():
        with pytest.raises(ScenarioError, match=message):
            serve_axes([text])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = tmp_path / "job.yaml"
    scenario.write_text(json.dumps(JOB), encoding="utf-8")
    words = ["plan", str(scenario), "--slo", "ttft=1s,tpot=40ms", "--set", "pools=no", "--set", "pp=1", "--most", "3"]
    assert run(words) == 0
    said = capsys.readouterr().out
    assert "sustains" in said and "the best of every obvious choice" in said and "the front" in said
    picture = tmp_path / "front.svg"
    assert run([*words, "--json", "--figure", str(picture)]) == 0
    assert picture.stat().st_size > 10_000
    assert json.loads(capsys.readouterr().out)["options"]
    assert run([*words, "--slo", "ttft=1us"]) == 2
    assert "best found" in capsys.readouterr().err
