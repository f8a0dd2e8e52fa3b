"""Sparse attention: a core on the chosen keys, an indexer on all of them, both from the fields of the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from moesim.hwmodels.work import Attention
from moesim.sim.layers.blocks import layer_steps
from moesim.sim.layers.context import LayerContext
from moesim.sim.layers.steps import Core, Linear, Step
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.job import resolve
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prices import StepPrices

TOP_K, INDEX_HEADS, INDEX_DIM = 2048, 32, 128  # of glm-5


def question(seq_len: int, node: str = "dgx-h200", cp: int = 1, **train: Any) -> dict[str, Any]:
    return {
        "model": {"base": "glm-5", "layers": 4},
        "cluster": {"node": node, "gpus": 8},
        "layout": {"ep": 8, "cp": cp},
        "routing": "balanced",
        "train": {"global_batch": 16, "seq_len": seq_len, **train},
    }


def attention(seq_len: int, node: str = "dgx-h200", cp: int = 1) -> dict[str, Step]:
    resolved = resolve(parse_scenario(question(seq_len, node, cp)))
    job = resolved.job
    ctx = LayerContext(
        job.arch, job.layout, job.cluster, job.stack, resolved.tuning(), job.micro_batch, job.seq_len, job.precision
    )
    kind = replace(job.arch.layers[0], ffn="none")
    return {step.name: step for step in layer_steps(ctx, kind)}


def core(steps: dict[str, Step], name: str = "attention.core") -> Attention:
    step = steps[name]
    assert isinstance(step, Core)
    return step.work


@pytest.mark.parametrize("seq_len", [512, TOP_K])
def test_short_sequences_are_dense_and_choose_nothing(seq_len: int) -> None:
    steps = attention(seq_len)
    assert "attention.index" not in steps and core(steps).window is None and core(steps).qk_dim == 256


def test_the_core_grows_with_the_length_the_indexer_with_its_square() -> None:
    short, long = attention(32768), attention(65536)
    assert core(long).flops / core(short).flops == pytest.approx(2.0, rel=0.04)
    index = [core(steps, "attention.index").flops for steps in (short, long)]
    assert index[1] / index[0] == pytest.approx(4.0, rel=1e-3)
    assert index[1] == pytest.approx(2.0 * (65536 * 65537 / 2) * INDEX_HEADS * INDEX_DIM)
    step = long["attention.index"]
    assert isinstance(step, Core) and step.backward_work is not None  # it learns from the chosen keys
    assert step.backward_work.score_elements == core(long).score_elements


def test_no_core_does_more_than_the_dense_one() -> None:
    """Heads that share chosen latents are wider: below four times the chosen keys masking costs less."""
    for seq_len in (3000, 4096, 8192, 16384):
        a = core(attention(seq_len))
        dense = 2.0 * (seq_len * (seq_len + 1) / 2) * 64 * 512
        assert a.flops <= dense * (1 + 1e-9)
    assert core(attention(4096)).qk_dim == 256 and core(attention(16384)).qk_dim == 576


def test_scores_run_in_eight_bits_where_the_gpu_can() -> None:
    assert core(attention(8192), "attention.index").dtype == "fp8"
    assert core(attention(8192, "dgx-a100"), "attention.index").dtype == "bf16"


def test_projections_hold_the_weights_of_the_indexer() -> None:
    steps = attention(8192)
    weights = 0
    for name in ("attention.index_q", "attention.index_k"):
        step = steps[name]
        assert isinstance(step, Linear)
        weights += step.n * step.k
    assert weights == 2048 * INDEX_HEADS * INDEX_DIM + 6144 * (INDEX_DIM + INDEX_HEADS)


def test_context_parallelism_splits_both() -> None:
    one, four = attention(65536), attention(65536, cp=4)
    for name in ("attention.core", "attention.index"):
        assert core(four, name).flops * 4 == pytest.approx(core(one, name).flops, rel=0.03)


def test_a_long_step_costs_a_fraction_of_full_attention() -> None:
    asked = question(131072, recompute=["full"])
    sparse = predict_train(asked, check_memory=False, events=False)
    resolved = resolve(parse_scenario(asked))
    a = resolved.job.arch.attention
    assert a is not None
    full = replace(resolved.job.arch, attention=replace(a, index_top_k=None, index_heads=None, index_head_dim=None))
    job = replace(resolved.job, arch=full)
    dense = StepPrices(job, resolved.kernels, resolved.tuning())
    sparse_prices = StepPrices(resolved.job, resolved.kernels, resolved.tuning())

    def seconds(prices: StepPrices) -> float:
        ops = [op for phase in "FB" for op in prices.factory.segment(phase, prices.chunks[0]).ops]
        return sum(prices.model.cost(op.work).time_s * op.scale for op in ops if op.category == "attention")

    assert 0.02 < seconds(sparse_prices) / seconds(dense) < 0.3
    assert 0.0 < sparse.mfu < 1.0
