"""Any deployment gets either a prediction that passes the laws of serving, or one line that says why not."""

from __future__ import annotations

import json
from math import isfinite
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from moesim.refusal import Refusal
from moesim.sim.serve.accounts import Spread
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.prediction import ServePrediction

NAMED = st.sampled_from(["mixtral-8x7b", "deepseek-moe-16b", "llama-3.1-8b", "gpt-oss-20b", "qwen3-30b-a3b"])
TOKENS = st.sampled_from([1, 2, 17, 128, 1000])


@st.composite
def loads(draw: st.DrawFn) -> dict[str, Any]:
    """A few requests of any kind."""
    kind = draw(st.sampled_from(["closed", "offline", "poisson", "gamma", "sessions", "reuse", "azure-code"]))
    load: dict[str, Any] = {"kind": kind, "count": draw(st.integers(1, 24)), "seed": draw(st.integers(0, 3))}
    if kind in ("closed", "offline", "poisson", "gamma"):
        load |= {"input_tokens": draw(TOKENS), "output_tokens": draw(TOKENS), "jitter": draw(st.sampled_from([0, 0.5]))}
    if kind in ("closed", "sessions"):
        load["concurrency"] = draw(st.integers(1, 8))
    elif kind != "offline":
        load["rate_per_s"] = draw(st.sampled_from([0.01, 1.0, 50.0]))
    if kind == "gamma":
        load["cv"] = draw(st.sampled_from([0.3, 3.0]))
    return load


@st.composite
def deployments(draw: st.DrawFn) -> dict[str, Any]:
    """Mostly sensible, now and then just wrong."""
    tp, pp = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([1, 1, 1, 2]))
    serve: dict[str, Any] = {
        "engine": draw(st.sampled_from(["vllm", "sglang", "trtllm"])),
        "precision": draw(st.sampled_from(["bf16", "bf16", "fp8", "nvfp4"])),
        "requests": draw(loads()),
    }
    layout: dict[str, Any] = {"tp": tp, "pp": pp}
    if draw(st.booleans()):
        layout["ep"] = draw(st.sampled_from([1, tp, 2, 3]))
    extras: list[dict[str, Any]] = [
        {"speculative": {"tokens": draw(st.integers(1, 4)), "acceptance": 0.6}},
        {"kv_dtype": "fp8"},
        {"router": draw(st.sampled_from(["least_loaded", "prefix", "power_of_two"]))},
        {"kv_tiers": [{"kind": "host", "bytes": "20 GB"}]},
        {"admission": {"queue_limit": 2, "timeout_s": 0.1}},
        {"adapters": {"count": 2, "rank": 16}},
        {"offload": {"resident": 0.5}},
        {"sampling": {"kind": "top_p", "logprobs": 2}},
        {"pools": {"prefill": {"tp": tp}, "decode": {"tp": draw(st.sampled_from([1, 2]))}}},
    ]
    for extra in draw(st.lists(st.sampled_from(extras), max_size=2)):
        serve |= extra
    gpus = tp * pp * draw(st.sampled_from([1, 1, 2]))
    return {
        "model": draw(NAMED),
        "cluster": {
            "node": draw(st.sampled_from(["dgx-h100", "dgx-a100", "dgx-b200", "mi300x-platform"])),
            "gpus": gpus,
        },
        "layout": {} if "pools" in serve else layout,
        "serve": serve,
        "routing": draw(st.sampled_from(["balanced", {"lognormal": 0.65}])),
    }


def check_spread(spread: Spread) -> None:
    """A mean and percentiles of seconds."""
    assert isfinite(spread.mean) and 0.0 <= spread.p50 <= spread.p90 <= spread.p99
    assert 0.0 <= spread.mean <= spread.p99 * (1.0 + 1e-9) or spread.mean <= 100.0 * spread.p99


def check_served(p: ServePrediction) -> None:
    """The laws that every prediction must pass."""
    for spread in (p.ttft_s, p.tpot_s, p.e2e_s):
        check_spread(spread)
    assert p.e2e_s.mean >= p.ttft_s.mean * (1.0 - 1e-9)
    assert all(0.0 <= r.low <= r.high for r in p.intervals.values())
    assert abs(sum(p.utilisation.values()) - 1.0) < 1e-6 and min(p.utilisation.values()) >= -1e-9
    assert 0.0 <= p.attained_share <= 1.0 and 0.0 <= p.kv_use <= 1.0 and p.goodput_per_s >= 0.0
    assert p.requests_per_s >= 0.0 and p.output_tokens_per_s >= 0.0 and p.capacity_requests_per_s >= 0.0
    assert abs(sum(p.sources.values()) - 1.0) < 1e-9 and min(p.memory.values()) >= 0.0
    assert all(value >= 0.0 for value in p.cost.values() if not isinstance(value, str))
    json.dumps(p.to_dict(), allow_nan=False)


@settings(max_examples=examples(0.3))
@given(deployments())
def test_a_served_load_or_a_refusal_in_one_line(scenario: dict[str, Any]) -> None:
    try:
        prediction = predict_serve(scenario)
    except Refusal as refusal:
        message = str(refusal)
        assert message and "\n" not in message and len(message) < 600
        return
    check_served(prediction)
