"""Memory of stacks on PyTorch's FSDP2 against what their authors report, and of the loss by stack."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.hwmodels.units import GIB
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.software.stack import StackError
from moesim.sim.train.job import resolve
from moesim.sim.train.memory import RankMemory, step_memory
from moesim.sim.train.prices import StepPrices

NODE = "hgx-h100-500w"


def fullest(model: str, gpus: int, micro_batch: int, recompute: str, tp: int, stack: Any, **layout: Any) -> RankMemory:
    train = {"global_batch": gpus // tp * micro_batch, "micro_batch": micro_batch, "seq_len": 8192}
    scenario = {
        "model": model,
        "cluster": {"node": NODE, "gpus": gpus},
        "layout": {"tp": tp, "zero": 3, **layout},
        "stack": stack,
        "train": {**train, "recompute": recompute},
    }
    job = resolve(parse_scenario(scenario))
    return max(step_memory(StepPrices(job.job, job.kernels, job.tuning())), key=lambda m: m.total)


@pytest.mark.parametrize(
    ("gpus", "eager_gib", "compiled_gib"),
    [(8, 81.9, 77.0), (128, 67.0, 62.1)],  # torchtitan, arXiv:2410.06511, Llama 3.1 8B, selective, local batch 2
)
def test_llama_8b_as_torchtitan_reports_it(gpus: int, eager_gib: float, compiled_gib: float) -> None:
    total = fullest("llama-3.1-8b", gpus, 2, "selective", 1, "torchtitan").total / GIB
    assert 0.92 * compiled_gib < total < 1.08 * eager_gib


def test_llama_70b_under_tensor_parallelism() -> None:
    """The same paper, 256 GPUs, tensor groups of 8, local batch 16, everything recomputed: 70.3 GiB."""
    assert fullest("llama-3.1-70b", 256, 16, "full", 8, "torchtitan").total / GIB == pytest.approx(70.3, rel=0.08)


def test_the_shard_is_the_master() -> None:
    """FSDP2 keeps 16 bytes a parameter: weight, gradient and two moments, all in fp32."""
    m = fullest("llama-3.1-8b", 8, 1, "full", 1, "torchtitan")
    assert (m.weights + m.gradients + m.optimizer) / (8.03e9 / 8) == pytest.approx(16.0, rel=1e-2)
    whole = fullest("llama-3.1-8b", 8, 1, "full", 1, "torchtitan", zero=1)
    assert whole.weights / (8.03e9) == pytest.approx(2.0, rel=1e-2)  # a 16-bit copy stays on every GPU


def test_logits_by_stack_and_loss() -> None:
    tokens, vocab = 8192, 128256
    for stack, tp, each in (
        ("torchtitan", 1, 14.0),
        ("torchtitan", 8, 17.6 / 8),
        ({"name": "torchtitan", "fused_loss": True}, 1, 2.0),
        ("megatron-tuned", 1, 6.0),
        ("composer-fsdp", 1, 4.0),
        ("megatron-core", 1, 2.0),
    ):
        assert fullest("llama-3.1-8b", 8, 1, "none", tp, stack).logits == pytest.approx(each * tokens * vocab)
    with pytest.raises(StackError, match=r"stack.logit_bytes=-1 must be bytes per logit between 0 and 64"):
        fullest("llama-3.1-8b", 8, 1, "none", 1, {"name": "torchtitan", "logit_bytes": -1})


def test_what_runs_again_does_not_come_on_top_of_the_loss() -> None:
    """Logits are gone when a layer runs again: the larger of the two counts, not their sum."""
    m = fullest("llama-3.1-8b", 8, 4, "full", 1, "torchtitan")
    kept = 32 * 2 * 4096 * 4 * 8192 + 2 * 4096 * 4 * 8192  # inputs of the layers, and of the head
    assert m.activations == pytest.approx(kept)
