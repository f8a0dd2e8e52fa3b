"""Hugging Face families that mix attention with state-space or linear-attention layers."""

from __future__ import annotations

from dataclasses import replace

from moesim.sim.model.arch import FfnArch, FfnKind, LayerKind, MixerKind, MoeArch, SsmArch, short
from moesim.sim.model.fields import Fields
from moesim.sim.model.hf_parts import (
    Parts,
    attention,
    dense_ffn,
    experts,
    hidden_size,
    mixers,
    num_layers,
    qwen_sparse_layers,
    stack,
)
from moesim.sim.model.pattern import parse_pattern


def _qwen_hybrid(f: Fields, kinds: list[FfnKind], moe: MoeArch | None) -> Parts:
    """Qwen3-Next and Qwen3.5: gated DeltaNet layers with a gated full-attention layer every few."""
    every, n = f.size("full_attention_interval", 4), num_layers(f)
    default: list[MixerKind] = ["gated_deltanet" if (i + 1) % every else "attention" for i in range(n)]
    value_heads, key_dim = f.size("linear_num_value_heads"), f.size("linear_key_head_dim")
    return Parts(
        layers=stack(mixers(f) if f.has("layer_types") else default, kinds),
        attention=attention(f, qk_norm="head", output_gate=f.flag("attn_output_gate", True)),
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=moe,
        ssm=SsmArch(
            d_state=key_dim,
            d_conv=f.size("linear_conv_kernel_dim"),
            d_inner=value_heads * f.size("linear_value_head_dim"),
            heads=value_heads,
            key_heads=f.size("linear_num_key_heads"),
            key_dim=key_dim,
        ),
        mtp_layers=f.count("mtp_num_hidden_layers"),
    )


def qwen_hybrid_dense(f: Fields) -> Parts:
    """Qwen3.5 with dense blocks."""
    return _qwen_hybrid(f, ["dense"] * num_layers(f), None)


def qwen_hybrid_moe(f: Fields) -> Parts:
    """Qwen3-Next and Qwen3.5 with experts."""
    shared = f.count("shared_expert_intermediate_size")
    return _qwen_hybrid(f, qwen_sparse_layers(f), experts(f, shared=shared, shared_gate=shared > 0))


def jamba(f: Fields) -> Parts:
    """Jamba: Mamba-1 with an attention layer every few, experts in every few layers."""
    n, hidden = num_layers(f), hidden_size(f)
    period, offset = f.size("attn_layer_period"), f.count("attn_layer_offset")
    expert_period, expert_offset = f.size("expert_layer_period"), f.count("expert_layer_offset")
    has_experts = f.size("num_experts") > 1
    mixer: list[MixerKind] = ["attention" if i % period == offset else "mamba1" for i in range(n)]
    kinds: list[FfnKind] = ["moe" if has_experts and i % expert_period == expert_offset else "dense" for i in range(n)]
    auto = f.get("mamba_dt_rank") == "auto"
    return Parts(
        layers=stack(mixer, kinds),
        attention=attention(f),
        ffn=dense_ffn(f),
        moe=experts(f, width="intermediate_size") if has_experts else None,
        ssm=SsmArch(
            d_state=f.size("mamba_d_state"),
            d_conv=f.size("mamba_d_conv"),
            d_inner=f.size("mamba_expand") * hidden,
            dt_rank=-(-hidden // 16) if auto else f.size("mamba_dt_rank"),
        ),
    )


def nemotron_h(f: Fields) -> Parts:
    """Single-block layers, one letter each; feed-forward blocks are squared ReLU without a gate."""
    layers = _nemotron_layers(f)
    heads = f.size("mamba_num_heads")
    bias = f.flag("attention_bias", False)
    return Parts(
        layers=layers,
        attention=attention(f, bias=(bias, bias)),
        ffn=_ungated(f, layers),
        moe=_nemotron_experts(f, layers),
        ssm=SsmArch(
            d_state=f.size("ssm_state_size"),
            d_conv=f.size("conv_kernel"),
            d_inner=heads * f.size("mamba_head_dim"),
            heads=heads,
            key_heads=f.size("n_groups"),
        ),
        norms_per_layer=1,
        mtp_layers=f.count("num_nextn_predict_layers"),
    )


def _nemotron_layers(f: Fields) -> tuple[LayerKind, ...]:
    """Older files hold a string of letters, newer ones a list of words."""
    words = f.items("layers_block_type")
    if words is None:
        pattern = f.text("hybrid_override_pattern", "")
        if not pattern:
            raise f.fail("hybrid_override_pattern", "is missing; needs one letter of M, E, * and - per layer")
        return parse_pattern(pattern, num_layers(f), f.where)
    letters = {"mamba": "M", "moe": "E", "attention": "*", "mlp": "-"}
    for word in words:
        if not isinstance(word, str) or word not in letters:
            raise f.fail("layers_block_type", f"holds {short(word)}; needs {', '.join(letters)}")
    return parse_pattern("".join(letters[word] for word in words), len(words), f.where)


def _ungated(f: Fields, layers: tuple[LayerKind, ...]) -> FfnArch | None:
    return dense_ffn(f, gated=False) if any(kind.ffn == "dense" for kind in layers) else None


def _nemotron_experts(f: Fields, layers: tuple[LayerKind, ...]) -> MoeArch | None:
    if not any(kind.ffn == "moe" for kind in layers):
        return None
    moe = experts(f, shared=f.count("moe_shared_expert_intermediate_size"), router_bias=True)
    return replace(moe, gated=False, latent=f.size_or_none("moe_latent_size"))
