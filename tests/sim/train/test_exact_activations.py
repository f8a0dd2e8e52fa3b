"""What layers keep for their backward pass, logits, and what is moved to the host, to the byte, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.hwmodels.units import GIB
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.job import resolve
from moesim.sim.train.memory import RankMemory, step_memory
from moesim.sim.train.prices import StepPrices

# two layers of 64: 4 heads over 2 key heads of 16, then 4 experts of 32, two for a token; 128 tokens in a sequence
HIDDEN, HEADS, KV, WIDTH, INNER, TOP_K, VOCAB, TOKENS = 64, 4, 2, 16, 32, 2, 96, 128
MODEL = {
    "name": "small", "layers": 2, "hidden": HIDDEN, "vocab": VOCAB, "pattern": "attention+moe",
    "attention": {"heads": HEADS, "kv_heads": KV, "head_dim": WIDTH}, "tied_embeddings": False, "max_context": 4096,
    "moe": {"experts": 4, "top_k": TOP_K, "expert_intermediate": INNER, "gated": True},
}  # fmt: skip
NORM = 2 * HIDDEN + 2 * HIDDEN  # its input and its output, 16 bits each
QKV, ANSWER, SUMS = 2 * (HEADS + 2 * KV) * WIDTH, 2 * HEADS * WIDTH, 4 * HEADS  # a fp32 sum of each head's softmax row
ROW = 2 * HIDDEN + 4 * INNER + 2 * INNER  # of one expert: its input, gate and up, their product
LAYER = NORM + QKV + ANSWER + SUMS + NORM + TOP_K * ROW
HEAD_INPUT = 2 * HIDDEN


def memory(layout: dict[str, Any] | None = None, stack: dict[str, Any] | None = None, **train: Any) -> list[RankMemory]:
    scenario = {
        "model": MODEL,
        "cluster": {"node": "dgx-h100", "gpus": 8},
        "layout": layout or {},
        "stack": {"name": "megatron-tuned", **(stack or {})},
        "train": {"global_batch": 8, "seq_len": TOKENS, **train},
    }
    found = resolve(parse_scenario(scenario))
    return step_memory(StepPrices(found.job, found.kernels, found.tuning()))


def test_a_layer_keeps_its_inputs() -> None:
    (found,) = memory()
    assert found.activations == pytest.approx(TOKENS * (2 * LAYER + HEAD_INPUT))
    (two,) = memory(micro_batch=2, global_batch=16)
    assert two.activations == pytest.approx(2 * found.activations)


def test_ranks_of_a_context_group_keep_their_share_and_both_sides_of_the_exchange() -> None:
    (half,) = memory({"cp": 2})
    assert half.activations == pytest.approx(TOKENS / 2 * (2 * (LAYER + QKV) + HEAD_INPUT))
    assert half.logits == pytest.approx(6.0 * TOKENS / 2 * VOCAB)


def test_a_tensor_group_shares_all_of_it_where_norms_are_split_too() -> None:
    (split,) = memory({"tp": 2, "etp": 2})
    assert split.activations == pytest.approx(
        TOKENS * (2 * (LAYER - TOP_K * 2 * HIDDEN) + HEAD_INPUT) / 2 + TOKENS * 2 * TOP_K * 2 * HIDDEN
    )  # rows come to all of a group
    (whole,) = memory({"tp": 2, "etp": 2, "sequence_parallel": False})
    extra = 2 * 2 * NORM + HEAD_INPUT
    assert whole.activations - split.activations == pytest.approx(TOKENS * extra / 2)


def test_the_first_rank_of_a_pipeline_holds_a_micro_batch_more() -> None:
    first, last = memory({"pp": 2})
    assert first.activations == pytest.approx(2 * TOKENS * LAYER)
    assert last.activations == pytest.approx(TOKENS * (LAYER + HEAD_INPUT))
    assert first.logits == 0.0 < last.logits


@pytest.mark.parametrize(
    ("stack", "layout", "each"),
    [
        ({"fused_loss": True}, {}, 2.0),  # the gradient takes the place of the logits
        ({"fused_loss": False, "logit_bytes": 6.0}, {}, 6.0),
        ({"fused_loss": False, "logit_bytes": 4.0}, {}, 4.0),
        ({"fused_loss": False, "logit_bytes": 4.0, "split_logit_bytes": 10.0}, {"tp": 2, "etp": 2}, 10.0),
        ({"fused_loss": True}, {"tp": 2, "etp": 2}, 2.0),
    ],
)
def test_logits(stack: dict[str, Any], layout: dict[str, Any], each: float) -> None:
    (found,) = memory(layout, stack)
    assert found.logits == pytest.approx(each * TOKENS * VOCAB / layout.get("tp", 1))


def test_buffers_are_the_gradient_of_the_head_one_of_every_shape_and_some_slack() -> None:
    (plain,) = memory(stack={"dummy_gradients": False})
    assert plain.buffers == pytest.approx(0.25 * GIB + 2 * VOCAB * HIDDEN)
    (dummies,) = memory(stack={"dummy_gradients": True})
    shapes = {
        ANSWER * HIDDEN,
        QKV * HIDDEN,
        2 * 2 * INNER * HIDDEN,
        2 * INNER * HIDDEN,
    }  # in 16 bits; no shared experts
    assert dummies.buffers - plain.buffers == pytest.approx(sum(shapes))
    assert plain.reserve == 2 * GIB and plain.allocated == plain.total - 2 * GIB


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_what_waits_in_host_memory_is_gone_from_the_gpu(share: float) -> None:
    (all_here,), (moved,) = memory(), memory(offload_activations=share)
    assert moved.offloaded == pytest.approx(share * TOKENS * 2 * LAYER)
    assert all_here.activations - moved.activations == pytest.approx(moved.offloaded)
    assert all_here.offloaded == 0.0 and moved.total + moved.offloaded == pytest.approx(all_here.total)


@pytest.mark.parametrize(
    ("words", "kept", "again"),
    [
        ("full", 2 * HIDDEN, LAYER),  # the layer's input alone; all of it lives again while it runs backward
        (["core_attention"], LAYER - SUMS, SUMS),
        (["layernorm"], LAYER - 2 * 2 * HIDDEN, 2 * 2 * HIDDEN),
        (["moe_act"], LAYER - TOP_K * 2 * INNER, TOP_K * 2 * INNER),
        (["moe"], LAYER - TOP_K * ROW, TOP_K * ROW),
    ],
)
def test_what_runs_again_keeps_nothing_and_lives_once(words: str | list[str], kept: int, again: int) -> None:
    """What lives again of one layer shares its room with the logits, which are over by then."""
    (found,) = memory(recompute=words)
    logits = 6.0 * VOCAB
    assert found.activations == pytest.approx(TOKENS * (2 * kept + HEAD_INPUT + max(0.0, again - logits)))


def test_masters_that_are_sharded_are_the_weights() -> None:
    """ZeRO-3 of FSDP: 4 bytes of fp32 weight in place of 16 bits, and 12 - 4 bytes of state, over all ranks."""
    (apart,), (one,) = (memory({"zero": 3}, {"sharded_masters": sharded}) for sharded in (False, True))
    assert one.weights == pytest.approx(2.0 * apart.weights)
    assert one.optimizer == pytest.approx(8.0 / 12.0 * apart.optimizer)
    (kept,), (early,) = (memory({"zero": 1}, {"sharded_masters": sharded}) for sharded in (False, True))
    assert kept.weights == early.weights and kept.optimizer == early.optimizer


def test_where_every_second_operator_runs_again_half_the_projections_and_the_core_stay() -> None:
    """Per token: the layer's input, queries or keys and values of half the width, the core's answer and sums; of
    experts the rows that came and their answers, and the block's input."""
    attention = 2 * HIDDEN + 2 * HEADS * WIDTH + 2 * KV * WIDTH + (2 * WIDTH + 4) * HEADS
    experts = 4 * TOP_K * HIDDEN + 2 * HIDDEN
    kept = attention + experts
    (found,) = memory(stack={"selective": "operators"}, recompute="selective")
    again = LAYER - kept
    assert found.activations == pytest.approx(TOKENS * (2 * kept + HEAD_INPUT + max(0.0, again - 6.0 * VOCAB)))


def test_an_optimizer_without_states_keeps_none() -> None:
    """Weights in fp32 are all of a plain gradient descent: 4 bytes of masters, sharded, and nothing beside them."""
    (found,) = memory({"zero": 3}, {"sharded_masters": True, "master_dtype_bytes": 4.0})
    assert found.optimizer == 0.0 < found.weights
