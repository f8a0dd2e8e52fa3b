"""LoRA adapters in serving: bytes and kernels by hand, what their number, rank and targets cost, engines of 2024."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.adapters import adapter_bytes, adapter_work
from moesim.sim.serve.job import ServeJob
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.software.serving_engine import engine_tuning


def asked(adapters: dict[str, Any] | None, engine: Any = "vllm", **more: Any) -> dict[str, Any]:
    load = {"kind": "closed", "concurrency": 64, "count": 256, "input_tokens": 512, "output_tokens": 128}
    serve = {"engine": engine, "requests": load, **({"adapters": adapters} if adapters else {})}
    return {"model": "llama-3.1-8b", "cluster": {"node": "dgx-h100", "gpus": 1}, "serve": serve, **more}


def job_of(scenario: dict[str, Any]) -> ServeJob:
    return resolve_serve(parse_scenario(scenario)).deployment.job


def test_bytes_of_adapters_by_hand() -> None:
    """Query, key and value have a matrix [rank, in] each, gate and up as well; outputs add up."""
    attention = 3 * 4096 + (4096 + 2 * 1024) + 4096 + 4096
    block = 2 * 4096 + 2 * 14336 + 14336 + 4096
    for targets, rows in (("attention", attention), ("all", attention + block)):
        job = job_of(asked({"count": 3, "rank": 16, "targets": targets}))
        assert adapter_bytes(job) == pytest.approx(2.0 * 3 * 16 * rows * 32)


def test_a_pass_launches_two_kernels_a_linear_layer_and_reads_what_it_touches() -> None:
    tuning = engine_tuning()
    kernel_s = tuning.get("adapter_kernel_s", "vllm")
    job = job_of(asked({"count": 4, "rank": 16}))
    (one, kernels_s), (many, same_s) = (adapter_work(job, tokens, tuning) for tokens in (1, 4096))
    assert kernels_s == same_s == pytest.approx(32 * 4 * 2 * kernel_s)
    moved = 2.0 * 32 * (4096 + 2 * 6144 + 4096 + 2 * 4096 + 4096 + 2 * 28672 + 14336 + 2 * 4096)  # of one token
    assert one.bytes == pytest.approx(adapter_bytes(job) / 4 + moved)
    assert many.bytes == pytest.approx(adapter_bytes(job) + 4096 * moved, rel=1e-6)


def test_throughput_falls_by_what_is_measured_today_and_little_more_with_many() -> None:
    plain = predict_serve(asked(None)).output_tokens_per_s

    def left(**adapters: Any) -> float:
        return predict_serve(asked(adapters)).output_tokens_per_s / plain

    one, four, many = (left(count=n, rank=16) for n in (1, 4, 64))
    assert 0.75 <= many < four < one < 0.92 and one - four < 0.02
    assert left(count=4, rank=256) < four < left(count=4, rank=16, targets="attention") < 0.97


def test_prompts_pay_too_and_targets_are_said() -> None:
    plain, tuned = (predict_serve(asked(a)) for a in (None, {"count": 1, "rank": 16}))
    assert tuned.ttft_s.mean > 1.03 * plain.ttft_s.mean
    assert any("adapters.targets = all" in line for line in tuned.assumptions)
    experts = resolve_serve(parse_scenario({**asked({"count": 1, "rank": 8}), "model": "olmoe-1b-7b"}))
    assert any("routed experts carry none" in line for line in experts.assumptions)


def test_engines_before_april_2025_read_an_adapter_for_every_token() -> None:
    """vLLM 0.6 on an A100: 7.60 of 11.45 requests/s are left with one adapter of rank 8 as with four."""
    load = {"kind": "offline", "count": 300, "input_tokens": 245, "output_tokens": 235}

    def left(engine: dict[str, Any], count: int) -> float:
        base = {
            **asked(None, engine), "model": "llama-2-7b", "cluster": {"node": "dgx-a100", "gpus": 1},
        }  # fmt: skip
        base["serve"] = {**base["serve"], "requests": load}
        tuned = {**base, "serve": {**base["serve"], "adapters": {"count": count, "rank": 8}}}
        return predict_serve(tuned).requests_per_s / predict_serve(base).requests_per_s

    old, new = {"name": "vllm", "version": "0.6.4", "run": "library"}, {"name": "vllm", "run": "library"}
    assert 0.6 < left(old, 1) < 0.75 and left(old, 4) == pytest.approx(left(old, 1), abs=0.02)
    assert left(new, 1) > left(old, 1) + 0.1
    dated = job_of(asked({"count": 1, "rank": 8}, {"name": "sglang", "date": "2024-11"}))
    today = job_of(asked({"count": 1, "rank": 8}, "sglang"))
    assert adapter_work(dated, 64, engine_tuning())[1] > 2.0 * adapter_work(today, 64, engine_tuning())[1]
