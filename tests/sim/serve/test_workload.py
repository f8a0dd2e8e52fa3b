"""Loads: what a scenario may say of its requests, what it may not, and what is assumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moesim.sim.model.arch import ModelArch
from moesim.sim.question.lookup import load_model
from moesim.sim.question.request_sections import RequestsAsk
from moesim.sim.question.scenario import ScenarioError, parse_scenario
from moesim.sim.serve.workload import Workload, workload_of
from moesim.traces.requests import Requests


@pytest.fixture(scope="module")
def arch() -> ModelArch:
    return load_model("llama-3.1-8b")


def asked(**requests: Any) -> RequestsAsk:
    serve = {"requests": requests}
    scenario = parse_scenario({"model": "llama-3.1-8b", "cluster": {"node": "dgx-h100", "gpus": 1}, "serve": serve})
    assert scenario.serve is not None
    return scenario.serve.requests


RATE = {"kind": "sessions", "rate_per_s": 1.0}


@pytest.mark.parametrize(
    ("requests", "says"),
    [
        ({"kind": "closed", "concurrency": 2, "rate_per_s": 1.0}, "rate_per_s is of no use with kind closed: leave it"),
        ({"kind": "offline", "rate_per_s": 1.0}, "rate_per_s is of no use with kind offline"),
        ({"kind": "offline", "concurrency": 1}, "concurrency is of no use .* it is for closed, sessions"),
        ({"kind": "gamma", "rate_per_s": 1.0, "concurrency": 2}, "concurrency is of no use with kind gamma"),
        ({"kind": "poisson", "rate_per_s": 1.0, "cv": 1.0}, "cv is of no use with kind poisson"),
        ({"kind": "poisson", "rate_per_s": 1.0, "file": "t.csv"}, "file is of no use .* it is for trace"),
        ({"kind": "reuse", "input_tokens": 5}, "input_tokens is of no use with kind reuse"),
        ({"kind": "poisson", "rate_per_s": 1.0, "sessions": {}}, "sessions is of no use with kind poisson"),
        ({"kind": "sessions"}, "needs rate_per_s .* or concurrency .*one of them"),
        ({**RATE, "concurrency": 4}, "one of them"),
        ({**RATE, "output_tokens": 9}, "output_tokens is of no use with kind sessions"),
        ({**RATE, "sessions": {"think_s": -1}}, "sessions.think_s: .*greater than or equal to 0"),
        ({**RATE, "sessions": {"branch": 1.5}}, "sessions.branch: .*less than or equal to 1"),
        ({**RATE, "sessions": {"branch": 0.5, "turns": 1}}, "branch needs sessions of more than one turn"),
        ({**RATE, "sessions": {"tool_calls": 0.5}}, "tool_calls needs tool_s"),
        ({**RATE, "sessions": {"tool_s": 0.5}}, "tool_s needs tool_calls"),
        ({**RATE, "sessions": {"thinks": 1}}, "did you mean 'think_s'|did you mean 'think'"),
    ],
)
def test_keys_that_cannot_be_or_are_not_used_are_refused(requests: dict[str, Any], says: str) -> None:
    with pytest.raises(ScenarioError, match=says) as caught:
        asked(**requests)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "requests",
    [
        {"kind": "offline", "rate_per_s": None, "concurrency": None},
        {"kind": "gamma", "rate_per_s": 1.0, "cv": 2.0},
        {"kind": "azure-code", "rate_per_s": 1.0},
        {**RATE, "lengths": "lognormal", "sigma": 0.5},
        {"kind": "sessions", "concurrency": 3, "jitter": 0.5},
    ],
)
def test_keys_with_a_use_or_without_a_value_are_taken(requests: dict[str, Any]) -> None:
    assert asked(**requests).kind == requests["kind"]


def test_a_session_that_cannot_begin_is_refused(arch: ModelArch) -> None:
    ask = asked(**RATE, sessions={"first_tokens": 200_000})
    with pytest.raises(ScenarioError, match=r"are 200,300 tokens, more than the context of llama-3.1-8b, 131,072"):
        workload_of(ask, arch)


def test_sessions_end_at_the_context_and_it_is_said(arch: ModelArch) -> None:
    ask = asked(**RATE, count=200, sessions={"first_tokens": 120_000, "added_tokens": 3000})
    load, said = workload_of(ask, arch)
    assert load.longest <= arch.max_context
    assert any("end at the context of 131,072 tokens" in line for line in said)
    assert "requests.sessions.think_s = 30.0 (not stated)" in said
    assert not any("first_tokens" in line for line in said)


def test_rates_count_requests_and_not_the_seconds_that_people_think(arch: ModelArch) -> None:
    load, _ = workload_of(asked(kind="sessions", rate_per_s=2.0, count=20_000, sessions={"turns": 4}), arch)
    assert load.rate_per_s == pytest.approx(2.0 * 4, rel=0.1) and load.clients == 0
    users, _ = workload_of(asked(kind="sessions", concurrency=8), arch)
    assert users.rate_per_s == 0.0  # as many come as are answered
    assert len(users.requests) == 2000 and users.mean_tokens > 1300


def test_a_plain_load_has_the_rate_it_had() -> None:
    load = Workload(Requests((0.0, 1.0, 3.0), (5, 5, 5), (1, 1, 1), (0, 0, 0)))
    assert load.rate_per_s == 2.0 / 3.0


def test_lengths_of_sessions_spread_as_asked(arch: ModelArch) -> None:
    ask = asked(kind="sessions", concurrency=50, count=3000, lengths="lognormal", sigma=0.8)
    load, _ = workload_of(ask, arch)
    outputs = sorted(load.requests.output_tokens)
    assert sum(outputs) / len(outputs) == pytest.approx(300, rel=0.1) and outputs[300] < 150 < 600 < outputs[-150]


def test_what_a_trace_left_out_is_said_and_its_count_is_its_own(arch: ModelArch, tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("Timestamp,Request tokens,Response tokens\n1,10,2\n2,20,0\n3,30,4\n9,30,4\n")
    load, said = workload_of(asked(kind="closed", concurrency=1, count=2), arch, trace)
    assert len(load.requests) == 3 and load.clients == 0
    assert any("left out: 1" in line for line in said) and any("in place of" in line for line in said)
    cut, _ = workload_of(asked(kind="trace", file=str(trace), count=2), arch)
    assert cut.requests.arrival_s == (0.0, 2.0)


@pytest.mark.parametrize(("count", "said"), [(9, True), (10, False), (40, False)])
def test_conversations_that_only_begin_are_no_steady_state(arch: ModelArch, count: int, said: bool) -> None:
    """Two clients of five turns each need ten requests to have had one conversation each."""
    ask = asked(kind="sessions", concurrency=2, count=count, sessions={"turns": 5})
    _, assumed = workload_of(ask, arch)
    assert any("no steady state; 10 or more" in line for line in assumed) == said
