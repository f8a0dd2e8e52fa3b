"""Pools of unlike machines, more than two of them, prompts that stay, and workers that change from one to the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moesim.hwmodels.gpu import load_gpu
from moesim.sim.layout.layout import BadLayout
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.prediction import ServePrediction


def answer(gpus: int = 3, requests: dict[str, Any] | None = None, **pools: Any) -> ServePrediction:
    load = {"kind": "poisson", "rate_per_s": 4.0, "count": 240, "input_tokens": 3000, "output_tokens": 60}
    return predict_serve({
        "model": "llama-3.1-8b",
        "cluster": {"node": "dgx-h100", "gpus": gpus},
        "price_usd_per_gpu_hour": 3.0,
        "serve": {"engine": "vllm", "requests": {**load, **(requests or {})},
                  "pools": {"prefill": {"workers": 1}, "decode": {"workers": 2}, **pools}},
    })  # fmt: skip


def test_a_pool_may_have_machines_of_its_own() -> None:
    same = answer()
    other = answer(2, prefill={"workers": 1, "gpu": "a100-sxm-80gb", "price_usd_per_gpu_hour": 1.5})
    assert other.ttft_s.mean > 1.5 * same.ttft_s.mean  # an A100 computes prompts at a third of the speed
    assert other.tpot_s.mean == pytest.approx(same.tpot_s.mean, rel=0.1)
    assert other.cost["usd_per_gpu_hour"] == pytest.approx((2 * 3.0 + 1.5) / 3)
    prompts, decode = other.run.prefill_machines[0].job, other.run.machine.job
    assert (prompts.cluster.gpu.name, decode.cluster.gpu.name) == ("a100-sxm-80gb", "h100-sxm")
    assert any(line.startswith("prefill pool of 1 a100-sxm-80gb") for line in other.assumptions)
    assert other.handover["busiest_nic"] != "none: all stay inside a scale-up domain"  # other machines: over the NICs


def test_energy_is_that_of_each_gpu() -> None:
    p = answer(2, prefill={"workers": 1, "gpu": "l40s"})
    span = max(p.run.log.finish_s) - min(p.run.log.arrival_s)
    assert float(p.cost["energy_joules"]) < span * (2 * load_gpu("h100-sxm").tdp_w + load_gpu("l40s").tdp_w)
    assert float(p.cost["gpu_hours"]) == pytest.approx(3 * span / 3600.0)


def test_further_pools_take_their_part() -> None:
    busy = {"rate_per_s": 20.0}
    also = [{"role": "prefill", "workers": 2, "gpu": "a100-sxm-80gb"}]
    one, two = answer(requests=busy), answer(requests=busy, also=also)
    tokens = [r.prefill_tokens for r in two.run.prefill_replicas]
    assert len(tokens) == 3 and sum(tokens) == 240 * 3000 and tokens[0] > tokens[1] > 0 and tokens[2] > 0
    assert two.ttft_s.p99 < one.ttft_s.p99 and two.resolved.deployment.gpus == 5


def test_short_prompts_stay_on_the_decode_worker() -> None:
    mixed = {"input_tokens": 3000, "jitter": 0.99}
    sent, kept = answer(requests=mixed), answer(requests=mixed, local_prefill_tokens=1000)
    prompts = np.array(kept.run.log.prompt)
    assert sum(r.prefill_tokens for r in kept.run.prefill_replicas) == int(prompts[prompts > 1000].sum())
    assert sum(r.prefill_tokens for r in kept.run.replicas) == int(prompts[prompts <= 1000].sum())
    short = prompts <= 1000
    waits = [np.array(p.run.log.first_s) - np.array(p.run.log.arrival_s) for p in (sent, kept)]
    assert waits[1][short].mean() < waits[0][short].mean()  # no hand-over


def test_workers_change_pools_and_nothing_is_lost() -> None:
    load = {"input_tokens": 6000, "rate_per_s": 6.0, "count": 400}
    fixed = answer(4, load, prefill={"workers": 1}, decode={"workers": 3})
    moved = answer(
        4, load, prefill={"workers": 1}, decode={"workers": 3}, changes=[{"at_s": 10, "prefill": 3, "decode": 1}],
        switch_s=5,
    )  # fmt: skip
    run = moved.run
    assert run.log.served == 400 and len(run.prefill_replicas) == 3 and len(run.replicas) == 3
    assert sum(r.prefill_tokens for r in run.prefill_replicas) == 400 * 6000
    assert all(r.prefill_tokens > 0 for r in run.prefill_replicas) and all(r.idle for r in run.replicas)
    assert moved.ttft_s.mean < 0.6 * fixed.ttft_s.mean
    began = [min(t for t in (s[0] for s in r.samples.rows)) for r in run.prefill_replicas[1:]]
    assert min(began) >= 15.0


@pytest.mark.parametrize(
    ("pools", "refusal", "words"),
    [
        ({"changes": [{"at_s": 1, "prefill": 2, "decode": 2}]}, ScenarioError, "2 \\+ 2 workers are not the 3"),
        ({"decode": {"workers": 2, "tp": 2}, "changes": [{"at_s": 1, "prefill": 2, "decode": 1}]}, ScenarioError,
         "as many GPUs in both pools"),
        ({"prefill": {"workers": 1, "price_usd_per_gpu_hour": 2}}, ScenarioError, "machines of its own"),
        ({"prefill": {"workers": 5}}, BadLayout, "7 GPUs, more than cluster.gpus=3"),
        ({"prefill": {"gpu": "h100-sxm"}, "decode": {"gpu": "h100-sxm"}}, ScenarioError, "none of the 3 GPUs"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(pools: dict[str, Any], refusal: type[Exception], words: str) -> None:
    with pytest.raises(refusal, match=words):
        answer(**pools)


def test_a_worker_that_changes_pools_keeps_prompts_like_the_others() -> None:
    load = {
        "kind": "sessions",
        "rate_per_s": 4,
        "count": 200,
        "sessions": {"turns": 5, "think_s": 2, "first_tokens": 2000},
    }
    p = predict_serve({
        "model": "llama-3.1-8b", "cluster": {"node": "dgx-h100", "gpus": 4},
        "serve": {"engine": "vllm", "requests": load, "router": "prefix",
                  "pools": {"prefill": {"workers": 1}, "decode": {"workers": 3}, "switch_s": 1,
                            "changes": [{"at_s": 5, "prefill": 3, "decode": 1}]}},
    })  # fmt: skip
    caches = [r.prefix for r in p.run.prefill_replicas]
    assert len(caches) == 3 and all(cache is not None and cache.asked_tokens > 0 for cache in caches)
    assert p.cache["asked_tokens"] == sum(p.run.log.prompt)


def test_who_stays_on_a_decode_worker_gives_up_too() -> None:
    busy = {"rate_per_s": 60.0, "count": 300}
    waited = answer(2, busy, decode={"workers": 1}, local_prefill_tokens=1_000_000)
    load = {"kind": "poisson", "input_tokens": 3000, "output_tokens": 60, **busy}
    limited = predict_serve({
        "model": "llama-3.1-8b", "cluster": {"node": "dgx-h100", "gpus": 2},
        "serve": {"engine": "vllm", "requests": load, "admission": {"timeout_s": 0.5},
                  "pools": {"prefill": {"workers": 1}, "decode": {"workers": 1}, "local_prefill_tokens": 1_000_000}},
    })  # fmt: skip
    assert limited.admission["timed_out"] > 50 and limited.ttft_s.p99 < 0.3 * waited.ttft_s.p99
