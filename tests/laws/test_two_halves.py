"""Two-batch overlap: halves read weights twice, so small batches lose and large ones gain, and no bound is beaten."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.step import StepCosts
from moesim.sim.serve.step_parts import StepParts

RANKS = 16


@cache
def costs(halves: bool, drafts: int = 0) -> StepCosts:
    load = {"kind": "closed", "concurrency": 64, "count": 64, "input_tokens": 512, "output_tokens": 64}
    serve: dict[str, Any] = {
        "engine": {"name": "sglang", "max_batch": 256}, "precision": "fp8", "attention_dp": RANKS, "requests": load,
        "two_batch_overlap": halves,
    }  # fmt: skip
    if drafts:
        serve["speculative"] = {"tokens": drafts, "acceptance": 0.8}
    asked = {"model": "deepseek-v3", "cluster": {"node": "dgx-h100", "gpus": RANKS}, "layout": {"ep": RANKS}}
    resolved = resolve_serve(parse_scenario({**asked, "serve": serve}))
    tuning = resolved.tuning()
    return StepCosts(StepParts(resolved.deployment.job, tuning), tuning, (400, 600))


def seconds(of: StepCosts, each: int) -> float:
    a, b = of.decode(each * RANKS)
    return a + b * each * RANKS * 500


@pytest.mark.parametrize("each", [2, 4, 8])
def test_small_batches_lose(each: int) -> None:
    assert seconds(costs(True), each) > seconds(costs(False), each)


def test_one_sequence_is_not_divided() -> None:
    assert seconds(costs(True), 1) == seconds(costs(False), 1)


@pytest.mark.parametrize("each", [128, 256])
def test_large_batches_gain_at_most_what_the_exchange_took(each: int) -> None:
    plain, halved = seconds(costs(False), each), seconds(costs(True), each)
    exchange = costs(False).decode_parts(each * RANKS, each * RANKS * 500.0)["ep_comm"]
    assert plain - exchange < halved < plain


@pytest.mark.parametrize("each", [2, 16, 128, 256])
@pytest.mark.parametrize("drafts", [0, 2])
def test_a_pass_is_never_shorter_than_compute_or_exchange_of_its_halves(each: int, drafts: int) -> None:
    """At any context of the load, its shortest included."""
    halved = costs(True, drafts)
    tokens = each * (1 + drafts)
    cores = halved._attention_line(each)[1] * each * 400
    layers = halved._layers_s(tokens, tokens * RANKS, tokens * RANKS, 2)
    shortest = halved.pace * max(layers.compute_s + cores, layers.exchange_s) / halved.yields
    a, b = halved.decode(each * RANKS)
    assert a + b * each * RANKS * 400 >= shortest


@pytest.mark.parametrize("tokens", [256, 4096, 16_384])
def test_prompts_too(tokens: int) -> None:
    chunks = [(tokens // 4, 0)] * (4 * RANKS)
    plain, halved = (costs(h).mixed(chunks, 0, 0.0) for h in (False, True))
    assert halved < plain if tokens == 16_384 else halved > 0.5 * plain


def test_parts_sum_with_halves() -> None:
    for each in (1, 2, 64):
        a, b = costs(True).decode(each * RANKS)
        parts = costs(True).decode_parts(each * RANKS, each * RANKS * 500.0)
        assert sum(parts.values()) == pytest.approx(a + b * each * RANKS * 500.0)
        assert min(parts.values()) >= 0.0
