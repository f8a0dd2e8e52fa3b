"""Serving takes the checkpoint's formats where a scenario names none: memory, time and what is said follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moesim.sim.comparison.twin import twin_scenario
from moesim.sim.model.catalogue import load_model
from moesim.sim.model.writing import as_mapping
from moesim.sim.question.scenario import ScenarioError, parse_scenario
from moesim.sim.serve.memory import weight_bytes
from moesim.sim.serve.resolve import resolve_serve

_CONFIGS = Path(__file__).parents[1] / "model" / "hf_configs"
_IGNORED = ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*"]
_INT4_EXPERTS = {
    "quant_method": "compressed-tensors",
    "config_groups": {"g": {"weights": {"num_bits": 4, "type": "int"}, "targets": ["Linear"]}},
    "ignore": _IGNORED,
}


def _asked(name: str, quantisation: dict[str, Any] | None, node: str = "dgx-h100", **serve: Any) -> Any:
    config = json.loads((_CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    if quantisation is not None:
        config["quantization_config"] = quantisation
    load = {"kind": "closed", "concurrency": 1, "count": 1, "input_tokens": 100, "output_tokens": 4}
    scenario = {"model": config, "cluster": {"node": node, "gpus": 8}, "layout": {"tp": 8}}
    return resolve_serve(parse_scenario({**scenario, "serve": {"requests": load, **serve}}))


def test_experts_in_four_bits_beside_attention_in_sixteen() -> None:
    asked = _asked("qwen3-30b-a3b", _INT4_EXPERTS)
    job = asked.deployment.job
    assert (job.formats.attention, job.formats.dense, job.formats.experts) == ("bf16", "bf16", "int4")
    assert any(
        line.startswith("weights = as published (quantization_config compressed-tensors): attention bf16, experts int4")
        for line in asked.assumptions
    )
    # 48 layers x 128 experts x 3 matrices of 2048 x 768, 0.5 + 2 / 128 bytes each, over 8 GPUs, padded to 128 by 256
    assert weight_bytes(job)[1] == pytest.approx(48 * 128 * 3 * 2048 * 768 * (0.5 + 2 / 128) / 8)


def test_what_the_scenario_states_comes_first() -> None:
    stated = _asked("qwen3-30b-a3b", _INT4_EXPERTS, precision="bf16")
    assert stated.deployment.job.formats.experts == "bf16"
    assert not any("as published" in line for line in stated.assumptions)
    plain = _asked("qwen3-30b-a3b", None)
    assert plain.deployment.job.formats == stated.deployment.job.formats


def test_dense_blocks_in_four_bits_beside_attention_in_eight() -> None:
    groups = {
        "a": {
            "weights": {"num_bits": 8, "type": "float"},
            "input_activations": {"num_bits": 8},
            "targets": ["re:.*self_attn.*"],
        },
        "b": {
            "weights": {"num_bits": 4, "type": "float", "group_size": 16},
            "input_activations": {"num_bits": 4},
            "targets": ["re:.*mlp.*_proj"],
        },
    }
    found = {"quant_method": "compressed-tensors", "config_groups": groups}
    asked = _asked("qwen3-32b", found, node="dgx-b200")
    formats = asked.deployment.job.formats
    assert (formats.attention, formats.dense) == ("fp8", "nvfp4")
    narrow = weight_bytes(asked.deployment.job)[0]
    stated = weight_bytes(_asked("qwen3-32b", found, node="dgx-b200", precision="fp8").deployment.job)[0]
    # 64 layers x 3 matrices of 5120 x 25600: a byte each against half of one and a scale per 16
    assert (stated - narrow) * 8 == pytest.approx(64 * 3 * 5120 * 25600 * (1 - (0.5 + 1 / 16)))


def test_a_gpu_without_the_path_widens_and_says_so() -> None:
    asked = _asked("qwen3-32b", {"quant_method": "fp8", "weight_block_size": [128, 128]}, node="dgx-a100")
    assert asked.deployment.job.formats.attention == "w8a16"
    assert any("fp8_block weights have no tensor path on" in line for line in asked.assumptions)


def test_nvfp4_on_a_gpu_that_multiplies_mxfp4_is_refused() -> None:
    found = {"quant_algo": "NVFP4"}
    with pytest.raises(ScenarioError, match=r"checkpoint is in NVFP4, and \S+ multiplies MXFP4 only; state serve"):
        _asked("qwen3-32b", found, node="mi355x-platform")


def test_the_cache_follows_the_checkpoint_unless_stated() -> None:
    found = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
    asked = _asked("qwen3-32b", found)
    assert asked.deployment.job.formats.kv == "fp8"
    assert "kv_dtype = fp8 (the checkpoint has scales for it)" in asked.assumptions
    assert _asked("qwen3-32b", found, kv_dtype="bf16").deployment.job.formats.kv == "bf16"


def test_a_dense_twin_is_published_as_its_mixture_is() -> None:
    """Otherwise a mixture in 4 bits would be compared with a dense model in 16."""
    mixture = load_model("gpt-oss-20b")
    load = {"kind": "closed", "concurrency": 1, "count": 1, "input_tokens": 100, "output_tokens": 4}
    scenario = {"model": "gpt-oss-20b", "cluster": {"node": "dgx-h100", "gpus": 8}, "layout": {"tp": 8}}
    asked = {**scenario, "serve": {"requests": load}}
    formats = resolve_serve(parse_scenario(asked)).deployment.job.formats
    twin = resolve_serve(parse_scenario(twin_scenario(asked, mixture))).deployment.job.formats
    assert (formats.attention, formats.experts) == (twin.attention, twin.dense) == ("bf16", "int4")
    assert load_model(as_mapping(mixture)).checkpoint == mixture.checkpoint is not None
