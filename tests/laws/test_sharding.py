"""Sharded parameters: what travels, what is held and what the optimizer updates agree on how many GPUs share a copy."""

from __future__ import annotations

from typing import Any

import pytest
from jobs import DENSE, MOE, job, prices_of

from moesim.hwmodels.work import Comm
from moesim.sim.layout.pipeline import Slot
from moesim.sim.train.memory import rank_memory
from moesim.sim.train.segments import Variant
from moesim.sim.train.step import optimizer_s


def _gathered(scenario: dict[str, Any], phase: str = "F") -> float:
    """Bytes of every all-gather in one segment of the first stage."""
    prices = prices_of(scenario)
    segment = prices.segment(Slot(phase, 0, 0, 1, 0), Variant(gather=True))
    return sum(op.work.bytes for op in segment.ops if isinstance(op.work, Comm) and op.stream == "gather")


def test_hybrid_shards_update_and_keep_the_same_share() -> None:
    whole, hybrid = (prices_of(job(DENSE, 16, {"zero": 3, **more})) for more in ({}, {"zero_group": 8}))
    assert optimizer_s(hybrid, 0) == pytest.approx(2.0 * optimizer_s(whole, 0))
    assert rank_memory(hybrid, 0).optimizer == pytest.approx(2.0 * rank_memory(whole, 0).optimizer)


def test_hybrid_shards_of_experts_stay_inside_the_sharding_group() -> None:
    layout = {"zero": 3, "zero_group": 8, "ep": 4}
    lay = prices_of(job(MOE, 32, layout)).job.layout
    assert (lay.edp, lay.expert_shards) == (8, 2)
    cluster = prices_of(job(MOE, 32, layout)).job.cluster
    assert lay.group("edp", cluster).ranks * lay.group("edp_replicas", cluster).ranks == lay.edp


def test_frozen_weights_are_gathered_too() -> None:
    """LoRA on FSDP: the base model is sharded and must be whole while it computes."""
    full = _gathered(job(DENSE, 8, {"zero": 3}))
    lora = _gathered(job(DENSE, 8, {"zero": 3}, lora={"rank": 8}))
    quantised = _gathered(job(DENSE, 8, {"zero": 3}, lora={"rank": 8, "base_dtype": "nf4"}))
    assert full <= lora < 1.1 * full
    assert quantised < 0.4 * full
    assert _gathered(job(DENSE, 8, {"zero": 1}, lora={"rank": 8})) < 0.1 * full


def test_dualpipe_gathers_for_both_of_its_halves() -> None:
    scenario = job(DENSE, 16, {"pp": 4, "zero": 3, "schedule": "dualpipe"}, global_batch=64)
    both = _gathered(scenario, "FB")
    assert both == pytest.approx(_gathered(scenario, "F") + _gathered(scenario, "B"))
