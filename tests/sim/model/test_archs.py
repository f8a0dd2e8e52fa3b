"""The catalogue of models, the layer patterns, the inline forms, and the errors of all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import moesim.sim.model.catalogue as catalogue
from moesim.hwmodels.facts import read_yaml
from moesim.sim.model.arch import MAX_LAYERS, LayerKind
from moesim.sim.model.catalogue import ArchError, load_model, model_names, model_record
from moesim.sim.model.params import parameters
from moesim.sim.model.pattern import parse_pattern

_ARCHS = Path(catalogue.__file__).parent / "archs"
_FILES = sorted(path for path in _ARCHS.glob("*.yaml") if not path.stem.startswith("_"))
_INDEX = read_yaml(_ARCHS / "_index.yaml")

GPT: dict[Any, Any] = {"layers": 2, "hidden": 1024, "heads": 16, "vocab": 51200}
FULL: dict[str, Any] = {
    "hidden": 64,
    "layers": 4,
    "pattern": "attention+dense, 3 x attention+moe",
    "attention": {"heads": 4, "kv_heads": 2},
    "ffn": {"intermediate": 256, "gated": True},
    "moe": {"experts": 8, "top_k": 2, "expert_intermediate": 32, "gated": True},
    "vocab": 1000,
    "tied_embeddings": False,
    "max_context": 128,
}


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_every_file_is_a_model_with_a_source(path: Path) -> None:
    record = model_record(path.stem)
    assert record["name"] == path.stem
    assert len(record["source"]) > 10
    assert {"params_total", "params_active"} <= set(record["published"])
    if path.stem in _INDEX["not_simulatable"]:
        with pytest.raises(ArchError, match="cannot be simulated"):
            load_model(path.stem)
        return
    arch = load_model(path.stem)
    assert arch.name == path.stem and arch.num_layers == record["layers"] and arch.source == record["source"]
    assert load_model(path) == arch


def test_names_and_aliases_resolve() -> None:
    assert len(model_names()) == len(_FILES) - 1 == 146
    listed = {alias: path.stem for path in _FILES for alias in read_yaml(path).get("aliases", [])}
    assert listed == _INDEX["aliases"]
    for alias, name in listed.items():
        assert load_model(alias) == load_model(name)
    assert {"deepseek-r1", "llama-3-8b", "minimax-m2", "llama-3.3-70b"} <= set(listed)
    assert load_model(" DeepSeek-V3 ").name == "deepseek-v3"


def test_loading_one_model_reads_one_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    load_model("llama-3-8b")  # the index is read once and kept
    catalogue.catalogued.cache_clear()
    read: list[Path] = []

    def counting(path: Path) -> Any:
        read.append(path)
        return read_yaml(path)

    monkeypatch.setattr(catalogue, "read_yaml", counting)
    assert load_model("deepseek-r1") is load_model("deepseek-v3")
    assert [path.name for path in read] == ["deepseek-v3.yaml"]


def _kinds(name: str) -> list[str]:
    return [f"{kind.mixer}+{kind.ffn}" for kind in load_model(name).layers]


def test_layer_patterns_of_the_odd_ones() -> None:
    assert _kinds("deepseek-v3") == ["attention+dense"] * 3 + ["attention+moe"] * 58
    assert _kinds("gpt-oss-20b")[:2] == ["window_attention+moe", "attention+moe"]
    assert set(_kinds("mistral-7b")) == {"window_attention+dense"}
    maverick = _kinds("llama-4-maverick")
    assert [i for i, kind in enumerate(maverick) if kind.startswith("attention")] == list(range(3, 48, 4))
    assert [i for i, kind in enumerate(maverick) if kind.endswith("moe")] == list(range(1, 48, 2))
    jamba = _kinds("jamba-v0.1")
    assert [i for i, kind in enumerate(jamba) if kind.startswith("attention")] == [4, 12, 20, 28]
    assert [i for i, kind in enumerate(jamba) if kind.endswith("moe")] == list(range(1, 32, 2))
    assert _kinds("qwen3.5-397b-a17b")[:4] == ["gated_deltanet+moe"] * 3 + ["attention+moe"]
    assert set(_kinds("snowflake-arctic")) == {"attention+moe_residual"}
    assert _kinds("nemotron-3-nano-30b-a3b")[4:7] == ["mamba2+none", "attention+none", "none+moe"]
    switch = load_model("switch-base-128")
    assert [kind.encoder for kind in switch.layers] == [True] * 12 + [False] * 12
    assert {kind.mixer for kind in switch.layers[12:]} == {"cross_attention"} and switch.moe_layers == 12
    pyramid = [kind.experts for kind in load_model("deepspeed-1.3b-pr-moe-64-128").layers if kind.ffn != "dense"]
    assert pyramid == [None] * 10 + [128] * 2


def test_pattern_grammar() -> None:
    kinds = parse_pattern("2 x (attention+dense, attention+moe[32]), encoder none+moe", 10, "here")
    assert len(kinds) == 10 and kinds[:5] == kinds[5:]
    assert kinds[1] == LayerKind(mixer="attention", ffn="moe", experts=32)
    assert kinds[4] == LayerKind(mixer="none", ffn="moe", encoder=True)
    assert parse_pattern(" M*-E ", 4, "here")[2] == LayerKind(mixer="none", ffn="dense")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "cannot be read from '' on"),
        ("attention", "cannot be read"),
        ("attention+dens", "unknown ffn 'dens'; known: dense"),
        ("atention+dense", "unknown mixer 'atention'; known: attention"),
        ("none+none", "does nothing"),
        ("0 x attention+dense", "0 times"),
        ("attention+dense[4]", "gives 4 experts"),
        ("attention+moe[0]", "gives 0 experts"),
        ("(attention+dense", "not closed"),
        ("attention+dense)", "cannot be read from '\\)' on"),
        ("((((((((attention+dense", "too many nested"),
        ("999999 x attention+dense", f"more than {MAX_LAYERS} layers"),
        ("3 x attention+dense", "spells out 3 layers; needs 8"),
        ("MMMMMMMMMM", "spells out 10 layers; needs 8"),
    ],
)
def test_pattern_errors(text: str, why: str) -> None:
    with pytest.raises(ArchError, match=why):
        parse_pattern(text, 8, "here")


def test_proxies_of_catalogue_models() -> None:
    full = load_model("llama-3.1-70b")
    proxy = load_model({"base": "llama-3-70b", "layers": 12})
    assert proxy.layers == full.layers[:12] and proxy.hidden == full.hidden
    assert proxy.name == "llama-3.1-70b[layers=12]"
    v2 = load_model({"base": "deepseek-v2", "layers": 4})
    assert [kind.ffn for kind in v2.layers] == ["dense", "moe", "moe", "moe"]
    none_dense = load_model({"base": "deepseek-v2", "layers": 4, "first_dense_layers": 0})
    assert [kind.ffn for kind in none_dense.layers] == ["moe"] * 4
    two = load_model({"base": "deepseek-v2", "layers": 4, "first_dense_layers": 2, "name": "two"})
    assert [kind.ffn for kind in two.layers] == ["dense", "dense", "moe", "moe"] and two.name == "two"
    gqa = load_model({"base": "llama-2-7b", "kv_heads": 8})
    assert gqa.attention is not None and gqa.attention.kv_heads == 8


def test_plain_gpt() -> None:
    arch = load_model(GPT)
    assert arch.attention is not None and arch.attention.kv_heads == 16 and arch.attention.qkv_bias
    assert arch.ffn is not None and (arch.ffn.intermediate, arch.ffn.gated) == (4096, False)
    assert arch.tied_embeddings and arch.layernorm and arch.learned_positions == arch.max_context == 2048
    # 12 h^2 + 13 h per layer, tables, final norm
    assert parameters(arch) == 2 * (12 * 1024**2 + 13 * 1024) + (51200 + 2048) * 1024 + 2 * 1024
    moe = {"experts": 8, "top_k": 2, "expert_intermediate": 512, "gated": True}
    sparse = load_model({**GPT, "kv_heads": 4, "moe": moe, "gated": True, "bias": False})
    assert sparse.moe_layers == 2 and sparse.ffn is None
    mixed = load_model({**GPT, "moe": moe, "intermediate": 99, "pattern": "attention+dense, attention+moe"})
    assert mixed.moe_layers == 1 and mixed.ffn is not None and mixed.ffn.intermediate == 99


def test_full_mapping_and_file_in_our_format(tmp_path: Path) -> None:
    arch = load_model(FULL)
    assert arch.moe_layers == 3 and arch.attention is not None and arch.attention.head_dim == 16
    file = tmp_path / "mine.yaml"
    file.write_text("{base: mixtral-8x7b, layers: 2}", encoding="utf-8")
    assert load_model(str(file)).num_layers == 2


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("deepsek-v3", "unknown model 'deepsek-v3': .*did you mean 'deepseek-v3'"),
        ("meta-llama/llama-3.1-9b", "did you mean 'llama-3.1-8b'"),
        ("../arch", "unknown model"),
        ("a" * 5000, "unknown model"),
        ("\0", "unknown model"),
        ("", "needs a name, a path or a mapping"),
        (None, "model None is no model"),
        ("/nowhere/config.json", "no such file; needs a config.json"),
        (dict[str, Any](), "hidden is missing"),
        ({"base": 3}, "base is 3; needs text"),
        ({"base": "llama-3.1-70b", "layers": 81}, "needs at most that"),
        ({"base": "llama-3.1-70b", "layers": 0}, "layers is 0"),
        ({"base": "llama-3.1-70b", "layer": 8}, "unknown key 'layer'; did you mean 'layers'"),
        ({"base": "llama-3.1-8b", "kv_heads": 5}, "32 heads are not a multiple of 5 kv_heads"),
        ({"base": "deepseek-v3", "kv_heads": 8}, "MLA has no kv_heads of its own"),
        (
            {"base": "deepseek-v2", "layers": 4, "first_dense_layers": 5},
            "first_dense_layers is 5; needs at most 4",
        ),
        ({"base": "llama-4-maverick", "first_dense_layers": 1}, "first_dense_layers cannot be set"),
        ({"base": "gpt-350m", "first_dense_layers": 1}, "first_dense_layers cannot be set"),
        ({**GPT, "hidden": 1000}, "hidden 1000 is not a multiple of 16 heads"),
        ({**GPT, "hidden": -1024}, "hidden is -1024; needs a whole number from 1"),
        ({**GPT, "layers": float("nan")}, "layers is nan; needs a whole number"),
        ({**GPT, "layers": 2.5}, "layers is 2.5; needs a whole number"),
        ({**GPT, "layers": True}, "layers is True; needs a whole number"),
        ({**GPT, "layers": 10**6}, f"layers is 1000000; needs at most {MAX_LAYERS}"),
        ({**GPT, "vocab": "many"}, "vocab is 'many'; needs a whole number"),
        ({**GPT, "kv_head": 2}, "unknown key 'kv_head'; did you mean 'kv_heads'"),
        ({**GPT, 7: 2}, "unknown key 7"),
        ({**FULL, "hidden": None, "hiden": 64}, "hidden is missing \\(did you mean it by 'hiden'"),
        ({**FULL, "pattern": None}, "pattern is missing; needs to say which layers are dense"),
        ({**FULL, "moe": {**FULL["moe"], "top_k": 9}}, "top_k 9 is more than 8 experts"),
        ({**FULL, "moe": {**FULL["moe"], "groups": 3}}, "8 experts do not fill 3 groups"),
        ({**FULL, "moe": {**FULL["moe"], "router": "random"}}, "router is 'random'; needs one of top1"),
        ({**FULL, "moe": {**FULL["moe"], "capacity_factor": float("inf")}}, "capacity_factor is inf"),
        ({**FULL, "moe": 8}, "moe: is 8; needs a mapping"),
        ({**FULL, "moe": None}, "MoE layers need moe"),
        ({**FULL, "attention": None}, "attention layers need attention"),
        ({**FULL, "attention": {"heads": 4, "kv_lora_rank": 8}}, "MLA needs kv_lora_rank"),
        ({**FULL, "attention": {"heads": 4, "index_heads": 8}}, "an indexer needs"),
        ({**FULL, "ffn": {"intermediate": 4}}, "gated is missing; needs true or false"),
        ({**FULL, "pattern": "window_attention+dense"}, "window layers need a window"),
        ({**FULL, "pattern": "mamba2+dense"}, "state-space layers need ssm"),
        ({**FULL, "pattern": "cross_attention+dense"}, "cross_attention needs encoder layers"),
        ({**FULL, "pattern": "attention+moe_residual"}, "need residual_intermediate"),
        ({**FULL, "pattern": "attention+dense, encoder attention+dense"}, "encoder layers must come before"),
        ({**FULL, "vocab": 0}, "vocab is 0"),
        ({k: v for k, v in FULL.items() if k != "vocab"}, "vocab is missing"),
        (
            {**FULL, "ssm": {"d_state": 4, "d_conv": 4, "d_inner": 10, "heads": 3}},
            "not a multiple of 3 heads",
        ),
    ],
)
def test_errors_say_what_and_why(asked: Any, why: str) -> None:
    with pytest.raises(ArchError, match=why) as caught:
        load_model(asked)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_broken_files_are_arch_errors(tmp_path: Path) -> None:
    for name, text in [
        ("a.json", "{"),
        ("b.yaml", "a: [1"),
        ("c.yaml", "7"),
        ("d.json", "[1]"),
        ("e.yml", ""),
    ]:
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(ArchError):
            load_model(tmp_path / name)
    (tmp_path / "f.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArchError, match="cannot read"):
        load_model(tmp_path / "f.json")
    (tmp_path / "self.yaml").write_text(f"base: {tmp_path / 'self.yaml'}", encoding="utf-8")
    with pytest.raises(ArchError, match="is itself a proxy"):
        load_model(tmp_path / "self.yaml")


_KEYS = st.one_of(
    st.sampled_from(
        [*GPT, *FULL, "base", "ssm", "kv_heads", "gated", "seq", "intermediate", "model_type", "name", "bias"]
    ),
    st.text(max_size=4),
    st.integers(),
)
_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 5000),
        st.integers(),
        st.floats(),
        st.text(max_size=6),
        st.sampled_from(["attention+dense", "2 x attention+moe", "M", "llama-2-7b", "llama", "topk"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=4)),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(record=st.dictionaries(_KEYS, _VALUES, max_size=8), valid=st.sampled_from([dict[str, Any](), GPT, FULL]))
def test_garbage_is_an_arch_error_or_a_model(record: dict[Any, Any], valid: dict[str, Any]) -> None:
    try:
        arch = load_model({**valid, **record})
    except ArchError as error:
        assert "\n" not in str(error)
    else:
        assert parameters(arch) > 0


@settings(max_examples=200, deadline=None)
@given(part=st.sampled_from(["attention", "ffn", "moe"]), data=st.data())
def test_garbage_in_a_part_is_an_arch_error_or_a_model(part: str, data: st.DataObject) -> None:
    keys = st.sampled_from([*FULL[part], "window", "kv_lora_rank", "groups", "top_k_groups", "latent", "router"])
    broken = data.draw(st.dictionaries(keys, _VALUES, min_size=1, max_size=3))
    try:
        arch = load_model({**FULL, part: {**FULL[part], **broken}})
    except ArchError as error:
        assert "\n" not in str(error)
    else:
        assert parameters(arch) > 0


@pytest.mark.parametrize(
    ("hub", "name"),
    [
        ("deepseek-ai/DeepSeek-V3", "deepseek-v3"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-v3"),
        ("Qwen/Qwen3-30B-A3B", "qwen3-30b-a3b"),
        ("Qwen/Qwen3-235B-A22B-Thinking-2507", "qwen3-235b-a22b"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.1-70b"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "nemotron-3-nano-30b-a3b"),
        ("nvidia/Llama-3_3-Nemotron-Super-49B-v1", "nemotron-super-49b"),
        ("google/gemma-3-27b-it", "gemma-3-27b"),
        ("zai-org/GLM-4.5-Air", "glm-4.5-air"),
        ("baidu/ERNIE-4.5-21B-A3B-PT", "ernie-4.5-21b-a3b"),
        ("mistralai/Mistral-Large-3-675B-Instruct-2512", "mistral-large-3"),
        ("CohereLabs/c4ai-command-a-03-2025", "command-a"),
    ],
)
def test_names_of_hubs_are_understood_and_said(hub: str, name: str) -> None:
    arch = load_model(hub)
    assert arch == load_model(name)
    assert arch.said == (f"model = {name} of the catalogue, for {hub}",)


@pytest.mark.parametrize(
    ("hub", "why"),
    [
        ("nvidia/DeepSeek-V3.1-NVFP4", "is a copy in nvfp4; give the path of its config.json"),
        ("Qwen/Qwen3-30B-A3B-FP8", "is a copy in fp8"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "neither in the catalogue nor a path"),
        ("a/b/deepseek-v3", "neither in the catalogue nor a path"),
        ("../deepseek-v3", "neither in the catalogue nor a path"),
    ],
)
def test_names_of_hubs_that_stand_for_another_model_are_refused(hub: str, why: str) -> None:
    with pytest.raises(ArchError, match=why):
        load_model(hub)
