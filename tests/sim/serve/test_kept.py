"""Kept prices change no number of an answer, and belong to one deployment only."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.kept import Kept
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.resolve import resolve_serve

LOAD: dict[str, Any] = {"kind": "poisson", "rate_per_s": 3.0, "count": 60, "input_tokens": 300, "output_tokens": 30}
ASKED: dict[str, Any] = {
    "model": "mixtral-8x7b",
    "cluster": {"node": "dgx-h100", "gpus": 4},
    "layout": {"tp": 4},
    "serve": {"engine": "vllm", "precision": "fp8", "requests": LOAD},
}


def asked(**changes: Any) -> dict[str, Any]:
    found = deepcopy(ASKED)
    found["serve"] |= {k: v for k, v in changes.items() if k not in found}
    return found | {k: v for k, v in changes.items() if k in found}


QUESTIONS = {
    "as it is": asked(),
    "another rate": asked(requests={**LOAD, "rate_per_s": 12.0}),
    "other lengths": asked(requests={**LOAD, "output_tokens": 90}),
    "adapters": asked(adapters={"count": 8, "rank": 32}),
    "drafts": asked(speculative={"tokens": 2, "acceptance": 0.7}),
    "fewer at once": asked(engine={"name": "vllm", "max_batch": 4}),
    "a router": asked(layout={"tp": 2}, router="least_loaded"),
    "pools": asked(pools={"prefill": {"tp": 2}, "decode": {"tp": 2}}, layout={}),
    "16 bits": asked(precision="bf16"),
    "a slower link": asked(cluster={"node": "dgx-h100", "gpus": 4, "nic_bytes_per_s": 1e9}),
    "a model of the same name": asked(
        model={**dict(layers=32, hidden=4096, heads=32, vocab=32000), "name": "mixtral-8x7b"}
    ),
}


def test_no_answer_depends_on_what_was_asked_before() -> None:
    """In a row, and once more the other way round. The same again is equal to the last bit, but for what is counted."""
    kept = Kept()
    for name, question in [*QUESTIONS.items(), *reversed(QUESTIONS.items())]:
        alone, again = predict_serve(question).to_dict(), predict_serve(question, kept=kept).to_dict()
        for metric in ("ttft_s", "tpot_s", "e2e_s", "memory", "utilisation"):
            assert again[metric] == pytest.approx(alone[metric], rel=1e-6), (name, metric)
        for metric in ("output_tokens_per_s", "capacity_requests_per_s", "goodput_per_s", "preemptions"):
            assert again[metric] == pytest.approx(alone[metric], rel=1e-6), (name, metric)
        once_more = predict_serve(question, kept=kept).to_dict()
        assert {**once_more, "sources": 0} == {**again, "sources": 0}, name


def test_deployments_that_differ_share_nothing_and_few_are_kept() -> None:
    kept = Kept()
    prices = {name: kept.of(resolve_serve(parse_scenario(q))) for name, q in QUESTIONS.items()}
    loads = {"as it is", "another rate", "other lengths"}
    assert len({str(n) for n in loads if prices[n] is prices["as it is"]}) == 3
    others = [prices[name] for name in QUESTIONS if name not in loads]
    assert all(a is not b for n, a in enumerate(others) for b in (*others[:n], prices["as it is"]))
    counted = replace(prices["as it is"].deployment.job.routing, counts_file="shares.csv")
    resolved = resolve_serve(parse_scenario(QUESTIONS["as it is"]))
    of_file = replace(resolved.deployment, job=replace(resolved.deployment.job, routing=counted))
    assert kept.of(replace(resolved, deployment=of_file)) is not kept.of(replace(resolved, deployment=of_file))
    for n in range(20):
        kept.of(resolve_serve(parse_scenario(asked(kv_blocks=1000 + n))))
    assert kept.of(resolve_serve(parse_scenario(QUESTIONS["as it is"]))) is not prices["as it is"]


def test_a_queue_that_was_drained_is_not_drained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, drained = Kept(), []
    from moesim.sim.serve import kept as module

    real = module.drained_per_s
    monkeypatch.setattr(module, "drained_per_s", lambda *of: drained.append(of) or real(*of))
    for name in ("as it is", "another rate", "as it is", "other lengths"):
        predict_serve(QUESTIONS[name], kept=kept)
    assert len(drained) == 2  # arrivals do not matter to it, lengths do
