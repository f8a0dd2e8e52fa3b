"""Hugging Face families that mix attention with state-space or linear-attention layers."""

from __future__ import annotations

from dataclasses import replace

from moesim.sim.model.arch import FfnArch, FfnKind, LayerKind, MixerKind, MoeArch, SsmArch, short
from moesim.sim.model.fields import Fields
from moesim.sim.model.hf_experts import bailing
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
    f.pass_over("mamba_inner_layernorms", "mamba_conv_bias", "calc_logits_for_entire_prompt")
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
    f.pass_over("n_shared_experts", "expand", "mamba_expand", "use_conv_bias", "mtp_hybrid_override_pattern")
    f.pass_over("intermediate_size", "moe_intermediate_size", "n_routed_experts", "num_hidden_layers")
    f.pass_over("moe_shared_expert_intermediate_size", "num_experts_per_tok", "moe_latent_size")
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


def _mamba2(f: Fields, inner: int) -> SsmArch:
    """Mamba-2 by the fields of Bamba, Granite 4 and Falcon-H1."""
    heads = f.size("mamba_n_heads")
    head = f.get("mamba_d_head")
    if head not in (None, "auto") and f.size("mamba_d_head") * heads != inner:
        raise f.fail("mamba_d_head", f"is {short(head)}; {heads} heads of it do not make {inner}")
    if f.flag("mamba_proj_bias", False):
        raise f.fail("mamba_proj_bias", "is true; biases of these projections are not counted")
    f.pass_over("mamba_chunk_size", "mamba_conv_bias", "mamba_expand")
    return SsmArch(
        d_state=f.size("mamba_d_state"),
        d_conv=f.size("mamba_d_conv"),
        d_inner=inner,
        heads=heads,
        key_heads=f.size("mamba_n_groups", 1),
    )


def granite_hybrid(f: Fields) -> Parts:
    """Granite 4.0-H: Mamba-2 with an attention layer every few; experts beside a shared block, or that alone."""
    bias = f.flag("attention_bias", False)
    mixer = mixers(f)
    shared, sparse = f.count("shared_intermediate_size"), f.count("num_local_experts") > 0
    f.pass_over("num_experts_per_tok", "intermediate_size")
    layers = stack(mixer, ["moe" if sparse else "dense"] * num_layers(f))
    return Parts(
        layers=layers,
        attention=attention(f, bias=(bias, bias)),
        ffn=None if sparse else dense_ffn(f, key="shared_intermediate_size"),
        moe=experts(f, width="intermediate_size", shared=shared) if sparse else None,
        ssm=_mamba2(f, f.size("mamba_expand", 2) * hidden_size(f)) if "mamba2" in mixer else None,
        tied_default=True,
    )


def bamba(f: Fields) -> Parts:
    """Bamba: Mamba-2 with attention in listed layers."""
    places = f.places("attn_layer_indices", num_layers(f)) or ()
    f.pass_over("attn_rotary_emb")
    mixer: list[MixerKind] = ["attention" if i in places else "mamba2" for i in range(num_layers(f))]
    bias = f.flag("attention_bias", False)
    return Parts(
        layers=stack(mixers(f) if f.has("layer_types") else mixer, ["dense"] * num_layers(f)),
        attention=attention(f, bias=(bias, bias)),
        ffn=dense_ffn(f),
        ssm=_mamba2(f, f.size("mamba_expand", 2) * hidden_size(f)),
    )


def falcon_h1(f: Fields) -> Parts:
    """Falcon-H1: attention and Mamba-2 side by side before each dense block, read one after the other."""
    n = num_layers(f)
    inner = f.size("mamba_d_ssm", f.size("mamba_expand", 2) * hidden_size(f))
    bias = f.flag("attention_bias", False)
    f.pass_over("mlp_expansion_factor", "mamba_use_mlp", "mlp_multipliers", "mamba_norm_before_gate", "mamba_rms_norm")
    f.said.append(f"{n} layers with attention and Mamba-2 side by side are read as {2 * n}, one after the other")
    half = (LayerKind(mixer="attention", ffn="none"), LayerKind(mixer="mamba2", ffn="dense"))
    return Parts(
        layers=half * n,
        attention=attention(f, bias=(bias, bias)),
        ffn=dense_ffn(f),
        ssm=_mamba2(f, inner),
        norms_per_layer=1,
    )


_MINIMAX_SCALES = (  # of the residual stream
    "full_attn_alpha_factor", "linear_attn_alpha_factor", "mlp_alpha_factor", "full_attn_beta_factor",
    "linear_attn_beta_factor", "mlp_beta_factor", "layernorm_full_attention_alpha",
    "layernorm_linear_attention_alpha", "layernorm_mlp_alpha", "layernorm_full_attention_beta",
    "layernorm_linear_attention_beta", "layernorm_mlp_beta",
)  # fmt: skip


