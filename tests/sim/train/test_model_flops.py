"""MFU counts what the model asks for and the step executes: no dropped pairs, no gradients of frozen weights."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.sim.model.flops import flops_per_token, kept_matmul_params, matmul_params
from moesim.sim.model.params import expert_params
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prediction import Prediction

MIXTRAL: dict[str, Any] = {
    "model": "mixtral-8x7b",
    "cluster": {"node": "dgx-h100", "gpus": 32},
    "layout": {"pp": 4, "ep": 8},
    "routing": "balanced",
}
LLAMA: dict[str, Any] = {"model": "llama-3.1-8b", "cluster": {"node": "dgx-h100", "gpus": 8}, "layout": {"tp": 2}}


def predicted(base: dict[str, Any], **train: Any) -> Prediction:
    batch = {"global_batch": 64, "seq_len": 4096, **train}
    return predict_train({**base, "train": batch}, check_memory=False, events=False)


def per_token(p: Prediction) -> float:
    return p.model_flops_per_s_per_gpu * p.resolved.job.cluster.gpus / p.tokens_per_s


def test_without_drops_and_adapters_three_times_the_forward() -> None:
    for p in (predicted(MIXTRAL), predicted(LLAMA)):
        assert per_token(p) == pytest.approx(3.0 * flops_per_token(p.resolved.job.arch, 4096))


def test_dropped_pairs_are_not_counted() -> None:
    full, half = predicted(MIXTRAL), predicted(MIXTRAL, capacity_factor=0.5)
    assert half.dropped_share == pytest.approx(0.5, abs=1e-3)
    arch = full.resolved.job.arch
    experts = 6.0 * 2 * expert_params(arch) * arch.num_layers
    assert per_token(full) - per_token(half) == pytest.approx(half.dropped_share * experts)
    assert half.mfu < full.mfu
    assert kept_matmul_params(arch, [1.0] * arch.num_layers) == matmul_params(arch)


def test_frozen_weights_have_no_gradients_of_their_own() -> None:
    full, adapted = predicted(LLAMA), predicted(LLAMA, lora={"rank": 16})
    arch = full.resolved.job.arch
    frozen = 2.0 * matmul_params(arch)
    adapters = 6.0 * 16 * arch.num_layers * (5 * 4096 + 2048 + 3 * 14336 + 3 * 4096)  # inputs and outputs, at least
    assert per_token(full) - per_token(adapted) == pytest.approx(frozen, rel=0.02)
    assert per_token(full) - per_token(adapted) < frozen
    assert 0.5 * adapters < frozen - (per_token(full) - per_token(adapted)) < 2.0 * adapters


@pytest.mark.parametrize(("gpu", "precision", "format"), [("dgx-h100", "fp8", "fp8"), ("hgx-b300", "nvfp4", "fp4")])
def test_the_peak_is_that_of_the_precision(gpu: str, precision: str, format: str) -> None:
    p = predicted({**LLAMA, "cluster": {"node": gpu, "gpus": 8}}, precision=precision)
    assert p.mfu == p.model_flops_per_s_per_gpu / p.resolved.job.cluster.gpu.peak_flops_per_s[format]
