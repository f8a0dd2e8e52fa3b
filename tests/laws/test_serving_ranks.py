"""Laws of attention data parallelism in serving: ranks hold whole sequences, experts see the tokens that there are."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.accounts import span_s
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.simulate import PricedJobs, simulate
from moesim.traces.rng import stream

CASES: dict[str, tuple[str, str, int, dict[str, int], int, str, str]] = {
    "eight ranks": ("deepseek-v2", "dgx-h100", 8, {"ep": 8}, 8, "sglang", "fp8"),
    "groups of two": ("qwen3-235b-a22b", "dgx-h200", 8, {"tp": 2, "ep": 8}, 4, "vllm", "fp8"),
    "two nodes": ("deepseek-v3", "dgx-h200", 16, {"ep": 16}, 16, "sglang", "fp8"),
    "four ranks, bf16": ("qwen3-30b-a3b", "dgx-h100", 4, {"ep": 4}, 4, "trtllm", "bf16"),
    "dense, one rank": ("llama-3.1-8b", "dgx-h100", 1, {}, 1, "vllm", "bf16"),
    "dense, pipeline": ("llama-3.1-70b", "dgx-h100", 8, {"tp": 2, "pp": 4}, 1, "vllm", "fp8"),
}


def asked(case: str, clients: int, **load: int) -> dict[str, Any]:
    model, node, gpus, layout, dp, engine, precision = CASES[case]
    requests = {"kind": "closed", "concurrency": clients, "count": 4 * clients, **load}
    serve = {"engine": engine, "precision": precision, "attention_dp": dp, "requests": requests}
    return {"model": model, "cluster": {"node": node, "gpus": gpus}, "layout": layout, "serve": serve}


def tokens_per_s(scenario: dict[str, Any], priced: PricedJobs) -> float:
    resolved = resolve_serve(parse_scenario(scenario))
    run = simulate(resolved.deployment, resolved.workload, resolved.tuning(), priced)
    return sum(run.log.output) / span_s(run)


@pytest.mark.parametrize("case", CASES)
def test_one_more_client_never_costs_the_others_their_tokens(case: str) -> None:
    """Far from saturation, around whole multiples of the ranks and elsewhere."""
    draws, priced = stream(7, f"test.ranks.{case}"), PricedJobs()
    dp = CASES[case][4]
    for _ in range(2):
        load = {"input_tokens": int(draws.integers(32, 400)), "output_tokens": int(draws.integers(64, 200))}
        begin = int(draws.integers(1, 4)) * dp if draws.random() < 0.6 else int(draws.integers(1, 30))
        rates = [tokens_per_s(asked(case, clients, **load), priced) for clients in range(begin, begin + 4)]
        assert all(more > 0.99 * less for less, more in pairwise(rates)), (load, begin, rates)


@pytest.mark.parametrize("case", [c for c in CASES if CASES[c][4] > 1])
def test_a_rank_with_one_more_sequence_pays_for_that_sequence_only(case: str) -> None:
    """dp + 1 sequences: the busiest rank's attention and projections of two, experts of dp + 1 tokens."""
    resolved = resolve_serve(parse_scenario(asked(case, 1, input_tokens=100, output_tokens=100)))
    priced = PricedJobs()
    costs = simulate(resolved.deployment, resolved.workload, resolved.tuning(), priced).machine.costs
    dp = CASES[case][4]
    even, more, full = (costs.decode_parts(n, 150.0 * n) for n in (dp, dp + 1, 2 * dp))
    assert even["experts"] < more["experts"] < even["experts"] + 0.35 * (full["experts"] - even["experts"])
    assert more["gemm"] == pytest.approx(full["gemm"], rel=1e-9) and more["ep_comm"] == pytest.approx(full["ep_comm"])
    for n in (1, dp - 1, dp, dp + 1, 3 * dp + 1):
        a, b = costs.decode(n)
        assert sum(costs.decode_parts(n, 150.0 * n).values()) == pytest.approx(a + b * 150.0 * n, rel=1e-6)
