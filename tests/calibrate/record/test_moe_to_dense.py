"""Mixtures of experts against dense models on equal terms: which rows are paired, and what is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moesim.calibrate.record.moe_to_dense import Run, pairs_of, runs_of, spread_of
from moesim.calibrate.rows.outcomes import predict_rows

MOE = Run("a", "MoE", "h100-sxm", "26.04", "fp8", "fit", measured_s_per_flop=3.0, predicted_s_per_flop=3.3)
DENSE = Run("b", "dense", "h100-sxm", "26.04", "fp8", "fit", measured_s_per_flop=2.0, predicted_s_per_flop=2.0)
ROW = {
    "model": "llama-3.1-8b", "gpu": "H100", "gpus": "8", "seq_len": "8192", "gbs": "64", "mbs": "1",
    "precision": "BF16", "tp": "1", "pp": "1", "cp": "1", "release": "Megatron-Bridge 26.04",
    "step_time_s": "6", "split": "test",
}  # fmt: skip


def test_only_equal_terms_make_a_pair() -> None:
    strangers = [
        replace(DENSE, gpu="b200-hgx"), replace(DENSE, release="26.06"), replace(DENSE, precision="bf16"),
        replace(MOE, model="c"),
    ]  # fmt: skip
    assert pairs_of([MOE, *strangers]) == []
    (pair,) = pairs_of([MOE, DENSE, *strangers[:3]])
    assert (pair.moe, pair.dense, pair.measured) == (MOE, DENSE, 1.5)
    assert pair.error_pct == pytest.approx(10.0) and pair.split == "fit"
    assert pairs_of([replace(MOE, split="test"), DENSE])[0].split == "test"
    assert len(pairs_of([MOE, replace(MOE, model="c"), DENSE, replace(DENSE, model="d")])) == 4


def test_a_common_error_leaves_the_ratio() -> None:
    slow = [replace(run, predicted_s_per_flop=2.0 * run.measured_s_per_flop) for run in (MOE, DENSE)]
    assert pairs_of(slow)[0].error_pct == pytest.approx(0.0)


def test_spread_counts_sizes_and_keeps_the_sign_of_the_middle() -> None:
    pairs = pairs_of([DENSE, *(replace(MOE, predicted_s_per_flop=3.0 * f) for f in (0.5, 0.9, 0.96, 1.02))])
    spread = spread_of(pairs)
    assert (spread.pairs, spread.p90_pct) == (4, pytest.approx(50.0))
    assert spread.median_pct == pytest.approx(7.0) and spread.middle_pct == pytest.approx(-7.0)
    with pytest.raises(ValueError, match="no pair"):
        spread_of([])


def test_rows_become_seconds_of_a_gpu_per_active_flop() -> None:
    """8 billion weights, six FLOPs each per token, attention: 64 sequences in 6 s on 8 GPUs are near 600 TFLOP/s."""
    rows = [ROW, {**ROW, "release": ""}, {**ROW, "step_time_s": ""}, {**ROW, "software": "Megatron-Bridge"}]
    (run,) = runs_of(rows, predict_rows(rows))
    assert (run.model, run.kind, run.precision, run.split) == ("llama-3.1-8b", "dense", "bf16", "test")
    assert 1.0 / run.measured_s_per_flop == pytest.approx(575e12, rel=0.06)
