"""Models made of another: any field of the base's record changed, checked as a whole model is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from moesim.sim.model.arch import ArchError, ModelArch
from moesim.sim.model.catalogue import load_model, model_names
from moesim.sim.model.params import active_parameters, parameters


def _made(**changes: Any) -> ModelArch:
    return load_model({"base": "qwen3-30b-a3b", **changes})


def test_fewer_experts_per_token() -> None:
    base, four = load_model("qwen3-30b-a3b"), _made(top_k=4)
    assert four.name == "qwen3-30b-a3b with top_k=4"
    assert base.moe is not None and four.moe == replace(base.moe, top_k=4)
    assert replace(four, name=base.name, moe=base.moe) == base
    # 48 layers x 4 experts of 3 matrices of 2048 x 768 rest
    fewer = active_parameters(base).with_input_embedding - active_parameters(four).with_input_embedding
    assert fewer == 48 * 4 * 3 * 2048 * 768
    assert parameters(four) == parameters(base)


def test_parts_whole_fields_and_layers_go_together() -> None:
    made = _made(layers=4, moe={"experts": 64, "top_k": 2}, vocab=1000, name="small")
    assert (made.name, made.num_layers, made.vocab) == ("small", 4, 1000)
    assert made.moe is not None and (made.moe.experts, made.moe.top_k) == (64, 2)
    assert _made(layers=4, top_k=2).name == "qwen3-30b-a3b[layers=4] with top_k=2"
    own = _made(pattern="attention+moe", layers=60)
    assert own.num_layers == 60  # more than the base has


def test_what_follows_from_a_changed_size_follows_again() -> None:
    one = load_model({"base": "mixtral-8x7b", "top_k": 1})
    assert one.moe is not None and one.moe.router == "top1"
    wide = load_model({"base": "deepseek-v3", "qk_nope_head_dim": 192})
    assert wide.attention is not None and wide.attention.head_dim == 256
    many = load_model({"base": "deepseek-v3", "heads": 64})
    assert many.attention is not None and many.attention.kv_heads == 64
    narrow = load_model({"base": "llama-3.1-8b", "head_dim": 64})
    assert narrow.attention is not None and narrow.attention.v_head_dim == 64


@pytest.mark.parametrize("name", model_names())
def test_every_model_can_be_a_base(name: str) -> None:
    base = load_model(name)
    made = load_model({"base": name, "max_context": 777})
    assert replace(made, name=base.name, max_context=base.max_context) == base
    assert made.name == f"{name} with max_context=777"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 200}, "top_k 200 is more than 128 experts"),
        ({"top_k": "many"}, "top_k is 'many'; needs a whole number"),
        ({"topk": 4}, "unknown key 'topk'; did you mean 'top_k'"),
        ({"d_state": 4}, "d_state cannot be set: qwen3-30b-a3b has no ssm; leave it out"),
        ({"moe": 4}, "moe is 4; needs a mapping of the fields to change"),
        ({"moe": {"tok_k": 4}}, "unknown key 'tok_k'; did you mean 'top_k'"),
        ({"layers": 49}, "layers is 49, but qwen3-30b-a3b has 48"),
        ({"hidden": -1}, "hidden is -1; needs a whole number from 1"),
        ({"heads": 7}, "7 heads are not a multiple of 4 kv_heads"),
        ({"name": 7}, "name is 7; needs text"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchError, match=message) as caught:
        _made(**changes)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_field_of_two_parts_asks_which() -> None:
    with pytest.raises(ArchError, match=r"gated is of ffn and moe; write moe: \{gated: ...\}"):
        load_model({"base": "deepseek-v3", "gated": False})
