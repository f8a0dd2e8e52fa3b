"""Fields that are not used are listed, fields that may change sizes refuse, and unknown families go by their fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moesim.sim.model.arch import ArchError
from moesim.sim.model.catalogue import load_model
from moesim.sim.model.hf_config import from_hf
from moesim.sim.model.hf_unread import listed, sort_out, towers

_CONFIGS = Path(__file__).parent / "hf_configs"


def _config(name: str, **changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((_CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    return {**config, **changes}


def test_bookkeeping_is_not_listed_and_what_nobody_read_is() -> None:
    quiet = {"transformers_version": "5.0", "bos_token_id": 1, "torch_dtype": "bfloat16", "attention_dropout": 0.1}
    assert from_hf(_config("llama-3.1-8b", head_dim=128, **quiet)).said == ()
    loud = from_hf(_config("llama-3.1-8b", head_dim=128, **quiet, colour="red", use_magic=True))
    assert loud.said == ("config.json fields not used: colour, use_magic",)


def test_the_list_is_of_limited_length() -> None:
    many = {f"unheard_{i:02d}": "x" for i in range(40)} | {"y" * 3000: "x"}
    (line,) = listed(sort_out(many)[1])
    assert line.endswith("unheard_11 and 29 more") and len(line) < 300


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        ("llama-3.1-8b", {"num_experts": 8, "num_experts_per_tok": 2}, "num_experts, num_experts_per_tok"),
        ("llama-3.1-8b", {"hidden_size_per_layer_input": 256}, "hidden_size_per_layer_input"),
        ("mixtral-8x7b", {"shared_intermediate_size": 1024}, "shared_intermediate_size"),
        ("qwen3-30b-a3b", {"moe_layer_interval": 2}, "moe_layer_interval"),
        ("deepseek-v3", {"zero_expert_num": 64}, "zero_expert_num"),
        ("qwen3-32b", {"kv_lora_rank": 512}, "kv_lora_rank"),
        ("nemotron-3-nano-30b-a3b", {"mlp_layer_types": ["dense"]}, "mlp_layer_types"),
    ],
)
def test_a_field_that_may_change_sizes_refuses(name: str, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ArchError, match=f"{field} may change sizes") as caught:
        from_hf(_config(name, **changes))
    assert "moesim init --model" in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("off", [None, False, 0, [], "", {}])
def test_a_field_that_is_switched_off_is_fine(off: Any) -> None:
    assert from_hf(_config("llama-3.1-8b", head_dim=128, num_experts=off, mamba_d_state_size=off)).said == ()


def test_an_unknown_family_of_a_plain_shape_is_read_and_said() -> None:
    plain = from_hf(_config("llama-3.1-8b", model_type="unheard"))
    known = from_hf(_config("llama-3.1-8b"))
    assert plain.layers == known.layers and plain.attention == known.attention and plain.ffn == known.ffn
    assert any(line.startswith("the family is not known: read as a plain stack") for line in plain.said)
    changes = {"model_type": "unheard", "hidden_act": "silu", "use_qk_norm": True, "decoder_sparse_step": None}
    sparse = from_hf(_config("qwen3-30b-a3b", **changes))
    assert sparse.moe is not None and sparse.moe.experts == 128


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is gelu; only silu, swish, swiglu"),
        ({"colour": "red"}, "nothing is known of colour"),
        ({"num_key_value_heads": 0}, "num_key_value_heads is 0"),
        ({"kv_lora_rank": 512}, "nothing is known of kv_lora_rank"),
    ],
)
def test_an_unknown_family_with_anything_unknown_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ArchError, match=why) as caught:
        from_hf(_config("llama-3.1-8b", **{"model_type": "unheard", **changes}))
    assert "docs/models.md" in str(caught.value) and len(str(caught.value)) < 500


def test_a_family_that_is_known_not_to_be_readable_says_what_stands_in_the_way() -> None:
    with pytest.raises(ArchError, match="model_type 'zamba2' cannot be read: num_mem_blocks shares blocks"):
        from_hf({"model_type": "zamba2"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": ["llama"]}, "model_type '' is not supported"),
        ({"model_type": "x" * 5000}, "is not supported"),
        ({"model_type": "llama", "text_config": {"model_type": 7}}, "num_hidden_layers is missing"),
        ({"model_type": "llama", "text_config": {}}, "num_hidden_layers is missing"),
        ({"architectures": "LlamaForCausalLM"}, "not supported"),
        ({"model_type": None, "architectures": [None, 4, {}]}, "not supported"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchError, match=message) as caught:
        from_hf(config)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_towers_are_counted_where_their_sizes_are_given() -> None:
    vision = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304}
    (line,) = towers({"vision_config": vision, "audio_config": None})
    # 27 layers of 4 square matrices of 1152 and two of 1152 x 4304
    assert f"about {27 * (4 * 1152**2 + 2 * 1152 * 4304) / 1e9:.2f} B parameters" in line
    (beside,) = towers({"text_config": {"hidden_size": 1}, "talker_config": {"text_config": {}}, "rope": {"theta": 1}})
    assert beside.startswith("talker_config: of unknown size")
    (unknown,) = towers({"audio_config": {"depth": "many", "hidden_size": True}})
    assert "of unknown size" in unknown


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("deepseek-v3", "moe_layer_freq", [1] * 3, "moe_layer_freq has 3 entries; needs one for each of 61 layers"),
        ("deepseek-v3", "moe_layer_freq", [2] * 61, "moe_layer_freq holds 2; needs 0, 1"),
        ("deepseek-v3", "mlp_layer_types", ["odd"] * 61, "mlp_layer_types holds 'odd'; needs dense, sparse, moe"),
        ("deepseek-v3", "mlp_layer_types", [["dense"]] * 61, "mlp_layer_types holds"),
        ("glm-5", "indexer_types", ["shared"] * 78, "indexer_types holds 'shared'; needs full or shared, full first"),
        ("qwen3-30b-a3b", "num_local_experts", 64, "num_local_experts is 64 and num_experts 128; needs the same"),
        ("qwen3-30b-a3b", "moe_intermediate_size", [768, 512], "moe_intermediate_size differs between layers"),
        ("qwen3-30b-a3b", "moe_intermediate_size", [], "moe_intermediate_size differs between layers"),
    ],
)
def test_lists_of_layers_are_checked(name: str, field: str, value: Any, message: str) -> None:
    with pytest.raises(ArchError, match=message):
        from_hf(_config(name, **{field: value}))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mlp_only_layers", [48], "mlp_only_layers holds 48; needs numbers of layers from 0 to 47"),
        ("mlp_only_layers", [-1], "mlp_only_layers holds -1"),
        ("mlp_only_layers", [True], "mlp_only_layers holds True"),
        ("num_\n\x1b[31m", 3, r"num_\\n\\x1b\[31m' may change sizes"),
        ("num_\u202e", 3, r"num_\\u202e' may change sizes"),
    ],
)
def test_what_a_file_says_is_checked_and_shown_plainly(field: str, value: Any, message: str) -> None:
    with pytest.raises(ArchError, match=message):
        from_hf(_config("qwen3-30b-a3b", **{field: value}))


def _plain_llama(**changes: Any) -> tuple[str, ...]:
    return from_hf(_config("llama-3.1-8b", head_dim=128, **changes)).said


def test_what_stands_in_for_heads_and_windows_is_said() -> None:
    assert _plain_llama() == ()
    assert _plain_llama(num_key_value_heads=None) == ("num_key_value_heads = 32 (one per head: not in config.json)",)
    assert from_hf(_config("llama-3.1-8b", head_dim=None)).said == (
        "head_dim = 128 (hidden_size / heads: not in config.json)",
    )
    assert _plain_llama(sliding_window=4096) == (
        "sliding_window = 4096: taken for 32 of 32 layers (config.json has no layer_types)",
    )
    listed_kinds = ["full_attention"] * 32
    assert _plain_llama(sliding_window=4096, layer_types=listed_kinds) == (
        "sliding_window = 4096: not used: every attention layer sees all tokens",
    )
    qwen = from_hf(_config("qwen3-32b", use_sliding_window=False, sliding_window=4096)).said
    assert (
        "sliding_window = 4096: not used, use_sliding_window is not true: every attention layer sees all tokens" in qwen
    )
    assert from_hf(_config("dbrx")).said == ("head_dim = 128 (hidden_size / heads: not in config.json)",)


@pytest.mark.parametrize(
    ("name", "slip", "meant"),
    [
        ("qwen3-30b-a3b", "qwen3moe", "qwen3_moe"),
        ("qwen3-30b-a3b", "Qwen3-MoE", "qwen3_moe"),
        ("gpt-oss-20b", "gptoss", "gpt_oss"),
        ("qwen1.5-moe-a2.7b", "qwen2moe", "qwen2_moe"),
        ("kimi-k2", "kimi_k2x", "kimi_k2"),
    ],
)
def test_a_slip_in_the_family_goes_to_the_family_of_that_name(name: str, slip: str, meant: str) -> None:
    with pytest.raises(ArchError, match=f"its fields are those of '{meant}'"):
        from_hf(_config(name, model_type=slip, architectures=None))


@pytest.mark.parametrize(
    ("missing", "beside", "hint"),
    [
        ("num_hidden_layers", "num_hidden_layer", True),
        ("vocab_size", "vocabsize", True),
        ("vocab_size", "voice_size", False),
        ("hidden_size", "head_size", False),
        ("num_hidden_layers", "num_hidden_experts", False),
    ],
)
def test_only_a_slip_of_a_missing_field_is_offered(missing: str, beside: str, hint: bool) -> None:
    config = _config("llama-3.1-8b", **{beside: 32})
    config.pop(missing)
    with pytest.raises(ArchError, match=f"{missing} is missing") as caught:
        from_hf(config)
    assert (f"did you mean it by {beside!r}?" in str(caught.value)) == hint
    assert ("did you mean" in str(caught.value)) == hint


def test_a_file_with_a_mark_of_byte_order_is_read_and_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    text = json.dumps(_config("llama-3.1-8b"))
    file.write_text("\ufeff" + text, encoding="utf-8")
    assert load_model(file).hidden == 4096
    file.write_text(text[:-1] + ', "hidden_size": 8192}', encoding="utf-8")
    with pytest.raises(ArchError, match="key 'hidden_size' is given twice in one mapping; keep the one that is meant"):
        load_model(file)
    file.write_bytes(text.encode("utf-16"))
    with pytest.raises(ArchError, match=r"text (file )?in UTF-8"):
        load_model(file)