def minimax_lightning(f: Fields) -> Parts:
    """MiniMax-Text-01 and M1: lightning attention with a softmax layer every few, experts everywhere."""
    n = num_layers(f)
    types = f.items("attn_type_list", n)
    if types is not None and any(entry not in (0, 1) for entry in types):
        raise f.fail("attn_type_list", f"holds {short(types)}; needs 0 (lightning) or 1 (softmax)")
    named = f.items("layer_types", n)
    if types is None and named is None:
        raise f.fail("attn_type_list", "is missing, and so is layer_types; needs 0 or 1 for every layer")
    if any(name not in ("full_attention", "linear_attention") for name in named or ()):
        raise f.fail("layer_types", f"holds {short(named)}; needs full_attention or linear_attention")
    softmax = [bool(t) for t in types] if types is not None else [name == "full_attention" for name in named or ()]
    a = attention(f)
    inner = a.heads * a.head_dim
    f.pass_over("postnorm", "shared_moe_mode", "block_size", *_MINIMAX_SCALES)
    if f.count("shared_intermediate_size"):
        raise f.fail("shared_intermediate_size", "is not 0; the shared block of this family is not read")
    return Parts(
        layers=stack(["attention" if own else "lightning" for own in softmax], ["moe"] * n),
        attention=a,
        moe=experts(f, width="intermediate_size"),
        ssm=SsmArch(d_state=a.head_dim, d_conv=0, d_inner=inner, heads=a.heads, key_heads=a.heads, key_dim=a.head_dim),
    )


def bailing_linear(f: Fields) -> Parts:
    """Ring-linear and Ling-linear: lightning attention, softmax at the end of every group of layers."""
    n, group = num_layers(f), f.size("layer_group_size")
    f.pass_over("group_norm_size", "linear_attn_norm_group_size", "use_linear_silu", "use_linear_gqa")
    softmax = [(i + 1) % group == 0 or i >= n // group * group for i in range(n)]
    parts = bailing(f)
    a = parts.attention
    assert a is not None
    inner = a.heads * a.head_dim
    blocks = [kind.ffn for kind in parts.layers]
    return replace(
        parts,
        layers=stack(["attention" if own else "lightning" for own in softmax], blocks),
        ssm=SsmArch(d_state=a.head_dim, d_conv=0, d_inner=inner, heads=a.heads, key_heads=a.heads, key_dim=a.head_dim),
    )


def lfm2(f: Fields) -> Parts:
    """LFM2: short convolutions with an attention layer every few; LFM2-MoE with experts after dense layers."""
    n, hidden = num_layers(f), hidden_size(f)
    places = f.places("full_attn_idxs", n)
    mixer: list[MixerKind] = ["attention" if i in (places or ()) else "short_conv" for i in range(n)]
    sparse = f.count("num_experts") > 0
    first = f.count("num_dense_layers") if sparse else n
    kinds: list[FfnKind] = ["dense" if i < first else "moe" for i in range(n)]
    f.pass_over("conv_dim", "conv_dim_out", "block_mlp_init_scale", "block_out_init_scale", "block_use_swiglu")
    f.pass_over("block_use_xavier_init", "block_norm_eps", "block_dim", "use_pos_enc", "conv_use_xavier_init")
    if f.flag("conv_bias", False):
        raise f.fail("conv_bias", "is true; biases of convolutions are not counted")
    return Parts(
        layers=stack(mixers(f) if f.has("layer_types") else mixer, kinds),
        attention=attention(f, qk_norm="head"),
        ffn=FfnArch(intermediate=_lfm2_width(f), gated=True) if "dense" in kinds else None,
        moe=experts(f, router_bias=f.flag("use_expert_bias", True)) if sparse else None,
        ssm=SsmArch(d_state=1, d_conv=f.size(f.first("conv_L_cache", "conv_l_cache")), d_inner=hidden),
        tied_default=True,
    )


def _lfm2_width(f: Fields) -> int:
    """Width of a dense block; the first files give a width that is cut to two thirds and rounded up."""
    width = f.size(f.first("block_ff_dim", "intermediate_size"))
    f.pass_over("intermediate_size")
    multiple, factor = f.size("block_multiple_of", 256), f.number_or_none("block_ffn_dim_multiplier")
    if not f.flag("block_auto_adjust_ff_dim", False):
        return width
    return -(-int((factor or 1.0) * int(2 * width / 3)) // multiple) * multiple
