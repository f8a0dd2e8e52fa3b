"""Weights, gradients and optimizer states, and what is gathered and reduced of them, to the byte, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.hwmodels.work import Attention, Comm, Gemm, Group, GroupedGemm
from moesim.sim.layout.pipeline import Slot
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.job import resolve
from moesim.sim.train.memory import step_memory
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import lower_bounds_s

# two layers: attention 4 heads over 2 key heads of 8, 32 wide; four experts of 16, one of two for a token
HIDDEN, INNER, EXPERTS, VOCAB = 32, 16, 4, 96
MODEL = {
    "name": "small", "layers": 2, "hidden": HIDDEN, "vocab": VOCAB, "pattern": "attention+moe",
    "attention": {"heads": 4, "kv_heads": 2, "head_dim": 8}, "tied_embeddings": False, "max_context": 4096,
    "moe": {"experts": EXPERTS, "top_k": 2, "expert_intermediate": INNER, "gated": True},
}  # fmt: skip
ATTENTION = HIDDEN * (4 + 2 * 2) * 8 + 4 * 8 * HIDDEN
NORMS, ROUTER, EXPERT = 2 * HIDDEN, HIDDEN * EXPERTS, 3 * HIDDEN * INNER
DENSE_LAYER = ATTENTION + NORMS + ROUTER
TABLES = 2 * VOCAB * HIDDEN  # embedding and head; the last norm is left out, as a few weights


def prices(layout: dict[str, Any], **train: Any) -> StepPrices:
    scenario = {
        "model": MODEL,
        "cluster": {"node": "dgx-h100", "gpus": 8},
        "layout": layout,
        "stack": "megatron-tuned",
        "train": {"global_batch": 8, "seq_len": 128, **train},
    }
    found = resolve(parse_scenario(scenario))
    return StepPrices(found.job, found.kernels, found.tuning())


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize(("ep", "held"), [(1, 4), (2, 2), (4, 1)])
def test_states_of_a_gpu(zero: int, ep: int, held: int) -> None:
    """bf16 weights and gradients, 12 bytes of optimizer; dense states over 8 ranks, experts' over the 8 / ep that
    hold the same ones."""
    memory = step_memory(prices({"ep": ep, "zero": zero}))[0]
    dense, expert = 2 * DENSE_LAYER + TABLES, 2 * held * EXPERT
    ways = [(1, 1)] * 3
    for stage, part in ((1, 2), (2, 1), (3, 0)):
        if zero >= stage:
            ways[part] = (8, 8 // ep)
    weights, gradients, optimizer = (
        width * (dense / over + expert / over_expert)
        for width, (over, over_expert) in zip((2, 2, 12), ways, strict=True)
    )
    assert memory.weights == pytest.approx(weights)
    assert memory.gradients == pytest.approx(gradients)
    assert memory.optimizer == pytest.approx(optimizer)


def test_states_of_a_tensor_parallel_rank() -> None:
    """Half of all: norms and the router, a few weights that each rank has whole, are counted with the rest."""
    memory = step_memory(prices({"tp": 2, "etp": 2, "zero": 0}))[0]
    params = 2 * (DENSE_LAYER + EXPERTS * EXPERT) + TABLES
    assert memory.weights == pytest.approx(2.0 * params / 2)
    assert memory.optimizer == pytest.approx(12.0 * params / 2)


def test_states_of_pipeline_ranks() -> None:
    """A layer each; the embedding with the first, the head with the last."""
    first, last = (m.weights for m in step_memory(prices({"pp": 2, "zero": 0})))
    layer = DENSE_LAYER + EXPERTS * EXPERT
    assert first == pytest.approx(2.0 * (layer + VOCAB * HIDDEN))
    assert last == pytest.approx(first)


def test_an_offloaded_optimizer_leaves_the_gpu() -> None:
    kept, moved = (step_memory(prices({"zero": 1}, offload_optimizer=off))[0] for off in (False, True))
    assert kept.optimizer > 0.0 == moved.optimizer and moved.weights == kept.weights


def exchanged(layout: dict[str, Any], **train: Any) -> dict[str, Comm]:
    """Gathers and reductions of one layer."""
    factory = prices(layout, **train).factory
    kind = factory._ctx.arch.layers[0]
    return dict([*factory.gathers("layer", kind), *factory.reductions("layer", kind)])


@pytest.mark.parametrize("zero", [0, 1, 3])
def test_parameters_are_gathered_and_gradients_reduced_over_who_shares_them(zero: int) -> None:
    found = exchanged({"ep": 2, "zero": zero})
    op = "all_reduce" if zero == 0 else "reduce_scatter"
    dense, expert = 2.0 * DENSE_LAYER, 2.0 * 2 * EXPERT
    assert found["all_gather.dense"].bytes == dense and found[f"{op}.dense"].bytes == dense
    assert found["all_gather.expert"].bytes == expert and found[f"{op}.expert"].bytes == expert
    assert found[f"{op}.dense"].group == Group(8, 8) and found[f"{op}.expert"].group.ranks == 4


def test_adapters_alone_are_trained_and_what_is_frozen_is_gathered_only_where_it_is_sharded() -> None:
    """Rank 4 beside each linear layer: 4 x (what goes in + what comes out)."""
    adapters = 4 * ((HIDDEN + 64) + (HIDDEN + HIDDEN))
    sharded, whole = (exchanged({"ep": 2, "zero": zero}, lora={"rank": 4}) for zero in (3, 1))
    trained = sharded["reduce_scatter.dense"].bytes
    assert trained == pytest.approx(2.0 * adapters)
    assert whole["all_gather.dense"].bytes == pytest.approx(trained)
    assert sharded["all_gather.dense"].bytes == pytest.approx(trained + 2.0 * DENSE_LAYER)
    own = whole["all_gather.expert"].bytes if "all_gather.expert" in whole else 0.0
    assert sharded["all_gather.expert"].bytes == pytest.approx(own + 2.0 * 2 * EXPERT)


@pytest.mark.parametrize(("base", "each"), [("bf16", 2.0), ("fp8", 1.0), ("nf4", 0.516)])
def test_frozen_weights_are_held_in_the_format_of_the_base(base: str, each: float) -> None:
    """NF4: four bits, and a scale of 8 bits for every 64 with one of 32 bits for every 256 of those: 4.127 bits."""
    assert each == pytest.approx({"bf16": 16, "fp8": 8, "nf4": 4 + 8 / 64 + 32 / (64 * 256)}[base] / 8, abs=5e-4)
    found = prices({"zero": 0}, lora={"rank": 4, "base_dtype": base})
    memory, dense, expert = step_memory(found)[0], 2 * DENSE_LAYER + TABLES, 2 * EXPERTS * EXPERT
    trained = memory.gradients / 2.0  # bf16
    assert memory.weights == pytest.approx(each * (dense + expert) + 2.0 * trained)
    assert 0.0 < trained < 0.5 * dense and memory.optimizer == pytest.approx(12.0 * trained)


def test_floors_of_a_step_are_its_products_at_the_rates_of_the_data_sheet() -> None:
    """One GPU, one micro-batch: bytes of matrix products over HBM, FLOPs over the peak, counted op by op."""
    found = prices({"zero": 0, "ep": 1}, global_batch=8)
    gpu = found.job.cluster.gpu
    ops = [op for slot in ("F", "B") for op in found.segment(Slot(slot, 0, 0)).ops]
    products = [op for op in ops if isinstance(op.work, Gemm | GroupedGemm)]
    bounds = lower_bounds_s(found)
    assert found.job.micro_batches == 1 and len(products) > 10
    assert bounds["hbm"] == pytest.approx(sum(op.work.bytes * op.scale for op in products) / gpu.hbm_bytes_per_s)
    computed = [op for op in ops if isinstance(op.work, Gemm | GroupedGemm | Attention)]
    assert bounds["flops"] == pytest.approx(sum(op.work.flops / gpu.peak(op.work.dtype) for op in computed))
    assert bounds["nic"] == 0.0 and set(bounds) == {"flops", "hbm", "nic"}
    twice = lower_bounds_s(prices({"zero": 0, "ep": 1}, global_batch=16))
    assert twice["hbm"] == pytest.approx(2.0 * bounds["hbm"]) and twice["flops"] == pytest.approx(2.0 * bounds["flops"])
