"""Dispatch by one-hot masks: slots, products and traffic by hand; buffers of a capacity travel whole."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from moesim import StackError, predict_train
from moesim.hwmodels.cluster import build_cluster
from moesim.hwmodels.work import ExpertExchange, Gemm, Stream
from moesim.sim.layers.graph import Op
from moesim.sim.layers.masks import Masks, built_bytes, masks_of
from moesim.sim.layout.pipeline import Slot
from moesim.sim.plan.train.judge import Judge
from moesim.sim.plan.train.space import Candidate
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.software.stack import Stack, Tuning, load_stack
from moesim.sim.train.job import resolve
from tests.laws.jobs import MOE, job, prices_of

TOKENS, WIDTH, EXPERTS = 2048, 1024, 16


def _stack(name: str) -> Stack:
    return load_stack(name, build_cluster("tpu-v3-pod", 16), {})[0]


def _ops(phase: str, **train: Any) -> list[Op]:
    segment = prices_of(job(MOE, 8, {"ep": 8}, **train)).segment(Slot(phase, 0, 0))
    return [op for op in segment.ops if op.block == 1]


def test_capacity_is_whole_rows_of_every_group() -> None:
    switch = masks_of(65536, 128, 1, 1.25, _stack("mesh-tensorflow"))
    assert switch == Masks(tokens=1024, capacity=10, experts=128) and switch.factor(1) == 1.25
    gshard = masks_of(4096, 2048, 2, 1.0, _stack("gspmd"))  # two rows of 2,048 tokens become four
    assert gshard == Masks(tokens=2048, capacity=4, experts=2048) and gshard.factor(2) == 2.0
    assert masks_of(4096, 512, 2, 1.25, _stack("gspmd")).capacity == 12  # ten rows, in fours
    few = masks_of(512, 128, 1, 1.0, _stack("mesh-tensorflow"))  # less than a group
    assert (few.tokens, few.capacity) == (512, 4)
    eager = masks_of(16384, 32, 2, 1.0, _stack("megatron-core"))
    assert (eager.tokens, eager.slots) == (16384, 32768)


def test_masks_cost_their_products_and_their_bytes() -> None:
    einsum = {"stack": {"name": "megatron-core", "dispatcher": "einsum"}, "capacity_factor": 1.25}
    slots = TOKENS * 2 * 1.25
    there = {op.name: op for op in _ops("F", **einsum)}
    assert there["moe.mask_dispatch"].work == Gemm(int(slots), WIDTH, TOKENS, "bf16")
    assert there["moe.mask_combine"].work == Gemm(int(slots), WIDTH, TOKENS, "bf16")
    built = there["moe.masks"].work
    capacity = slots / EXPERTS
    by_hand = TOKENS * (4.0 * slots * 7.5 + 2 * (EXPERTS * 134 + capacity * 20))
    assert isinstance(built, Stream) and built.bytes == pytest.approx(by_hand)
    assert not {"moe.permute", "moe.sort", "moe.unsort", "moe.unpermute"} & set(there)
    back = [op for op in _ops("B", **einsum) if "mask_" in op.name]
    flops = [2.0 * op.work.m * op.work.n * op.work.k for op in back if isinstance(op.work, Gemm)]
    assert flops == pytest.approx([2.0 * slots * WIDTH * TOKENS] * 3)


def test_masks_that_xla_fuses_move_fewer_bytes() -> None:
    eager, fused = (built_bytes(8.0, Masks(8, 2, 4), 1, name, Tuning()) for name in ("fairseq", "mesh-tensorflow"))
    assert fused == 8 * 4.0 * 8 * 1.5
    assert eager == 8 * (4.0 * 8 * 7.5 + 4 * 134 + 2 * 20)


@pytest.mark.parametrize(
    ("dispatcher", "factor", "travels"), [("alltoall", 2.0, 2.0), ("einsum", 2.0, 2.0), ("deepep", 2.0, 1.0)]
)
def test_buffers_of_a_capacity_travel_whole(dispatcher: str, factor: float, travels: float) -> None:
    """Where copies go per expert; DeepEP sends what a token needs."""
    ops = _ops("F", stack={"name": "megatron-core", "dispatcher": dispatcher}, capacity_factor=factor)
    sent = [op.work for op in ops if isinstance(op.work, ExpertExchange)]
    assert [work.tokens for work in sent] == [TOKENS * travels] * 2


def test_copies_without_a_capacity_send_what_there_is() -> None:
    ops = _ops("F", stack="megatron-core")
    assert {op.work.tokens for op in ops if isinstance(op.work, ExpertExchange)} == {TOKENS}


def test_masks_kept_for_the_backward_need_memory() -> None:
    stacks = ({"name": "megatron-core", "dispatcher": word} for word in ("alltoall", "einsum"))
    copied, masked = (
        predict_train(job(MOE, 8, {"ep": 8}, stack=stack, capacity_factor=1.0)).memory[0].activations
        for stack in stacks
    )
    assert masked - copied == pytest.approx(8 * 2 * 2.0 * TOKENS * 2 * TOKENS)  # layers, masks, bytes, slots x tokens


def test_an_answer_says_which_capacity_masks_make() -> None:
    scenario = job(MOE, 8, {"ep": 8}, stack="mesh-tensorflow")
    said = resolve(parse_scenario(scenario)).assumptions
    assert any("capacity_factor = 1.25 (not stated): 1.25 in whole rows" in line for line in said)
    few = resolve(parse_scenario(job({**MOE, "moe": {**MOE["moe"], "experts": 2048}}, 8, {"ep": 8}, stack="gspmd")))
    assert few.job.capacity_factor == 2.0  # four rows of 2,048 experts for 2,048 tokens


def test_a_plan_over_dispatchers_gives_the_numbers_of_its_rows() -> None:
    """Whole rows depend on micro-batch and dispatcher: every candidate has its own."""
    small = {**MOE, "moe": {**MOE["moe"], "experts": 96, "top_k": 1}}
    scenario = job(small, 8, {"ep": 8}, stack="megatron-core", seq_len=100, capacity_factor=1.25, global_batch=16)
    judge = Judge(parse_scenario(scenario))
    for word, micro_batch in product(("alltoall", "einsum"), (1, 2)):
        layout = resolve(parse_scenario(scenario)).job.layout
        candidate = Candidate(layout, micro_batch, "none", word)
        own = {**scenario, "stack": {"name": "megatron-core", "dispatcher": word}}
        own["train"] = {**scenario["train"], "micro_batch": micro_batch}
        assert judge.job(candidate).capacity_factor == resolve(parse_scenario(own)).job.capacity_factor


def test_a_dense_model_has_no_masks() -> None:
    dense = resolve(parse_scenario(job("llama-2-7b", 8, {}, stack="mesh-tensorflow")))
    assert dense.job.capacity_factor is None and not any("whole rows" in line for line in dense.assumptions)


def test_unknown_dispatchers_name_the_masks_too() -> None:
    with pytest.raises(StackError, match="einsum"):
        resolve(parse_scenario(job(MOE, 8, {"ep": 8}, stack={"name": "megatron-core", "dispatcher": "one hot mask"})))
