"""Every word of recompute frees what it runs again and costs its forward, or is refused where a part is not there."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.sim.layers.recompute import recomputed, words_of
from moesim.sim.layers.steps import Linear
from moesim.sim.model.catalogue import load_model
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.question.sections import RECOMPUTE_MODULES
from moesim.sim.train.activations import layer_bytes
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prediction import Prediction
from moesim.sim.train.prices import StepPrices

GROUPS = ("none", "selective", "light", "full", "keep_collectives")  # words that stand for other words
PARTS = tuple(w for w in RECOMPUTE_MODULES if w not in GROUPS)
MODELS: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": {"tp": 2},
    "mixtral-8x7b": {"ep": 8},
    "deepseek-v2": {"ep": 8},
    "jamba-v0.1": {"ep": 8},
    "nemotron-3-nano-30b-a3b": {"ep": 8},
    "snowflake-arctic": {"ep": 8},
}


def predicted(model: str, layout: dict[str, Any], words: list[str]) -> Prediction:
    train = {"global_batch": 32, "seq_len": 4096, "recompute": words}
    cluster = {"node": "dgx-h200", "gpus": 16}
    scenario = {"model": model, "cluster": cluster, "layout": layout, "routing": "balanced", "train": train}
    return predict_train(scenario, check_memory=False, events=False)


def peak(p: Prediction) -> float:
    return max(m.total for m in p.memory)


@pytest.mark.parametrize("model", MODELS)
def test_frees_memory_and_costs_time_or_is_refused(model: str) -> None:
    known, layout = words_of(load_model(model)), MODELS[model]
    plain, everything = predicted(model, layout, ["none"]), predicted(model, layout, ["full"])
    for word in PARTS:
        if word not in known:
            with pytest.raises(ScenarioError, match=f"has no part that {word} would run again; use none, full"):
                predicted(model, layout, [word])
            continue
        some = predicted(model, layout, [word])
        assert peak(everything) < peak(some) < peak(plain), word
        assert plain.step_time_s < some.step_time_s < everything.step_time_s, word


def test_every_word_is_met_by_some_model() -> None:
    assert set(PARTS) == {word for model in MODELS for word in words_of(load_model(model))}


@pytest.mark.parametrize(
    ("model", "whole", "part"),
    [
        ("llama-3.1-8b", "mlp", "mlp_act"),
        ("deepseek-v2", "moe", "shared_experts"),
        ("deepseek-v2", "moe", "moe_act"),
        ("deepseek-v2", "shared_experts", "mlp_act"),
    ],
)
def test_a_part_runs_again_with_everything_inside_it(model: str, whole: str, part: str) -> None:
    layout = MODELS[model]
    alone, both = predicted(model, layout, [whole]), predicted(model, layout, [whole, part])
    inside = predicted(model, layout, [part])
    assert peak(alone) < peak(inside)
    if part != "mlp_act" or model != "deepseek-v2":  # mlp_act also names dense layers, which shared experts are not
        assert peak(both) == peak(alone) and both.step_time_s == alone.step_time_s


def test_what_transfers_brought_is_kept_where_it_is_not_sent_again() -> None:
    layout = MODELS["mixtral-8x7b"]
    sent, kept = (predicted("mixtral-8x7b", layout, w) for w in (["moe"], ["moe", "keep_collectives"]))
    assert kept.step_time_s < sent.step_time_s and peak(kept) > peak(sent)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "mixtral-8x7b"])
def test_what_runs_again_lives_again_during_its_backward(model: str) -> None:
    """Where everything is recomputed a stage without the loss still holds one whole layer."""
    layout = {**MODELS[model], "pp": 2}
    full, kept = (predicted(model, layout, [word]) for word in ("full", "none"))
    resolved = kept.resolved
    loads = StepPrices(resolved.job, resolved.kernels, resolved.tuning()).loads
    assert full.memory[0].activations >= layer_bytes(resolved.job, loads, 1)


def test_operators_keep_the_second_of_gate_and_up() -> None:
    """Every second matrix is kept: half of a joined gate and up runs again, not all of it."""
    up, down = Linear(name="mlp.up", m=64, n=2 * 512, k=128), Linear(name="mlp.down", m=64, n=128, k=512)
    plain = Linear(name="mlp.up", m=64, n=512, k=128)
    (again,) = recomputed([up, down], frozenset({"operators"}))
    assert again.n == 512
    assert recomputed([plain, down], frozenset({"operators"})) == ()  # without a gate nothing is joined
