"""Serving takes steps from the layers of training by what they are to their block, whatever they are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from moesim.sim.layers.steps import Step
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve import layers
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.simulate import machine_of
from moesim.sim.serve.step_parts import StepParts
from moesim.sim.software.serving_engine import engine_tuning

MODELS = {
    "mamba and experts": {"model": "jamba-v0.1", "cluster": {"node": "dgx-h100", "gpus": 8}, "layout": {"tp": 8}},
    "chunked scans": {"model": "nemotron-3-nano-30b-a3b", "cluster": {"node": "dgx-h100", "gpus": 1}},
    "first layers dense": {"model": "deepseek-v2", "cluster": {"node": "dgx-h100", "gpus": 8}, "layout": {"tp": 8}},
}
BUILDERS = ("attention_inputs", "attention_output", "dense_ffn_steps", "ssm_steps", "expert_steps", "feed_forward")


def parts(model: str) -> StepParts:
    serve = {"engine": "vllm", "requests": {"kind": "poisson", "rate_per_s": 1.0, "count": 8, "input_tokens": 64,
             "output_tokens": 8}}  # fmt: skip
    resolved = resolve_serve(parse_scenario({**MODELS[model], "serve": serve}))
    return StepParts(resolved.deployment.job, engine_tuning())


def one_pass(model: str) -> tuple[Any, ...]:
    """Every price of a pass: projections and blocks, experts, head, the cores of a chunk."""
    priced = parts(model)
    return (
        priced.rank.points[3],
        priced.experts(prefill=True).points[3],
        priced.head.points[3],
        priced.prefill_attention(256, 128),
    )


def renamed(build: Callable[..., list[Step]]) -> Callable[..., list[Step]]:
    """The same builder, its steps under names that say nothing."""
    numbers = count()

    def built(*given: Any, **named: Any) -> list[Step]:
        return [replace(step, name=f"step {next(numbers)}") for step in build(*given, **named)]

    return built


@pytest.mark.parametrize("model", MODELS)
def test_names_of_steps_decide_nothing(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    named = one_pass(model)
    for builder in BUILDERS:
        monkeypatch.setattr(layers, builder, renamed(getattr(layers, builder)))
    assert one_pass(model) == named


@pytest.mark.parametrize("model", MODELS)
def test_no_residual_and_no_loss_in_a_pass(model: str) -> None:
    priced = parts(model)
    ctx = layers.context(priced.job, engine_tuning(), 64)
    for kind in priced.job.arch.layers:
        taken = (
            [*layers.mixer_steps(ctx, kind), *layers.router_steps(ctx, priced.job, kind)] if kind.ffn == "moe" else []
        )
        taken += layers.dense_steps(ctx, priced.job, kind) if kind.ffn == "dense" else []
        assert {step.part for step in taken} <= {"body"}
        cores = layers.scan_steps(ctx, kind) if kind.mixer.startswith("mamba") else []
        assert all(step.part == "core" for step in cores) and (cores or not kind.mixer.startswith("mamba"))
    assert all(step.part == "body" for step in layers.head_steps(ctx))


@pytest.mark.parametrize("model", ["llama-3.1-8b", "mixtral-8x7b"])
def test_passes_of_one_rank_are_priced_as_all_others(model: str) -> None:
    """The short way through the tables gives what the long one gives."""
    scenario = parse_scenario({
        "model": model, "cluster": {"node": "dgx-h100", "gpus": 2}, "layout": {"tp": 2},
        "serve": {"engine": "vllm", "requests": {"kind": "closed", "concurrency": 4, "count": 8}},
    })  # fmt: skip
    resolved = resolve_serve(scenario)
    costs = machine_of(resolved.deployment.job, resolved.workload, resolved.tuning()).costs
    for chunks in ([(1, 0)], [(512, 4096)], [(2048, 0), (300, 700), (5, 0)]):
        for batch, cached in ((0, 0.0), (1, 900.0), (77, 1e5)):
            long = max(costs._prompt_pass(chunks, batch, cached).total_s, costs.stream_s * (batch + len(chunks)))
            assert costs.mixed(chunks, batch, cached) == pytest.approx(long, rel=1e-12)
