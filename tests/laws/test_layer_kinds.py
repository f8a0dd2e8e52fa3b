"""Every kind of layer: its steps hold the weights that are counted, its cache the bytes, ranks sum to the whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from jobs import job

from moesim.sim.layers.blocks import layer_steps
from moesim.sim.layers.context import LayerContext
from moesim.sim.layers.steps import Core, GroupedLinear, Linear, Step
from moesim.sim.layout.placement import expert_loads
from moesim.sim.model.arch import LayerKind, ModelArch
from moesim.sim.model.catalogue import load_model
from moesim.sim.model.flops import kv_bytes_per_token, matmul_params, mixing_flops_per_token
from moesim.sim.model.params import dense_ffn, mixer, ssm_of
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.kv_cache import sequence_bytes, token_bytes
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.train.job import resolve
from moesim.traces.routing import Routing

_WHOLE: dict[str, Any] = {
    "hidden": 512, "vocab": 1000, "tied_embeddings": False, "max_context": 8192,
    "ffn": {"intermediate": 1024, "gated": True},
}  # fmt: skip
_HEADS: dict[str, Any] = {"heads": 8, "kv_heads": 2, "head_dim": 64}
_KEYS: dict[str, Any] = {"d_state": 64, "d_conv": 4, "d_inner": 512, "heads": 8, "key_heads": 8, "key_dim": 64}
_LATENT: dict[str, Any] = {
    "heads": 8, "q_lora_rank": 128, "kv_lora_rank": 128, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32,
    "v_head_dim": 64,
}  # fmt: skip
_INDEX = {"index_heads": 4, "index_head_dim": 32, "index_top_k": 256}
_SHARED: dict[str, Any] = {
    "heads": 8, "kv_heads": 1, "head_dim": 64, "q_lora_rank": 128, "window": 128, "sinks": True, "shared_values": True,
    "o_lora_rank": 64, "o_groups": 4,
}  # fmt: skip


def _attention(pattern: str = "attention+dense", **sizes: Any) -> dict[str, Any]:
    return {**_WHOLE, "layers": 1, "pattern": pattern, "attention": sizes}


def _recurrent(mixer_: str, **sizes: Any) -> dict[str, Any]:
    return {**_WHOLE, "layers": 1, "pattern": f"{mixer_}+dense", "ssm": sizes}


KINDS: dict[str, dict[str, Any]] = {
    "grouped queries": _attention(**_HEADS),
    "gate as wide as the core": _attention(**_HEADS, output_gate=True),
    "a gate per head": _attention(**_HEADS, head_gate=True),
    "values of the keys": _attention(**_HEADS, no_v_proj=True),
    "queries from a latent": _attention(**_HEADS, q_lora_rank=128),
    "chosen keys of grouped queries": _attention(**_HEADS, **_INDEX),
    "latent": _attention(**_LATENT),
    "gated latent": _attention(**_LATENT, output_gate=True),
    "latent with chosen keys": _attention(**_LATENT, **_INDEX),
    "latent with another layer's choice": _attention(**_LATENT, **_INDEX, index_shared=True),
    "compressed keys, chosen": _attention(**_SHARED, **_INDEX, compress=4),
    "compressed keys, all": _attention(**_SHARED, compress=128),
    "shared vector in a window": _attention("window_attention+dense", **_SHARED),
    "own sizes": {
        **_attention("attention+dense@wide", **_HEADS),
        "variants": {"wide": {"attention": {"heads": 4, "kv_heads": 4, "head_dim": 128}, "intermediate": 2048}},
    },
    "KDA": _recurrent("kda", **_KEYS, gate_rank=64),
    "KDA with a full gate": _recurrent("kda", **_KEYS),
    "gated DeltaNet": _recurrent("gated_deltanet", **{**_KEYS, "key_heads": 4}),
    "lightning": _recurrent("lightning", **{**_KEYS, "d_conv": 0}),
    "short convolution": _recurrent("short_conv", d_state=1, d_conv=3, d_inner=512),
    "Mamba-2": _recurrent("mamba2", d_state=64, d_conv=4, d_inner=1024, heads=16, key_heads=2),
    "identities beside experts": {
        **{key: value for key, value in _attention("attention+moe", **_HEADS).items() if key != "ffn"},
        "moe": {"experts": 8, "top_k": 2, "expert_intermediate": 256, "gated": True, "zero_experts": 4},
    },
}


def _steps(model: dict[str, Any], tp: int = 1) -> tuple[ModelArch, list[Step], int]:
    resolved = resolve(parse_scenario(job(model, tp, {"tp": tp}, global_batch=2)))
    asked = resolved.job
    arch, lay = asked.arch, asked.layout
    ctx = LayerContext(
        arch, lay, asked.cluster, asked.stack, resolved.tuning(), asked.micro_batch, asked.seq_len, asked.precision
    )
    load = expert_loads(arch, lay, asked.cluster, Routing(), ctx.tokens, None)[0]
    return arch, list(layer_steps(replace(ctx, load=load), arch.layers[0])), ctx.tokens


def _matrix_flops(steps: list[Step]) -> float:
    """FLOPs of weights: the scores of a recurrent core are none."""
    total = 0.0
    for step in steps:
        if isinstance(step, Linear) and step.part == "body":
            total += 2.0 * step.m * step.n * step.k
        elif isinstance(step, GroupedLinear):
            total += 2.0 * sum(step.rows) * step.n * step.k
    return total


def _taps(arch: ModelArch, kind: LayerKind) -> int:
    """Weights of short convolutions, which run as memory traffic."""
    if kind.mixer.endswith("attention"):
        return 0
    s = ssm_of(arch)
    keys = 0 if kind.mixer == "short_conv" else s.key_heads * (s.d_state if kind.mixer == "mamba2" else s.key_dim)
    return (s.d_inner + 2 * keys) * s.d_conv


@pytest.mark.parametrize("name", KINDS)
def test_steps_of_a_layer_multiply_the_weights_that_are_counted(name: str) -> None:
    arch, steps, tokens = _steps(KINDS[name])
    kind = arch.layers[0]
    if arch.is_moe:
        weights = matmul_params(arch) - arch.vocab * arch.hidden
    else:
        weights = mixer(arch, kind).matrix + dense_ffn(arch, kind).matrix
        assert weights == matmul_params(arch) - arch.vocab * arch.hidden
    weights -= _taps(arch, kind)
    if kind.mixer == "gated_deltanet":  # of the two columns per head (decay, write strength) one is priced
        weights -= arch.hidden * ssm_of(arch).heads
    assert _matrix_flops(steps) == pytest.approx(2.0 * tokens * weights, rel=1e-12)


@pytest.mark.parametrize("name", [name for name in KINDS if "chosen" not in name and "choice" not in name])
def test_cores_work_on_the_pairs_of_the_closed_form(name: str) -> None:
    arch, steps, tokens = _steps(KINDS[name])
    cores = sum(step.work.flops for step in steps if isinstance(step, Core))
    if not arch.layers[0].mixer.endswith("attention"):
        assert cores == 0.0
        return
    closed = mixing_flops_per_token(arch, 2048) * tokens
    rounding = 0.1 if "compressed" in name else 1e-12  # a window as long as the mean number of entries
    assert cores == pytest.approx(closed, rel=rounding)


@pytest.mark.parametrize("name", [name for name in KINDS if "moe" not in KINDS[name]])
def test_two_tensor_ranks_do_the_work_of_one(name: str) -> None:
    """What is split sums to the whole; latents and indexers are computed on each rank (their tokens are split)."""
    whole, halves = (_matrix_flops(_steps(KINDS[name], tp)[1]) for tp in (1, 2))
    assert halves * 2 >= whole * (1 - 1e-12)
    copied = ("latent", "compressed", "shared", "chosen", "KDA")
    assert halves * 2 <= whole * (1.35 if any(word in name for word in copied) else 1 + 1e-12)


def _served(model: dict[str, Any] | str) -> Any:
    load = {"kind": "closed", "concurrency": 1, "count": 1, "input_tokens": 64, "output_tokens": 4}
    scenario = {"model": model, "cluster": {"node": "dgx-h100", "gpus": 1}, "serve": {"requests": load}}
    return resolve_serve(parse_scenario(scenario)).deployment.job


@pytest.mark.parametrize("name", KINDS)
def test_the_cache_of_a_deployment_is_that_of_the_model(name: str) -> None:
    """Serving keeps index keys in 8 bits, and what is in a window apart; states are kept per sequence."""
    served = _served(KINDS[name])
    arch, kind = served.arch, served.arch.layers[0]
    a = arch.at(kind).attention
    if a is None or kind.mixer not in ("attention", "window_attention"):
        assert token_bytes(served) == 0.0 and sequence_bytes(served, 1000) > 0.0
        return
    closed = kv_bytes_per_token(arch, "bf16") - a.own_index_dim / (a.compress or 1)
    if kind.mixer == "window_attention":
        assert token_bytes(served) == 0.0
        assert sequence_bytes(served, 1000) == 128 * closed
        return
    assert token_bytes(served) == pytest.approx(closed)
    # beside compressed entries, the last 128 tokens in full: one vector of 64 elements each, and the index keys
    assert sequence_bytes(served, 1000) == (128 * (2 * 64 + a.own_index_dim) if a.compress else 0.0)


def test_a_shared_choice_costs_neither_weights_nor_cache_nor_scores() -> None:
    own, shared = (KINDS[f"latent with {what}"] for what in ("chosen keys", "another layer's choice"))
    steps = {name: [step.name for step in _steps(model)[1]] for name, model in (("own", own), ("shared", shared))}
    assert "attention.index" in steps["own"] and "attention.index_q" in steps["own"]
    assert not any("index" in name for name in steps["shared"])
    extra = token_bytes(_served(own)) - token_bytes(_served(shared))
    assert extra == 32.0  # an index key in 8 bits


def test_published_hybrids_keep_what_their_layers_keep() -> None:
    """Kimi Linear: 7 of 27 layers cache a latent of 512 + 64 elements; the rest keep a state of 32 x 128 x 128."""
    kimi = _served({"base": "kimi-linear-48b-a3b", "layers": 4})
    assert kv_bytes_per_token(load_model("kimi-linear-48b-a3b"), "bf16") == 7 * 576 * 2
    assert token_bytes(kimi) == 576 * 2
    assert sequence_bytes(kimi, 1000) == 3 * (4 * 32 * 128 * 128 + 2 * 32 * 128 * 4)
    # MiMo-V2-Flash: 9 of 48 layers see everything, with 4 key heads of 192 and values of 128
    assert kv_bytes_per_token(load_model("mimo-v2-flash"), "bf16") == (9 * 4 + 39 * 8) * (192 + 128) * 2
