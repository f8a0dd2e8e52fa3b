"""Labels by limits: a load that misses them says so, whatever sends it, and what of it would meet them."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.reports.tables.serve import label_text
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.prediction import ServePrediction

CLOSED: dict[str, Any] = {"kind": "closed", "concurrency": 400, "input_tokens": 600, "output_tokens": 60, "jitter": 0.3}
OPEN: dict[str, Any] = {**CLOSED, "kind": "poisson", "concurrency": None, "rate_per_s": 25.0, "count": 1500}


def served(load: dict[str, Any], slo: dict[str, float] | None, **changes: Any) -> ServePrediction:
    requests = {k: v for k, v in {**load, **changes}.items() if v is not None}
    serve: dict[str, Any] = {"engine": "vllm", "requests": requests, **({"slo": slo} if slo else {})}
    return predict_serve({"model": "llama-3.1-8b", "cluster": {"node": "dgx-h100", "gpus": 1}, "serve": serve})


def test_clients_that_would_meet_the_limits_do_and_more_do_not() -> None:
    slo = {"ttft_s": 0.5, "tpot_s": 0.015}
    many = served(CLOSED, slo)
    assert many.label == "misses its limits" and many.attained_share < 0.9 and many.limits is not None
    clients = many.limits.meets_at_clients
    assert clients is not None and many.limits.meets_at_requests_per_s is None
    fewer, more = (served(CLOSED, slo, concurrency=round(f * clients)) for f in (1.0, 1.35))
    assert fewer.label == "stable" and fewer.attained_share >= 0.9 and fewer.limits is None
    assert more.label == "misses its limits"
    assert many.to_dict()["limits"]["meets_at_clients"] == clients
    share = f"{many.attained_share:.0%} of the requests are within them"
    assert label_text(many) == f"misses its limits: {share}; {clients} clients would meet them"


def test_a_rate_that_would_meet_the_limits_does_and_more_does_not() -> None:
    slo = {"ttft_s": 0.5, "tpot_s": 0.0085}
    fast = served(OPEN, slo)
    assert fast.label == "misses its limits" and fast.limits is not None
    rate = fast.limits.meets_at_requests_per_s
    assert rate is not None and 0.0 < rate < 25.0 and fast.limits.meets_at_clients is None
    slower, faster = (served(OPEN, slo, rate_per_s=f * rate) for f in (0.98, 1.25))
    assert slower.label == "stable" and faster.label == "misses its limits"
    assert "requests/s would meet them" in label_text(fast)


def test_limits_that_nobody_stated_are_not_missed() -> None:
    many = served(CLOSED, None, input_tokens=4000)
    assert many.attained_share < 0.9 and many.label == "stable" and many.limits is None


@pytest.mark.parametrize("load", [CLOSED, OPEN])
def test_what_one_client_misses_alone_nothing_meets(load: dict[str, Any]) -> None:
    answer = served(load, {"ttft_s": 0.5, "tpot_s": 0.001})
    assert answer.label == "misses its limits" and answer.limits is not None
    assert answer.limits.meets_at_clients is None and answer.limits.meets_at_requests_per_s is None
    assert label_text(answer).endswith("; a single client misses them too")


def test_a_queue_that_grows_comes_before_limits_and_queued_requests_have_no_rate() -> None:
    assert served(OPEN, {"ttft_s": 0.1}, rate_per_s=2000.0).label == "overloaded"
    queued = served(OPEN, {"ttft_s": 0.1}, kind="offline", rate_per_s=None)
    assert queued.label == "misses its limits" and queued.limits is not None
    assert queued.limits.said == "no rate to look for, all requests come at once"


def test_conversations_that_are_too_few_are_told_and_nothing_is_looked_for() -> None:
    talk = {"turns": 6, "think_s": 60, "first_tokens": 500}
    load = {"kind": "sessions", "rate_per_s": 1.0, "sessions": talk}
    ask = {
        "model": "llama-3.1-8b", "cluster": {"node": "dgx-h100", "gpus": 1},
        "serve": {"engine": "vllm", "slo": {"ttft_s": 0.001, "tpot_s": 0.001}, "requests": {**load, "count": 300}},
    }  # fmt: skip
    short = predict_serve(ask)
    assert short.assumptions[0].startswith("the run is short")
    assert short.label == "misses its limits" and short.limits is not None
    assert short.limits.meets_at_requests_per_s is None and "try other rates" in short.limits.said
    ask["serve"]["requests"]["count"] = 30_000
    assert not predict_serve(ask).assumptions[0].startswith("the run is short")


USERS = {"turns": 12, "think_s": 5, "first_tokens": 400, "added_tokens": 100, "answer_tokens": 60}


@pytest.mark.parametrize("slo", [{"ttft_s": 60.0, "tpot_s": 1.0}, {"ttft_s": 0.001, "tpot_s": 0.001}])
def test_how_conversations_begin_decides_nothing(slo: dict[str, float]) -> None:
    """Users who all begin at once neither keep nor miss limits for good: too few requests say so by the label."""
    load = {"kind": "sessions", "concurrency": 60, "sessions": USERS}
    few, enough = (predict_serve(
        {"model": "llama-3.1-8b", "cluster": {"node": "dgx-h100", "gpus": 1},
         "serve": {"engine": "vllm", "slo": slo, "requests": {**load, "count": count}}},
    ) for count in (200, 1000))  # fmt: skip
    assert few.label == few.to_dict()["label"] == "only the beginning" and few.limits is None
    assert label_text(few).startswith("only the beginning of these conversations")
    assert enough.label == ("stable" if slo["ttft_s"] > 1.0 else "misses its limits")


def test_a_short_run_of_conversations_is_not_called_stable() -> None:
    load = {"kind": "sessions", "rate_per_s": 1.0, "sessions": {"turns": 6, "think_s": 10, "first_tokens": 500}}
    labels = [predict_serve(
        {"model": "llama-3.1-8b", "cluster": {"node": "dgx-h100", "gpus": 1},
         "serve": {"engine": "vllm", "requests": {**load, "count": count}}},
    ).label for count in (150, 5000)]  # fmt: skip
    assert labels == ["only the beginning", "stable"]
