"""Every family of config.json against the parameter counts that its makers publish, from sizes written down by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.sim.model.arch import ArchError
from moesim.sim.model.hf_config import from_hf
from moesim.sim.model.params import active_parameters, parameters

_RECORDS = yaml.safe_load((Path(__file__).parent / "families.yaml").read_text(encoding="utf-8"))
_FULL, _WINDOW = "full_attention", "sliding_attention"
# long lists of the files, by the words that stand for them
_LISTS: dict[str, list[Any]] = {
    "FOUR_TO_ONE": [_FULL if i % 4 == 0 else _WINDOW for i in range(48)],
    "SIX_TO_ONE": [0 if i in (0, 5, 11, 17, 23, 29, 35, 41, 47) else 1 for i in range(48)],
    "FIRST_DENSE": [int(i > 0) for i in range(48)],
    "THREE_DENSE": [int(i > 2) for i in range(60)],
    "GRANITE": ["attention" if i in (5, 15, 25, 35) else "mamba" for i in range(40)],
    "EIGHTH": [int(i % 8 == 7) for i in range(80)],
    "ALL_3072": [3072] * 32,
    "ALL_8": [8] * 32,
    "ALL_1": [1] * 32,
    "V4": [0, 0, *([4, 128] * 20), 4, 0],
    "GEMMA4": [_FULL if i % 6 == 5 else _WINDOW for i in range(30)],
}


def _spelled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _spelled(inner) for key, inner in value.items()}
    return _LISTS.get(value, value) if isinstance(value, str) else value


def config_of(name: str) -> dict[str, Any]:
    """The config of one record, its long lists written out."""
    record = next(record for record in _RECORDS if record["name"] == name)
    config: dict[str, Any] = _spelled(record["config"])
    return config


@pytest.mark.parametrize("record", _RECORDS, ids=lambda record: record["name"])
def test_counts_are_those_that_the_makers_publish(record: dict[str, Any]) -> None:
    arch = from_hf(config_of(record["name"]), record["name"])
    published = record["published"]
    assert parameters(arch) / 1e9 == pytest.approx(published["total"], rel=0.01)
    if "active" in published:
        rounded = published.get("tolerance_pct", 1.0) / 100
        counts = active_parameters(arch)
        nearest = min(counts, key=lambda n: abs(n / 1e9 - published["active"]))
        assert nearest / 1e9 == pytest.approx(published["active"], rel=rounded)


_GARBAGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=True),
    st.text(max_size=5),
    st.lists(st.one_of(st.integers(-2, 70), st.text(max_size=3), st.lists(st.integers(), max_size=1)), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(max_examples=400, deadline=None)
@given(record=st.sampled_from(_RECORDS), data=st.data())
def test_a_broken_field_is_an_arch_error_or_a_model(record: dict[str, Any], data: st.DataObject) -> None:
    config = config_of(record["name"])
    places = [config, *(value for value in config.values() if isinstance(value, dict))]
    place = data.draw(st.sampled_from(places))
    for field in data.draw(st.lists(st.sampled_from(sorted(place)), min_size=1, max_size=3)):
        value = place[field]
        broken = (
            _GARBAGE
            if not isinstance(value, list)
            else st.one_of(_GARBAGE, st.just([data.draw(_GARBAGE)] * len(value)))
        )
        place[field] = data.draw(broken)
    try:
        arch = from_hf(config)
    except ArchError as error:
        assert "\n" not in str(error) and len(str(error)) <= 600
    else:
        assert parameters(arch) > 0


def test_a_family_that_says_the_same_in_two_ways_is_read_alike() -> None:
    """transformers 5 writes MiniMax-M3 and DeepSeek-V4 with other fields than their makers did."""
    old = config_of("minimax-m3")
    sparse = old.pop("sparse_attention_config")
    new = {**old, "index_n_heads": 4, "index_head_dim": 128, "index_block_size": 128, "index_topk_blocks": 16}
    new["layer_types"] = ["minimax_m3_sparse" if own else "full_attention" for own in sparse["sparse_attention_freq"]]
    assert from_hf(new) == from_hf(config_of("minimax-m3"))
    v4 = config_of("deepseek-v4-flash")
    names = {0: "sliding_attention", 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}
    new = {**v4, "layer_types": [names[ratio] for ratio in v4.pop("compress_ratios")[:43]]}
    del new["compress_ratios"]
    new["compress_rates"] = {names[4]: 4, names[128]: 128}
    assert from_hf(new) == from_hf(config_of("deepseek-v4-flash"))


# what published files say beside sizes, in the families whose files say most
_BESIDE: dict[str, dict[str, Any]] = {
    "jamba-1.5-large": {"mamba_inner_layernorms": True, "mamba_conv_bias": True, "num_logits_to_keep": 1},
    "hunyuan-a13b": {
        "n_group": False, "topk_group": False, "dense_list": [4096, 0], "num_media_embeds": 257, "use_mla": False,
        "moe_drop_tokens": False, "org_vocab_size": 128167, "kv_lora_rank": None, "cla_share_factor": 2,
    },
    "ernie-4.5-21b-a3b": {"moe_capacity": [64, 64, 64], "compression_ratio": 1.0, "moe_gate": "topk"},
    "trinity-mini": {"num_expert_groups": 1, "num_limited_groups": 1, "use_grouped_mm": True, "mup_enabled": True},
    "grok-2": {"sliding_window_size": -1, "global_attn_every_n": 1, "attn_temperature_len": 1024},
    "step-3.5-flash": {"use_moe": True, "moe_every_n_layer": 1, "need_fp32_gate": True, "swiglu_limits": [1.0]},
    "gemma-2-27b": {"sliding_window_size": 4096, "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid"},
    "falcon-h1-34b": {"ssm_multipliers": [1, 2], "mlp_multipliers": [1, 2], "mamba_chunk_size": 128, "mlp_bias": False},
    "llada-8b": {"layer_norm_with_affine": True, "activation_type": "silu", "rope_full_precision": True},
    "minimax-text-01": {"layernorm_full_attention_alpha": 3.55, "rotary_dim": 64, "sliding_window": None},
}  # fmt: skip


@pytest.mark.parametrize("name", _BESIDE)
def test_what_published_files_say_beside_sizes_stands_in_no_ones_way(name: str) -> None:
    assert from_hf({**config_of(name), **_BESIDE[name]}) == from_hf(config_of(name))
