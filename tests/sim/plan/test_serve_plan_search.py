"""Searches of deployments: what they look at, how they end, what they say, and the answer as a scenario."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moesim.reports.cli.app import run
from moesim.sim.plan.serve.judge import ServeJudge
from moesim.sim.plan.serve.moves import Moves
from moesim.sim.plan.serve.need import Needs
from moesim.sim.plan.serve.plan import ServePlan, plan_serve
from moesim.sim.plan.serve.search import ServeEffort
from moesim.sim.plan.serve.space import ServeCandidate, Shape, serve_axes
from moesim.sim.plan.serve.written import scenario_mapping
from moesim.sim.question.scenario import ScenarioError, parse_scenario
from moesim.sim.serve.accounts import spread
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.simulate import simulate
from moesim.sim.serve.slo import Slo
from moesim.sim.serve.warmup import warm_latencies

LOAD = {"kind": "poisson", "rate_per_s": 12, "count": 80, "input_tokens": 1200, "output_tokens": 120, "jitter": 0.2}
WIDE: dict[str, Any] = {
    "model": "deepseek-v3",
    "cluster": {"node": "dgx-h200", "gpus": 32},
    "serve": {"engine": "sglang", "precision": "fp8", "requests": LOAD, "slo": {"ttft_s": 2.0, "tpot_s": 0.05}},
}
FEW = {"tp": (1, 8), "pp": (1,), "ep": (8, 16)}


@pytest.fixture(scope="module")
def plan() -> ServePlan:
    return plan_serve(WIDE, given=FEW, effort=ServeEffort(top=3, most=16))


def test_fewer_gpus_serve_where_they_keep_up(plan: ServePlan) -> None:
    best = plan.options[0]
    assert best.served.candidate.gpus < 32
    assert best.sustained_per_s is not None and best.sustained_per_s >= 0.97 * 12
    whole = plan_serve(WIDE, given={**FEW, "idle": ("no",)}, effort=ServeEffort(top=1, most=10))
    assert whole.options[0].served.candidate.gpus == 32
    score = best.served.goodput_per_s / best.served.candidate.gpus
    assert score > whole.options[0].served.goodput_per_s / 32


CLIENTS = {"kind": "closed", "concurrency": 40, "count": 200, "input_tokens": 1000, "output_tokens": 150}


def test_a_closed_loop_gets_as_few_gpus_as_it_needs() -> None:
    """A large cluster must not cost more than a small one that serves the same clients within the same limits."""
    asked: dict[str, Any] = {
        "model": "mixtral-8x7b",
        "cluster": {"node": "dgx-h100", "gpus": 64},
        "serve": {"engine": "vllm", "requests": CLIENTS, "slo": {"ttft_s": 1.5, "tpot_s": 0.04}},
    }
    given = {"pp": (1,), "ep": (1,), "kv_dtype": ("asked",), "token_budget": ("asked",)}
    effort = ServeEffort(top=2, most=16)
    large = plan_serve(asked, given=given, effort=effort).options[0].served
    small = plan_serve({**asked, "cluster": {"node": "dgx-h100", "gpus": 4}}, given=given, effort=effort)
    assert large.candidate.gpus <= 4
    few, many = small.options[0].served.usd_per_million_output_tokens, large.usd_per_million_output_tokens
    assert few is not None and many is not None and many <= 1.01 * few
    whole = plan_serve(asked, given={**given, "idle": ("no",)}, effort=effort).options[0].served
    assert whole.candidate.gpus == 64


def test_prefill_workers_of_a_closed_loop_feed_its_decode_workers() -> None:
    """One worker whatever the clients are would leave the decode workers, of which there are enough, without work."""
    asked = {**WIDE, "serve": {**WIDE["serve"], "requests": {**CLIENTS, "concurrency": 2000, "count": 4000}}}
    judge, shape = ServeJudge(parse_scenario(asked), Slo(2.0, 0.05)), Shape(8, 1, 1, 1)
    needs = Needs(judge)
    fed = [needs.feeding(shape, shape, decode, 64, 256) for decode in (1, 8, 32)]
    assert fed == sorted(fed) and fed[0] < fed[-1]


def test_users_who_think_ask_no_more_often_than_they_think() -> None:
    """However many workers there are: 60 users with 20 s between the four turns of a conversation, and none between two
    conversations, ask at most four times a second."""
    talks = {**TALKS, "think_s": 20.0}
    requests = {"kind": "sessions", "sessions": talks, "concurrency": 60, "count": 5000}
    asked = {**WIDE, "serve": {**WIDE["serve"], "requests": requests}}
    needs = Needs(ServeJudge(parse_scenario(asked), Slo(2.0, 0.05)))
    one, many = (needs.of(ServeCandidate(Shape(8, 1, 1, 1), workers, 256)).per_s for workers in (1, 64))
    assert 0.0 < one <= many <= 1.05 * 60 / (20.0 * 3 / 4)  # thinking times are drawn


def test_an_option_as_a_scenario_gives_its_numbers(plan: ServePlan) -> None:
    for number, option in enumerate(plan.options):
        answer = predict_serve(plan.scenario(number))
        s = option.served
        assert (answer.ttft_s.mean, answer.tpot_s.mean) == (s.ttft_s, s.tpot_s), s.candidate.title
        assert (answer.ttft_s.p90, answer.tpot_s.p90) == (s.ttft_p90_s, s.tpot_p90_s)
        assert answer.output_tokens_per_s == s.output_tokens_per_s
        assert answer.goodput_per_s == s.goodput_per_s
        assert answer.resolved.deployment.gpus == s.candidate.gpus
    with pytest.raises(IndexError):
        plan.scenario(99)


def test_every_feature_as_a_scenario_gives_its_numbers() -> None:
    judge = ServeJudge(parse_scenario(WIDE), Slo(2.0, 0.05))
    pools = ServeCandidate(Shape(1, 1, 8, 8), 2, 1024, Shape(2, 1, 16, 8), 1)
    for start in (ServeCandidate(Shape(1, 1, 16, 16), 2, 1024), pools):
        moves = Moves(judge, {})
        seen = set()
        for axis in moves.axes:
            c = list(moves.of(moves.start(start), axis))[-1]
            seen.add(c.title)
            asked = resolve_serve(parse_scenario(scenario_mapping(judge.scenario, c, judge.slo)))
            seen_s = warm_latencies(simulate(asked.deployment, asked.workload, asked.tuning()), asked.workload)
            s = judge.simulate(c)
            assert (spread(seen_s.ttft_s).mean, spread(seen_s.tpot_s).mean) == (s.ttft_s, s.tpot_s), c.title
        assert len(seen) == len(moves.axes)


TALKS = {"turns": 4, "think_s": 2.0, "first_tokens": 600, "answer_tokens": 100}


@pytest.mark.parametrize("who", [{"concurrency": 60, "count": 500}, {"rate_per_s": 4.0, "count": 2500}])
def test_conversations_are_planned_as_they_are_served(who: dict[str, Any]) -> None:
    """Later prompts wait for answers and find their history; a large cluster gives no more GPUs than it takes."""
    requests = {"kind": "sessions", "sessions": TALKS, **who}
    asked: dict[str, Any] = {
        "model": "mixtral-8x7b",
        "cluster": {"node": "dgx-h100", "gpus": 32},
        "serve": {"engine": "vllm", "requests": requests, "slo": {"ttft_s": 1.5, "tpot_s": 0.04}},
    }
    plan = plan_serve(asked, given={"pp": (1,), "ep": (1,)}, effort=ServeEffort(top=2, most=10))
    assert plan.options[0].served.candidate.gpus <= 8
    for number, option in enumerate(plan.options):
        answer, s = predict_serve(plan.scenario(number)), option.served
        assert (answer.ttft_s.mean, answer.tpot_s.mean, answer.label) == (s.ttft_s, s.tpot_s, s.label)
        assert answer.output_tokens_per_s == s.output_tokens_per_s and answer.label == "stable"
    assert any("strangers" in note for note in plan.notes)


@pytest.mark.parametrize("who", [{"concurrency": 60, "count": 100}, {"rate_per_s": 4.0, "count": 100}])
def test_the_beginning_of_conversations_is_not_planned_for(who: dict[str, Any]) -> None:
    requests: dict[str, Any] = {"kind": "sessions", "sessions": TALKS, **who}
    asked: dict[str, Any] = {**WIDE, "serve": {**WIDE["serve"], "requests": requests}}
    with pytest.raises(ScenarioError, match=r"only how these conversations begin.* give requests.count: ") as told:
        plan_serve(asked, given=FEW)
    enough = int(str(told.value).rsplit("count: ")[-1].split()[0])
    assert not ServeJudge(
        parse_scenario({**asked, "serve": {**asked["serve"], "requests": {**requests, "count": enough}}}), Slo(1, 1)
    ).load.beginning


def test_conversations_whose_later_turns_never_come_are_not_planned_for() -> None:
    """Long answers keep the later turns away until the load is over: only the run shows it."""
    talk = {"turns": 8, "think_s": 0.1, "first_tokens": 600, "answer_tokens": 1500}
    requests = {"kind": "sessions", "sessions": talk, "rate_per_s": 2.0, "count": 100}
    asked = {**WIDE, "serve": {**WIDE["serve"], "requests": requests}}
    with pytest.raises(ScenarioError, match=r"= 100 shows only how these conversations begin.*count: 200 or more"):
        plan_serve(asked, given={**FEW, "pools": ("no",)}, effort=ServeEffort(top=1, most=3))


def test_progress_shows_the_best_so_far() -> None:
    said: list[tuple[str, int, int]] = []
    plan_serve(WIDE, given=FEW, effort=ServeEffort(top=1, most=6), progress=lambda *now: said.append(now))
    assert all(of == 6 for _, _, of in said) and [done for _, done, _ in said] == list(range(1, len(said) + 1))
    assert "best " in said[-1][0] and "tokens/s/GPU" in said[-1][0] and "within limits" in said[-1][0]


def test_a_deadline_ends_it_with_what_it_has() -> None:
    found = plan_serve(WIDE, given=FEW, slo="ttft=60s,tpot=2s", effort=ServeEffort(top=5, most=400, minutes=1e-6))
    assert len(found.searches[0].served) == 1
    assert any("stopped after 1e-06 minutes" in note for note in found.notes)
    assert any("--most or --minutes" in note for note in found.notes)
    with pytest.raises(ScenarioError, match="minutes=0 must be above 0"):
        ServeEffort(minutes=0)


def test_an_interrupt_ends_it_with_what_it_has() -> None:
    def stop(_: str, done: int, __: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    found = plan_serve(WIDE, given=FEW, slo="ttft=60s,tpot=2s", effort=ServeEffort(top=5, most=400), progress=stop)
    assert len(found.searches[0].served) == 3 and any("interrupted" in note for note in found.notes)

    def at_once(*_: object) -> None:
        raise KeyboardInterrupt

    found = plan_serve(WIDE, given=FEW, slo="ttft=60s,tpot=2s", effort=ServeEffort(top=1), progress=at_once)
    assert len(found.options) == 1  # the one that was ready


def test_a_refusal_says_what_was_not_looked_at() -> None:
    with pytest.raises(ScenarioError) as told:
        plan_serve(WIDE, given={**FEW, "pools": ("no",)}, slo="ttft=2s,tpot=14.5ms", effort=ServeEffort(top=1, most=2))
    text = str(told.value)
    assert "2 deployments were simulated" in text and "that bounds do not exclude were not" in text
    assert "time per token is" in text and "times the limit" in text and "--most or --minutes" in text


def test_features_that_are_fixed_stay_so() -> None:
    words = [
        "kv_dtype=fp8",
        "speculative=no,2",
        "two_batch_overlap=yes",
        "token_budget=4096",
        "expert_slots=asked",
        "idle=no",
    ]
    axes = {**serve_axes(words), **FEW}
    found = plan_serve(WIDE, given=axes, effort=ServeEffort(top=1, most=16))
    for s in found.searches[0].served:
        f = s.candidate.features
        assert (f.kv_dtype, f.two_batch_overlap, f.token_budget, f.expert_slots) == ("fp8", True, 4096, None)
        assert f.speculative in (0, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kv_dtype=int8", "use bf16 or fp8, or asked"),
        ("two_batch_overlap=maybe", "use yes or no"),
        ("speculative=0", "use no, or drafts"),
        ("expert_slots=few", "the spare slots"),
        ("idle=2", "use yes, no"),
        ("replicas=0", "whole numbers of at least 1"),
    ],
)
def test_values_that_do_not_exist_are_refused(text: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        serve_axes([text])


def test_command_writes_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario, best = tmp_path / "job.yaml", tmp_path / "best.yaml"
    scenario.write_text(json.dumps(WIDE), encoding="utf-8")
    words = [
        "plan",
        str(scenario),
        "--most",
        "6",
        "--set",
        "pools=no",
        "--set",
        "tp=1",
        "--set",
        "pp=1",
        "--set",
        "ep=8",
    ]
    assert run([*words, "--out", str(best), "--emit", "sglang", "--emit-out", str(tmp_path / "start")]) == 0
    assert "launch_server" in (tmp_path / "start" / "serve.sh").read_text(encoding="utf-8")
    assert best.read_text(encoding="utf-8").startswith("# plan for deepseek-v3")
    capsys.readouterr()
    assert run(["serve", str(best)]) == 0
    assert run([*words, "--out", str(tmp_path / "no" / "best.yaml")]) == 2
    assert "does not exist" in capsys.readouterr().err
    trained = tmp_path / "train.yaml"
    trained.write_text(
        "model: mixtral-8x7b\ncluster: {node: dgx-h100, gpus: 8}\ntrain: {global_batch: 8, seq_len: 512}\n"
    )
    assert run(["plan", str(trained), "--emit", "vllm"]) == 2
    assert "--emit writes deployments" in capsys.readouterr().err
