"""Closed-form counts: against published figures, hand-counted shapes, and the laws they must obey."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from moesim.sim.model.arch import LayerKind, ModelArch
from moesim.sim.model.catalogue import load_model, model_names, published
from moesim.sim.model.flops import flops_per_token, kv_bytes_per_token, matmul_params
from moesim.sim.model.params import (
    active_parameters,
    dense_ffn_params,
    embedding_params,
    expert_params,
    experts_in,
    final_norm_params,
    head_params,
    layer_params,
    mixer_params,
    mtp_params,
    norm_params,
    parameters,
    router_params,
    shared_params,
)

DENSE = LayerKind(mixer="attention", ffn="dense")
MOE = LayerKind(mixer="attention", ffn="moe")


@pytest.mark.parametrize("name", model_names())
def test_counts_agree_with_the_published_ones(name: str) -> None:
    arch, says = load_model(name), published(name)
    tolerance = says.tolerance_pct / 100
    if says.params_total is not None:
        assert parameters(arch) == pytest.approx(says.params_total, rel=tolerance)
    if says.params_active is not None:
        nearest = min(active_parameters(arch), key=lambda count: abs(count - (says.params_active or 0)))
        assert nearest == pytest.approx(says.params_active, rel=tolerance)
    if says.tolerance_pct > 0.5:
        assert says.reason


@pytest.mark.parametrize("name", model_names())
def test_parts_sum_to_the_total(name: str) -> None:
    arch = load_model(name)
    layers = 0
    for kind, n in Counter(arch.layers).items():
        parts = mixer_params(arch, kind) + dense_ffn_params(arch, kind) + norm_params(arch, kind)
        if kind.ffn in ("moe", "moe_residual"):
            parts += experts_in(arch, kind) * expert_params(arch) + shared_params(arch) + router_params(arch, kind)
        assert parts == layer_params(arch, kind).total
        layers += n * parts
    tables = embedding_params(arch) + head_params(arch) + final_norm_params(arch)
    assert parameters(arch) == layers + tables
    with_table, without_table = active_parameters(arch)
    assert 0 < without_table <= with_table <= parameters(arch)
    assert (with_table == parameters(arch)) == (not arch.is_moe)
    # all but norms, biases and look-ups is matrix products; a tied table is one, too
    assert matmul_params(arch) == pytest.approx(without_table, rel=0.05)


def test_exact_counts_of_released_checkpoints() -> None:
    """Number of weights in the published files, to the last one."""
    assert parameters(load_model("llama-2-7b")) == 6_738_415_616
    assert parameters(load_model("llama-3.1-8b")) == 8_030_261_248
    assert parameters(load_model("mixtral-8x7b")) == 46_702_792_704
    assert parameters(load_model("mistral-7b")) == 7_241_732_096
    assert parameters(load_model("qwen1.5-7b")) == 7_721_324_544
    assert parameters(load_model("olmoe-1b-7b")) == 6_919_161_856


def test_mtp_modules_come_on_top() -> None:
    v3 = load_model("deepseek-v3")
    # one MoE layer (11.507 G), projection 2 x 7168^2, three norms
    assert mtp_params(v3) == layer_params(v3, MOE).total + 2 * 7168**2 + 3 * 7168
    assert mtp_params(v3) == pytest.approx(11.61e9, rel=1e-3)
    assert mtp_params(load_model("glm-4.5")) == pytest.approx(3.988e9, rel=1e-3)
    assert mtp_params(load_model("glm-5")) == pytest.approx(9.953e9, rel=1e-3)
    assert mtp_params(load_model("minimax-m2.5")) == pytest.approx(11.063e9, rel=1e-3)
    assert mtp_params(load_model("llama-3.1-8b")) == 0


def test_mla_by_hand() -> None:
    v3 = load_model("deepseek-v3")
    q = 7168 * 1536 + 1536 + 1536 * 128 * 192
    kv = 7168 * (512 + 64) + 512 + 512 * 128 * (128 + 128)
    assert mixer_params(v3, MOE) == q + kv + 128 * 128 * 7168
    assert router_params(v3, MOE) == 7168 * 256 + 256
    assert expert_params(v3) == shared_params(v3) == 3 * 7168 * 2048
    assert dense_ffn_params(v3, DENSE) == 3 * 7168 * 18432
    assert norm_params(v3, DENSE) == 2 * 7168


def test_one_expert_top_1_is_the_dense_model_plus_its_router() -> None:
    dense = load_model("llama-2-7b")
    assert dense.ffn is not None
    moe = {"experts": 1, "top_k": 1, "expert_intermediate": dense.ffn.intermediate, "gated": True}
    one = load_model(
        {
            "hidden": 4096,
            "layers": 32,
            "attention": {"heads": 32},
            "moe": moe,
            "vocab": 32000,
            "tied_embeddings": False,
            "max_context": 4096,
        }
    )
    assert parameters(one) == parameters(dense) + 32 * 4096
    assert active_parameters(one).with_input_embedding == parameters(one)
    assert flops_per_token(one, 512) == flops_per_token(dense, 512) + 2 * 32 * 4096


def _gpt(**changes: int) -> ModelArch:
    return load_model({"layers": 4, "hidden": 256, "heads": 4, "vocab": 1000, **changes})


def test_flops_of_a_gpt_by_hand() -> None:
    seq = 64
    matmul = 4 * 12 * 256**2 + 1000 * 256
    assert matmul_params(_gpt()) == matmul
    assert flops_per_token(_gpt(), seq, causal=False) == 2 * matmul + 4 * 4 * 256 * seq
    # with the mask a query sees (seq + 1) / 2 keys on average
    assert flops_per_token(_gpt(), seq) == 2 * matmul + 4 * 4 * 256 * (seq + 1) / 2


def test_flops_do_not_count_experts_that_are_not_visited() -> None:
    arch = load_model("mixtral-8x7b")
    assert arch.moe is not None
    more = replace(arch, moe=replace(arch.moe, experts=64))
    assert flops_per_token(more, 128) - flops_per_token(arch, 128) == 2 * 32 * 56 * 4096  # routers only
    assert parameters(more) > 6 * parameters(arch)


def test_windows_and_sparse_attention_see_fewer_keys() -> None:
    mistral = load_model("mistral-7b")
    full = replace(mistral, layers=(DENSE,) * 32)
    assert flops_per_token(mistral, 4096) == flops_per_token(full, 4096)
    saved = flops_per_token(full, 32768) - flops_per_token(mistral, 32768)
    keys = (32768 + 1) / 2 - (4096 - 4096 * 4095 / 2 / 32768)
    assert saved == pytest.approx(32 * 4 * 4096 * keys)
    glm = load_model("glm-5")
    assert glm.attention is not None
    dense = replace(glm, attention=replace(glm.attention, index_top_k=None))
    assert flops_per_token(glm, 2048) == flops_per_token(dense, 2048)
    assert flops_per_token(glm, 65536) < flops_per_token(dense, 65536)


def test_state_space_layers_do_not_grow_with_the_sequence() -> None:
    nano = load_model("nemotron-3-nano-30b-a3b")
    no_attention = replace(nano, layers=tuple(kind for kind in nano.layers if kind.mixer != "attention"))
    assert flops_per_token(no_attention, 100) == flops_per_token(no_attention, 100_000)
    assert kv_bytes_per_token(no_attention, "bf16") == 0
    assert kv_bytes_per_token(nano, "bf16") == 6 * 2 * 2 * 128 * 2


def test_encoders_see_both_ways_and_decoders_see_the_encoder() -> None:
    t5 = load_model("t5-base-v1.1")
    seq = 512
    pairs = 12 * seq + 12 * ((seq + 1) / 2 + seq)
    assert flops_per_token(t5, seq) == 2 * matmul_params(t5) + 4 * 768 * pairs
    assert kv_bytes_per_token(t5, "bf16") == 12 * 2 * 2 * 768 * 2


def test_kv_bytes_by_hand() -> None:
    assert kv_bytes_per_token(load_model("llama-3.1-8b"), "bf16") == 32 * 2 * 8 * 128 * 2
    assert kv_bytes_per_token(load_model("llama-3.1-8b"), "fp8") == 32 * 2 * 8 * 128
    assert kv_bytes_per_token(load_model("deepseek-v3"), "bf16") == 61 * 576 * 2  # 70 KB, as published
    assert kv_bytes_per_token(load_model("glm-5"), "bf16") == 78 * (576 + 128) * 2
    assert kv_bytes_per_token(load_model("gpt-oss-20b"), "bf16") == 24 * 2 * 8 * 64 * 2
    assert kv_bytes_per_token(load_model("jamba-v0.1"), "bf16") == 4 * 2 * 8 * 128 * 2


def test_pyramid_layers_hold_their_own_number_of_experts() -> None:
    arch = load_model("deepspeed-350m-pr-moe-32-64")
    wide = LayerKind(mixer="attention", ffn="moe_residual", experts=64)
    narrow = LayerKind(mixer="attention", ffn="moe_residual")
    assert (experts_in(arch, wide), experts_in(arch, narrow), experts_in(arch, DENSE)) == (64, 32, 0)
    extra = layer_params(arch, wide).total - layer_params(arch, narrow).total
    assert extra == 32 * (expert_params(arch) + 1024)
