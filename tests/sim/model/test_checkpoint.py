"""Formats of published weights: every method of `quantization_config`, by part, and what cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moesim.sim.model.arch import ArchError, LayerKind
from moesim.sim.model.catalogue import load_model
from moesim.sim.model.checkpoint import checkpoint_of
from moesim.sim.model.quantised_modules import Modules, part_of

_LAYERS = 4
_KINDS = (LayerKind(mixer="attention", ffn="moe_residual"),) * _LAYERS  # every part in every layer
_EVERY_ATTENTION = [f"model.layers.{i}.self_attn*" for i in range(_LAYERS)]
_FOUR_BIT_FLOATS = {"num_bits": 4, "type": "float", "group_size": 16}


def _group(weights: dict[str, Any], targets: list[str] | None = None, widened: bool = False) -> dict[str, Any]:
    group: dict[str, Any] = {"weights": weights, "targets": targets or ["Linear"]}
    return group if widened else {**group, "input_activations": {"num_bits": 8}}


# what a file says -> (attention, dense, experts, shared, head, cache)
_METHODS: dict[str, tuple[dict[str, Any], tuple[str | None, ...]]] = {
    "fp8 in blocks": (
        {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head", "mlp.gate"]},
        ("fp8_block", "fp8_block", "fp8_block", "fp8_block", "bf16", None),
    ),
    "fp8 per tensor": (
        {"quant_method": "fp8", "ignored_layers": ["model.layers.0.self_attn.o_proj"]},
        ("fp8", "fp8", "fp8", "fp8", "bf16", None),
    ),
    "fbgemm": (
        {"quant_method": "fbgemm_fp8", "modules_to_not_convert": _EVERY_ATTENTION},
        ("bf16", "fp8", "fp8", "fp8", "bf16", None),
    ),
    "mxfp4 of gpt-oss": (
        {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]},
        ("bf16", "mxfp4", "mxfp4", "mxfp4", "bf16", None),
    ),
    "modelopt nvfp4": (
        {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head", *_EVERY_ATTENTION]},
        ("bf16", "nvfp4", "nvfp4", "nvfp4", "bf16", "fp8"),
    ),
    "modelopt, an algorithm per module": (
        {
            "quant_method": "modelopt",
            "quant_algo": "MIXED_PRECISION",
            "quantized_layers": {
                "model.layers.0.self_attn.o_proj": {"quant_algo": "FP8"},
                "model.layers.0.mlp.experts.0.up_proj": {"quant_algo": "NVFP4"},
                "model.layers.0.mlp.experts.1.up_proj": {"quant_algo": "NVFP4"},
                "model.layers.0.mlp.experts.2.up_proj": {"quant_algo": "FP8"},
            },
        },
        ("fp8", "bf16", "nvfp4", "bf16", "bf16", None),
    ),
    "experts converted once more": (
        {"quant_method": "fp8", "weight_block_size": [128, 128], "moe_quant_algo": "NVFP4", "ignore": ["*.attn.*"]},
        ("fp8_block", "fp8_block", "nvfp4", "fp8_block", "bf16", None),
    ),
    "awq": ({"quant_method": "awq", "bits": 4}, ("int4", "int4", "int4", "int4", "bf16", None)),
    "gptq of 8 bits": ({"quant_method": "gptq", "bits": 8}, ("w8a16", "w8a16", "w8a16", "w8a16", "bf16", None)),
    "auto-round": ({"quant_method": "auto-round", "bits": 4}, ("int4", "int4", "int4", "int4", "bf16", None)),
    "bitsandbytes": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "llm_int8_skip_modules": ["lm_head"]},
        ("int4", "int4", "int4", "int4", "bf16", None),
    ),
    "compressed-tensors, experts only": (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"g": _group({"num_bits": 4, "type": "int", "group_size": 32}, widened=True)},
            "ignore": [
                "lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*",
            ],
        },
        ("bf16", "bf16", "int4", "bf16", "bf16", None),
    ),
    "compressed-tensors, mxfp4": (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"g": _group({"num_bits": 4, "type": "float", "group_size": 32})},
            "ignore": ["re:.*self_attn.*"],
        },
        ("bf16", "mxfp4", "mxfp4", "mxfp4", "bf16", None),
    ),
    "compressed-tensors, two groups": (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {
                "a": _group({"num_bits": 8, "type": "float"}, ["model.layers.0.linear_attn.out_proj"]),
                "b": _group(_FOUR_BIT_FLOATS, ["model.layers.0.mlp.experts"]),
            },
        },
        ("fp8", "bf16", "nvfp4", "bf16", "bf16", None),
    ),
    "compressed-tensors, int8": (
        {"quant_method": "compressed-tensors", "config_groups": {"g": _group({"num_bits": 8, "type": "int"})}},
        ("int8", "int8", "int8", "int8", "bf16", None),
    ),
    "quark": (
        {
            "quant_method": "quark",
            "global_quant_config": {"weight": {"dtype": "fp4"}},
            "exclude": ["lm_head", *_EVERY_ATTENTION],
        },
        ("bf16", "mxfp4", "mxfp4", "mxfp4", "bf16", None),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _METHODS)
def test_every_method_gives_each_part_its_format(name: str) -> None:
    found, expected = _METHODS[name]
    for config in ({"quantization_config": found}, {"quantization": found}, {"compression_config": found}):
        read = checkpoint_of(config, {}, Modules(_KINDS))
        assert read is not None
        assert (read.attention, read.dense, read.experts, read.shared, read.head, read.kv) == expected


def test_deepseek_v4_has_experts_in_four_bits() -> None:
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}, "expert_dtype": "fp4"}
    read = checkpoint_of(config, config, Modules(_KINDS))
    assert read is not None and (read.attention, read.experts) == ("fp8_block", "mxfp4")
    with pytest.raises(ArchError, match="expert_dtype is 'fp3'; needs fp4 or fp8"):
        checkpoint_of(config, {**config, "expert_dtype": "fp3"}, Modules(_KINDS))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"quant_method": "aqlm"}, "quant_method 'aqlm' is not known; known: auto-round, awq"),
        ({"bits": 4}, "quant_method None is not known"),
        (["fp8"], r"quantization_config is \['fp8'\]; needs a mapping"),
        ({"quant_method": "gptq", "bits": 3}, "bits 3 is not known; needs 4 or 8"),
        ({"quant_method": "gptq", "bits": "four"}, "bits 'four' is not known"),
        ({"quant_method": "gptq", "bits": [4]}, r"bits \[4\] is not known"),
        ({"quant_method": ["fp8"]}, r"quant_method \['fp8'\] is not known"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": ["x"]}}}, r"quark dtype \['x'\]"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4"}}, "layer_quant_config": [1]},
         r"layer_quant_config is \[1\]; needs a mapping"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": _group({"num_bits": [4], "type": {}})}},
         r"weights of \[4\] bits"),
        ({"quant_method": "bitsandbytes"}, "neither load_in_4bit nor load_in_8bit"),
        ({"quant_method": "compressed-tensors"}, "config_groups is missing"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": 4}}, "'g' has no weights"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": _group({"num_bits": 2, "type": "int"})}},
         "weights of 2 bits"),
        ({"quant_algo": "NVFP5"}, "quant_algo 'NVFP5' is not known; known: fp8"),
        ({"quant_method": "fp8", "modules_to_not_convert": "lm_head"}, "needs a list of names"),
        ({"quant_method": "quark"}, "global_quant_config is missing"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "odd"}}}, "quark dtype 'odd'"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(found: Any, message: str) -> None:
    with pytest.raises(ArchError, match=message) as caught:
        checkpoint_of({"quantization_config": found}, {}, Modules(_KINDS))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


_FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.mark.parametrize(
    ("names", "formats", "said"),
    [
        # one layer of four: too few to be the part's format, and said
        (["model.layers.0.self_attn.o_proj"], ("fp8_block", "fp8_block"),
         "attention of 1 of 4 layers left in 16 bits: taken as fp8_block in all of them"),
        (["model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"], ("bf16", "fp8_block"),
         "attention of 2 of 4 layers left in 16 bits: taken as 16 bits in all of them"),
        (["model.layers.3"], ("fp8_block", "fp8_block"), "experts of 1 of 4 layers left in 16 bits"),
        (["model.layers.9.self_attn.o_proj", "lm_head", "model.layers.0.mlp.gate"], ("fp8_block", "fp8_block"), ""),
        (["unheard_of"], ("fp8_block", "fp8_block"), "1 entry of its lists of modules: no matrix"),
    ],
)  # fmt: skip
def test_lists_that_cover_some_layers_say_what_was_taken(names: list[str], formats: tuple[str, str], said: str) -> None:
    modules = Modules(_KINDS)
    read = checkpoint_of({"quantization_config": {**_FP8, "modules_to_not_convert": names}}, {}, modules)
    assert read is not None and (read.attention, read.experts) == formats
    assert any(said in line for line in modules.said) if said else modules.said == []


def test_dense_layers_named_one_by_one_are_all_dense_layers() -> None:
    """DeepSeek-like: three dense layers of many; the list covers the part, not a twentieth of the model."""
    kinds = [LayerKind(mixer="attention", ffn="dense" if i < 3 else "moe") for i in range(61)]
    modules = Modules(kinds)
    names = [f"model.layers.{i}.mlp.down_proj" for i in range(3)]
    read = checkpoint_of({"quantization_config": {**_FP8, "modules_to_not_convert": names}}, {}, modules)
    assert read is not None and (read.dense, read.experts) == ("bf16", "fp8_block")
    assert modules.said == []


@pytest.mark.parametrize(
    ("pattern", "formats"),
    [
        ("re:.*", ("bf16", "bf16", "bf16", "bf16")),
        (r"re:.*\.(q|k|v|o)_proj$", ("bf16", "int8", "int8", "int8")),
        (r"re:model\.layers\.[0-9]+\.mlp\.experts.*", ("int8", "int8", "bf16", "int8")),
        (r"re:.*layers\.(0|1|2|3)\.", ("bf16", "bf16", "bf16", "bf16")),
        (r"re:layers\.\d+\.self_attn", ("bf16", "int8", "int8", "int8")),
        (r"re:elsewhere\..*mlp$", ("int8", "bf16", "int8", "int8")),  # by its words, as names are
    ],
)
def test_patterns_are_matched_on_names_of_modules(pattern: str, formats: tuple[str, ...]) -> None:
    groups = {"g": _group({"num_bits": 8, "type": "int"})}
    found = {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": [pattern]}
    read = checkpoint_of({"quantization_config": found}, {}, Modules(_KINDS))
    assert read is not None and (read.attention, read.dense, read.experts, read.shared) == formats


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("re:(a+)+$", "repeats what repeats or chooses"),
        ("re:(x|xx)*y", "repeats what repeats or chooses"),
        ("re:" + ".*[a-z]" * 9, "repeats more than 6 times"),
        ("re:(((", "is no regular expression"),
        ("re:" + "a" * 201, "has 201 letters; needs at most 200"),
    ],
)
def test_patterns_that_cannot_be_used_are_refused(pattern: str, message: str) -> None:
    found = {"quantization_config": {**_FP8, "modules_to_not_convert": [pattern]}}
    with pytest.raises(ArchError, match=message) as caught:
        checkpoint_of(found, {}, Modules(_KINDS))
    assert pattern[3:] not in str(caught.value)


def test_blocks_of_another_size_are_read_and_said() -> None:
    def read(**found: Any) -> tuple[Any, list[str]]:
        modules = Modules(_KINDS)
        made = checkpoint_of({"quantization_config": {"quant_method": "fp8", **found}}, {}, modules)
        return made and made.block, modules.said

    assert read(weight_block_size=[128, 128]) == ((128, 128), [])
    assert read() == (None, [])
    block, said = read(weight_block_size=[64, 32])
    assert block == (64, 32) and said == [
        "weight_block_size = 64 x 32: time and bytes are those of blocks of 128 x 128"
    ]
    for odd in ("128", [128], [0, 128], [128, True], [128, 10**9]):
        with pytest.raises(ArchError, match=r"weight_block_size is .*; needs two whole numbers"):
            read(weight_block_size=odd)
    weights = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [64, 64]}
    block, said = read(quant_method="compressed-tensors", config_groups={"g": _group(weights)})
    assert block == (64, 64) and len(said) == 1


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.layers.3.self_attn.o_proj", "attention"),
        ("model.layers.3.self_attn.q_a_layernorm", None),
        ("model.layers.3.self_attn.indexer.weights_proj", None),
        ("backbone.layers.9.mixer.conv1d", None),
        ("backbone.layers.9.mixer.in_proj", "attention"),
        ("model.layers.3.block_sparse_moe.gate", None),
        ("model.layers.3.mlp.shared_expert_gate", None),
        ("model.layers.3.mlp.shared_experts*", "shared"),
        ("layers.0.ffn.experts", "experts"),
        ("model.layers.0.mlp.down_proj", "dense"),
        ("model.visual*", None),
        ("head", "head"),
        ("model.layers.61*", None),
    ],
)
def test_names_of_modules_are_classed(name: str, part: str | None) -> None:
    assert part_of(name) == part


def test_a_file_beside_the_config_says_the_formats(tmp_path: Path) -> None:
    config = json.loads((Path(__file__).parent / "hf_configs" / "qwen3-32b.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load_model(tmp_path).checkpoint is None
    beside = tmp_path / "hf_quant_config.json"
    beside.write_text(json.dumps({"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}), "utf-8")
    read = load_model(tmp_path).checkpoint
    assert read is not None and (read.dense, read.kv) == ("nvfp4", "fp8")
    beside.write_text("[]", "utf-8")
    with pytest.raises(ArchError, match="holds no mapping `quantization`"):
        load_model(tmp_path)
