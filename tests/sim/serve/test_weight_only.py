"""Weights in fewer bits than tensor cores take: read narrow, computed with in 16 bits, padded as kernels store them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from moesim.hwmodels.cost import KernelCostModel, Sustained
from moesim.hwmodels.gpu import bytes_per_element, load_gpu
from moesim.hwmodels.work import Gemm, GroupedGemm
from moesim.sim.model.catalogue import load_model
from moesim.sim.question.scenario import ScenarioError, parse_scenario
from moesim.sim.serve.job import ServeJob
from moesim.sim.serve.memory import padded_share, weight_bytes
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.tiles import NarrowTiles, filled_share
from moesim.sim.serve.weight_formats import formats_of
from moesim.sim.software.serving_engine import load_engine


def asked_of(model: str, precision: str, cluster: dict[str, Any], **load: Any) -> dict[str, Any]:
    """One engine on one group of GPUs."""
    serve = {"engine": "vllm", "precision": precision, "requests": {"kind": "closed", "concurrency": 1, **load}}
    return {"model": model, "cluster": cluster, "layout": {"tp": cluster["gpus"]}, "serve": deepcopy(serve)}


def test_eight_bits_without_an_eight_bit_path_are_read_and_widened() -> None:
    """FP8 on an A100: half the bytes of bf16 in weights, no faster arithmetic than 16 bits, and the answer says so."""
    vllm, a100 = load_engine("vllm"), load_gpu("a100-sxm-80gb")
    formats = formats_of("fp8", None, load_model("qwen3-235b-a22b"), a100, vllm)
    assert (formats.attention, formats.experts, formats.kv) == ("w8a16", "w8a16", "bf16")
    one = {"gpu": "a100-sxm-80gb", "gpus": 1}
    many = {"concurrency": 256, "count": 256, "input_tokens": 512, "output_tokens": 8}
    half, eight = (predict_serve(asked_of("qwen3-32b", p, one, **many)) for p in ("bf16", "fp8"))
    assert eight.memory["weights"] == pytest.approx(0.53 * half.memory["weights"], rel=0.05)
    assert eight.ttft_s.mean > half.ttft_s.mean  # prompts are arithmetic
    assert any("weight-only" in line for line in eight.assumptions)
    few = {"count": 2, "input_tokens": 64, "output_tokens": 64}
    half, eight = (predict_serve(asked_of("qwen3-32b", p, one, **few)) for p in ("bf16", "fp8"))
    assert eight.tpot_s.mean < 0.7 * half.tpot_s.mean  # single tokens are bytes


@pytest.mark.parametrize("layout", [{}, {"ep": 4}])
def test_experts_that_are_only_stored_in_eight_bits_take_tokens_in_sixteen(layout: dict[str, int]) -> None:
    """Data-parallel attention in front of FP8 experts on A100s: what travels between ranks is 16 bits wide."""
    scenario = asked_of("deepseek-moe-16b", "fp8", {"gpu": "a100-sxm-80gb", "gpus": 4}, count=2, output_tokens=4)
    scenario["layout"] = layout
    scenario["serve"]["attention_dp"] = 4
    eight, half = (predict_serve(scenario | {"serve": scenario["serve"] | {"precision": p}}) for p in ("fp8", "bf16"))
    assert eight.memory["weights"] < 0.6 * half.memory["weights"] and half.utilisation["ep_comm"] > 0.0
    # what goes over wires is 16 bits wide for both
    sent = [p.utilisation["ep_comm"] * p.e2e_s.mean for p in (eight, half)]
    assert sent[0] == pytest.approx(sent[1], rel=0.1)


def test_four_bit_experts_are_stored_in_multiples_of_256() -> None:
    """gpt-oss: 2,880 by 2,880 become 3,072 by 3,072, where they are widened 2,944 by 3,072."""

    def share(model: str, precision: str = "fp4", node: str = "dgx-h100") -> float:
        asked = asked_of(model, precision, {"node": node, "gpus": 8})
        return padded_share(resolve_serve(parse_scenario(asked)).deployment.job)

    assert share("gpt-oss-120b", node="dgx-b200") == pytest.approx((3072 / 2880) ** 2)
    assert share("gpt-oss-120b") == pytest.approx(3072 * 2944 / 2880**2)
    asked = asked_of("gpt-oss-120b", "fp4", {"node": "dgx-h100", "gpus": 1})
    job = resolve_serve(parse_scenario(asked)).deployment.job
    _, stored = weight_bytes(job)  # layers, experts, matrices, sides as stored
    assert stored == pytest.approx(36 * 128 * 3 * 3072 * 2944 * bytes_per_element(job.formats.experts), rel=0.01)
    assert share("gpt-oss-120b", "bf16") == share("deepseek-v3") == share("llama-3.1-8b") == 1.0


def test_words_for_four_bits() -> None:
    """AWQ and GPTQ are ways to make 4-bit weights; MXFP4 is multiplied where there is a path, and widened elsewhere."""
    vllm, gptoss = load_engine("vllm"), load_model("gpt-oss-120b")
    for gpu, word, experts in (
        ("h100-sxm", "awq", "int4"), ("h100-sxm", "gptq", "int4"), ("h100-sxm", "mxfp4", "int4"),
        ("b200-hgx", "mxfp4", "mxfp4"), ("b200-hgx", "fp4", "nvfp4"), ("mi355x", "mxfp4", "mxfp4"),
    ):  # fmt: skip
        assert formats_of(word, None, gptoss, load_gpu(gpu), vllm).experts == experts
    with pytest.raises(ScenarioError, match=r"'int3' is not known; use one of .*awq, gptq"):
        formats_of("int3", None, gptoss, load_gpu("h100-sxm"), vllm)


@pytest.mark.parametrize(
    ("node", "model"),
    [
        ("hgx-h20", "llama-3.1-8b"), ("hgx-h20", "qwen3-30b-a3b"), ("dgx-h100", "llama-3.1-8b"),
        ("dgx-h100", "qwen3-30b-a3b"), ("dgx-b200", "llama-3.1-8b"),
    ],
)  # fmt: skip
def test_eight_bits_are_not_slower_than_sixteen_for_one_client(node: str, model: str) -> None:
    """On a GPU of much memory and little arithmetic too: few rows do not pay for the empty rows of wide tiles."""
    few = {"count": 2, "input_tokens": 256, "output_tokens": 64}
    half, eight = (predict_serve(asked_of(model, p, {"node": node, "gpus": 1}, **few)) for p in ("bf16", "fp8"))
    assert eight.tpot_s.mean < half.tpot_s.mean


def test_empty_rows_cost_less_and_full_tiles_the_same() -> None:
    def job(node: str) -> ServeJob:
        return resolve_serve(parse_scenario(asked_of("llama-3.1-8b", "fp8", {"node": node, "gpus": 1}))).deployment.job

    derived, measured = job("hgx-h20"), job("dgx-h100")
    model = KernelCostModel(derived.cluster, derived.kernels, Sustained())
    for rows in (1, 64, 128, 200, 4096):
        work = Gemm(rows, 4096, 4096, "fp8", "bf16")
        before, after = model.legs(work), NarrowTiles(derived).legs(work, model.legs(work))
        assert (after.fixed_s, after.bytes_s) == (before.fixed_s, before.bytes_s)
        assert after.flops_s < before.flops_s if rows % 128 else after.flops_s == before.flops_s
        assert NarrowTiles(measured).legs(work, before) == before
    few, many = (GroupedGemm((n, 0, 128), 512, 512, "fp8") for n in (1, 127))
    assert filled_share(few) == pytest.approx(129 / 256) and filled_share(many) == pytest.approx(255 / 256)
