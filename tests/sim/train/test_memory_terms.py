"""Terms of training memory by themselves: inputs of linear layers by format, whole weights beside logits, headroom."""

from __future__ import annotations

from typing import Any

import pytest

from moesim import predict_train
from moesim.hwmodels.gpu import bytes_per_element
from moesim.hwmodels.units import GIB
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.activations import attention_bytes, layer_bytes
from moesim.sim.train.fitting import headroom_note
from moesim.sim.train.job import TrainJob, resolve
from moesim.sim.train.memory import RankMemory, step_memory
from moesim.sim.train.prices import StepPrices


def prices(stack: Any = "megatron-tuned", model: str = "llama-3.1-8b", zero: int = 1, **train: Any) -> StepPrices:
    scenario = {
        "model": model,
        "cluster": {"node": "dgx-b200", "gpus": 8},
        "layout": {"zero": zero},
        "stack": stack,
        "train": {"global_batch": 8, "seq_len": 8192, **train},
    }
    found = resolve(parse_scenario(scenario))
    return StepPrices(found.job, found.kernels, found.tuning())


def job(**what: Any) -> TrainJob:
    return prices(**what).job


@pytest.mark.parametrize("precision", ["fp8", "mxfp8", "nvfp4"])
def test_linear_layers_keep_their_inputs_in_the_format_they_multiply_in(precision: str) -> None:
    """Of a dense layer: both norms' outputs and the product of gate and up; the core's answer is there in both."""
    wide, narrow = (layer_bytes(job(precision=p), [None] * 32, 0) for p in ("bf16", precision))
    size, hidden, inner = bytes_per_element(precision), 4096, 14336
    saved = (2.0 - size) * (2 * hidden + inner) - size * hidden
    assert (wide - narrow) / 8192 == pytest.approx(saved)


def test_stacks_that_cast_again_keep_sixteen_bits() -> None:
    for stack in ("torchtitan", "megatron-2021"):
        assert attention_bytes(job(stack=stack, precision="fp8")) == attention_bytes(job(stack=stack))
    own = {"name": "megatron-tuned", "quantised_inputs": False}
    assert attention_bytes(job(stack=own, precision="fp8")) == attention_bytes(job(stack=own))


def test_whole_weights_of_layers_do_not_meet_the_logits() -> None:
    """Under ZeRO-3: while the loss is computed the head is whole; layers and their gradients when it is over."""
    arch = job().arch
    head, layer = 2.0 * arch.vocab * arch.hidden, 218_112_000

    def fullest(**train: Any) -> RankMemory:
        return step_memory(prices(stack="torchtitan", zero=3, **train))[0]

    long, short = fullest(recompute="full"), fullest(recompute="full", seq_len=128)
    assert long.logits > 8 * layer > head
    slack = 0.25 * GIB + head  # the gradient of the head is there in both
    assert long.buffers == pytest.approx(slack + head, rel=1e-3)
    assert short.buffers + short.logits > slack + head
    assert short.buffers == pytest.approx(slack + layer * (2 * 2 + 2 + 4) - short.logits, rel=0.02)


def test_a_full_gpu_is_said() -> None:
    found = prices()
    usable = found.job.cluster.gpu.usable_bytes

    def note(share: float) -> str:
        parts = dict.fromkeys(("weights", "gradients", "optimizer", "activations", "logits"), 0.0)
        memory = RankMemory(rank=0, **parts, buffers=share * usable - 2 * GIB, reserve=2 * GIB)
        return headroom_note(found, [memory])

    assert note(0.9951).startswith("memory: stage 0 fills 99.5% of a GPU, 0.9 GiB are left")
    assert note(0.98) == "" == note(1.01)


def test_an_answer_of_a_full_gpu_carries_the_note() -> None:
    scenario: dict[str, Any] = {"model": "llama-3.1-8b", "cluster": {"node": "dgx-h100", "gpus": 8}}

    def answer(length: int) -> tuple[float, bool]:
        asked = {**scenario, "train": {"global_batch": 8, "seq_len": length}}
        p = predict_train(asked, check_memory=False, events=False)
        said = any(line.startswith("memory: stage") for line in p.assumptions)
        return max(m.total for m in p.memory) / p.usable_bytes, said

    short, long = answer(4096)[0], answer(8192)[0]
    fitting = 4096 + int((0.995 - short) / (long - short) * 4096)  # memory grows with the length
    share, said = answer(fitting)
    assert 0.99 < share < 1.0 and said
    assert not answer(fitting * 9 // 10)[1]
