"""Every GPU of the catalogue answers in training and serving, and says whose kernels it borrows."""

from __future__ import annotations

import pytest

from moesim.hwmodels.cluster import node_for_gpu
from moesim.hwmodels.gpu import gpu_names, load_gpu
from moesim.hwmodels.profile import load_profile
from moesim.sim.serve.predict import predict_serve
from moesim.sim.train.predict import predict_train

WANTED = (
    "h20-96gb", "h800-sxm", "l40s", "a10", "l4", "rtx-4090", "rtx-5090", "rtx-pro-6000", "rtx-pro-6000-server",
    "gh200-96gb", "h100-pcie", "h100-nvl", "b300-hgx", "mi300x", "mi325x", "mi355x", "tpu-v5p", "tpu-v6e", "tpu-v7",
    "ascend-910b", "ascend-910c", "gaudi-3", "trainium2",
)  # fmt: skip


def _linked(gpu: str) -> bool:
    """Parts whose link to the host is known."""
    return load_gpu(gpu).host_link_bytes_per_s > 0.0


def test_the_parts_that_people_ask_for_are_there() -> None:
    assert set(WANTED) <= set(gpu_names())


@pytest.mark.parametrize("gpu", [g for g in gpu_names() if load_gpu(g).supports("bf16") and _linked(g)])
def test_answers_and_says_what_is_derived(gpu: str) -> None:
    cluster = {"gpu": gpu, "gpus": 1}
    train = {"global_batch": 2, "seq_len": 512}
    asked = {"model": {"base": "llama-3.1-8b", "layers": 2}, "cluster": cluster, "train": train}
    step = predict_train(asked, check_memory=False, events=False)
    load = {"kind": "closed", "concurrency": 2, "count": 4, "input_tokens": 128, "output_tokens": 8}
    served = predict_serve({"model": asked["model"], "cluster": cluster, "serve": {"requests": load}})
    lender = load_profile(gpu).derived_from
    for answer in (step, served):
        said = [line for line in answer.assumptions if line.startswith(f"kernels of {gpu} = derived from ")]
        assert bool(said) == (lender is not None)
        assert lender is None or f"derived from {lender}: " in said[0]
    assert 0.0 < step.mfu < 1.0
    assert node_for_gpu(gpu)
