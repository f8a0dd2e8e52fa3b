"""Hugging Face configs: each family against our own catalogue, and every wrong field as one ArchError."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.sim.model.arch import ModelArch
from moesim.sim.model.catalogue import ArchError, load_model
from moesim.sim.model.hf_config import from_hf, supported_families
from moesim.sim.model.params import parameters

_CONFIGS = Path(__file__).parent / "hf_configs"
_NAMES = sorted(path.stem for path in _CONFIGS.glob("*.json"))


def _config(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((_CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    return config


def _sizes(arch: ModelArch) -> ModelArch:
    """What does not depend on the checkpoint: the configs here are those of the 16-bit ones."""
    return replace(arch, name="", source="", notes="", fp8_blocks=False)


@pytest.mark.parametrize("name", _NAMES)
def test_config_gives_the_catalogue_entry(name: str) -> None:
    assert _sizes(from_hf(_config(name))) == _sizes(load_model(name))


def test_checkpoints_with_a_scale_per_block_are_known_by_their_config() -> None:
    config = _config("qwen3-32b")
    assert not from_hf(config).fp8_blocks
    assert not from_hf({**config, "quantization_config": {"quant_method": "fp8"}}).fp8_blocks
    assert from_hf(
        {**config, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    ).fp8_blocks
    assert load_model("qwen3-32b").fp8_blocks


@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-4-scout"])
def test_path_and_folder_and_mapping_are_the_same(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(_config(name)), encoding="utf-8")
    from_folder = load_model(str(tmp_path))
    assert from_folder == load_model(tmp_path / "config.json")
    assert _sizes(from_folder) == _sizes(load_model(_config(name)))
    assert from_folder.name == tmp_path.name


def test_unknown_family_is_refused_with_what_has_its_fields() -> None:
    """A hint goes by fields, never by spelling: a name that is spelled alike may be a model of another size."""
    with pytest.raises(ArchError, match="'deepseek_v9' is not supported") as caught:
        from_hf({"model_type": "deepseek_v9"})
    assert "deepseek_v3" not in str(caught.value) and "moesim init --model" in str(caught.value)
    with pytest.raises(ArchError, match=r"not supported.*docs/models\.md"):
        from_hf({"architectures": ["Unheard"]})
    unknown = {**_config("deepseek-v3"), "model_type": "minimax_m9"}
    with pytest.raises(ArchError, match=r"its fields are those of 'deepseek_v\d'"):
        from_hf(unknown)
    assert {"llama", "mixtral", "deepseek_v3", "gpt_oss"} <= set(supported_families())


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("llama-3.1-8b", "hidden_size"),
        ("llama-3.1-8b", "num_hidden_layers"),
        ("llama-3.1-8b", "vocab_size"),
        ("mixtral-8x7b", "num_local_experts"),
        ("mixtral-8x7b", "num_experts_per_tok"),
        ("deepseek-v3", "kv_lora_rank"),
        ("deepseek-v3", "v_head_dim"),
        ("gpt-oss-20b", "sliding_window"),
        ("jamba-v0.1", "mamba_d_state"),
        ("nemotron-3-nano-30b-a3b", "hybrid_override_pattern"),
        ("dbrx", "ffn_config"),
    ],
)
def test_missing_and_negative_fields_are_named(name: str, field: str) -> None:
    for config in ({**_config(name), field: -3}, {k: v for k, v in _config(name).items() if k != field}):
        with pytest.raises(ArchError, match=field) as caught:
            from_hf(config)
        assert "\n" not in str(caught.value)


def test_sizes_that_contradict_each_other_are_refused() -> None:
    llama = _config("llama-3.1-8b")
    with pytest.raises(ArchError, match="32 heads are not a multiple of 5"):
        from_hf({**llama, "num_key_value_heads": 5})
    with pytest.raises(ArchError, match="top_k 9 is more than 8 experts"):
        from_hf({**_config("mixtral-8x7b"), "num_experts_per_tok": 9})
    with pytest.raises(ArchError, match="layer_types has 1 entries; needs one for each of 32 layers"):
        from_hf({**llama, "layer_types": ["full_attention"]})
    with pytest.raises(ArchError, match="layer_types holds 'odd'"):
        from_hf({**llama, "layer_types": ["odd"] * 32})
    with pytest.raises(ArchError, match="head_dim is missing"):
        from_hf({**llama, "num_attention_heads": 24})


def test_optional_fields_change_the_model() -> None:
    qwen = _config("qwen3-32b")
    windowed = from_hf({**qwen, "use_sliding_window": True, "sliding_window": 1024, "max_window_layers": 60})
    assert [kind.mixer for kind in windowed.layers].count("window_attention") == 4
    sparse = from_hf({**_config("qwen3-30b-a3b"), "mlp_only_layers": [0], "decoder_sparse_step": 2})
    assert sparse.moe_layers == 24 and sparse.layers[0].ffn == "dense" and sparse.ffn is not None
    words = ["mamba", "moe", "attention", "mlp"]
    hybrid = {**_config("nemotron-3-nano-30b-a3b"), "layers_block_type": words}
    hybrid.pop("num_hidden_layers")
    hybrid.pop("hybrid_override_pattern")
    assert [kind.mixer for kind in from_hf(hybrid).layers] == ["mamba2", "none", "attention", "none"]
    lite = from_hf({**_config("deepseek-v2"), "topk_method": "greedy", "q_lora_rank": None})
    assert lite.moe is not None and lite.moe.router == "topk"
    assert lite.attention is not None and lite.attention.q_lora_rank is None


def test_indexer_of_deepseek_v3_2_adds_its_published_weights() -> None:
    v32 = {**_config("deepseek-v3"), "model_type": "deepseek_v32"}
    v32 |= {"index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048}
    extra = parameters(from_hf(v32)) - parameters(load_model("deepseek-v3"))
    # per layer: wq_b 1536 x 8192, wk 7168 x 128, weights_proj 7168 x 64, LayerNorm of the keys
    assert extra == 61 * (1536 * 64 * 128 + 7168 * 128 + 7168 * 64 + 2 * 128)


_GARBAGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=True),
    st.text(max_size=5),
    st.lists(st.integers(-2, 70), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(_NAMES), data=st.data())
def test_a_broken_field_is_an_arch_error_or_a_model(name: str, data: st.DataObject) -> None:
    config = _config(name)
    inner = config.get("text_config", config)
    for field in data.draw(st.lists(st.sampled_from(sorted(inner)), min_size=1, max_size=3)):
        inner[field] = data.draw(_GARBAGE)
    try:
        arch = from_hf(config)
    except ArchError as error:
        assert "\n" not in str(error)
    else:
        assert parameters(arch) > 0 and math.isfinite(parameters(arch))
