"""Sampling: what a nucleus, log-probabilities and a grammar add to a pass; greedy is what every pass pays for."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.sim.question.feature_sections import SamplingAsk
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.sampling import Sampling, host_s, sampling_of, sampling_steps
from moesim.sim.software.serving_engine import engine_tuning


def tpot(clients: int = 64, engine: str = "vllm", drafts: int = 0, **sampling: Any) -> float:
    load = {"kind": "closed", "concurrency": clients, "count": clients, "input_tokens": 64, "output_tokens": 64}
    serve: dict[str, Any] = {"engine": engine, "requests": load}
    if sampling:
        serve["sampling"] = sampling
    if drafts:
        serve["speculative"] = {"tokens": drafts, "acceptance": 0.8}
    asked = {"model": "llama-3.1-8b", "cluster": {"node": "dgx-h100", "gpus": 1}, "serve": serve}
    return predict_serve(asked).tpot_s.mean


def test_greedy_is_free_and_everything_else_costs_a_little() -> None:
    assert sampling_of(SamplingAsk()) == (None, []) and tpot(kind="greedy") == tpot()
    plain = tpot()
    for more in ({"kind": "top_p"}, {"logprobs": 5}, {"structured": "json"}):
        assert 1.0 < tpot(**more) / plain < 1.35, more
    assert tpot(engine="sglang", kind="top_p") / tpot(engine="sglang") < tpot(kind="top_p") / plain  # no sort


def test_bytes_over_the_vocabulary_and_seconds_of_the_host_by_hand() -> None:
    tuning = engine_tuning()
    (step,) = sampling_steps(Sampling(top_p=True, structured=True), 64, 128_256, "sglang", tuning)
    assert step.forward_bytes == pytest.approx(64 * 128_256 * (tuning.get("top_p_bytes", "sglang") + 8.0))
    each = tuning.get("mask_s", "vllm") + tuning.get("logprob_s", "vllm") + 5 * tuning.get("logprob_each_s", "vllm")
    assert host_s(Sampling(logprobs=5, structured=True), 3, "vllm", tuning) == pytest.approx(3 * each)


def test_masks_are_made_for_every_drafted_position_and_disable_nothing() -> None:
    one, three = (tpot(drafts=n, structured="json") - tpot(drafts=n) for n in (1, 3))
    assert three > one > 0.0
    _, said = sampling_of(SamplingAsk(structured="json"))
    assert any("go on as without it" in line for line in said)
