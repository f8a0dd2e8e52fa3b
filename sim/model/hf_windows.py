"""Hugging Face families whose layers attend within windows, some of them with sizes of their own per layer."""

from __future__ import annotations

from dataclasses import replace

from moesim.sim.model.arch import AttentionArch, FfnKind, LayerKind, MixerKind, Variant, short
from moesim.sim.model.fields import Fields
from moesim.sim.model.hf_parts import (
    Parts,
    all_layers,
    attention,
    dense_ffn,
    every_nth_full,
    experts,
    leading_dense_layers,
    mixers,
    num_layers,
    shared_experts,
    stack,
)


def gemma(f: Fields) -> Parts:
    """Gemma 1: heads of 256, tied tables, a gated GELU block."""
    return Parts(
        layers=stack(mixers(f), all_layers(f, "dense")),
        attention=attention(f),
        ffn=dense_ffn(f),
        tied_default=True,
    )


def gemma2(f: Fields) -> Parts:
    """Gemma 2: every other layer within a window; norms before and after each block."""
    return _gemma(f, every_nth_full(f, 2), "none", (8, 4, 256))


def gemma3(f: Fields) -> Parts:
    """Gemma 3: five layers within a window, one that sees all; norms of queries and keys."""
    step = f.size(f.first("sliding_window_pattern", "_sliding_window_pattern"), 6)
    f.pass_over("sliding_window_pattern", "_sliding_window_pattern")
    parts = _gemma(f, every_nth_full(f, step), "head", (8, 4, 256))
    return replace(parts, vocab_default=262_208, context_default=131_072)


def _gemma(f: Fields, kinds: list[MixerKind], norm: str, defaults: tuple[int, int, int]) -> Parts:
    bias = f.flag("attention_bias", False)
    f.pass_over("query_pre_attn_scalar", "use_bidirectional_attention", "sliding_window_size")
    return Parts(
        layers=stack(kinds, all_layers(f, "dense")),
        attention=attention(
            f,
            bias=(bias, bias),
            qk_norm="head" if norm == "head" else "none",
            window=f.size("sliding_window", 4096),
            defaults=defaults,
        ),
        ffn=dense_ffn(f),
        norms_per_layer=4,
        tied_default=True,
    )


def gemma4(f: Fields) -> Parts:
    """Gemma 4: wide heads and few keys in the layers that see all; experts beside the dense block of every layer."""
    if f.count("hidden_size_per_layer_input"):
        raise f.fail("hidden_size_per_layer_input", "gives every layer inputs of its own, which moesim does not price")
    if f.count("num_kv_shared_layers"):
        raise f.fail("num_kv_shared_layers", "lets layers share keys and values, which moesim does not price")
    if f.flag("use_double_wide_mlp", False):
        raise f.fail("use_double_wide_mlp", "widens the dense block of some layers, which is not read")
    f.pass_over("vocab_size_per_layer_input", "use_bidirectional_attention")
    local = attention(f, qk_norm="head", window=f.size("sliding_window"))
    wide = f.size("global_head_dim", local.head_dim)
    twice = f.flag("attention_k_eq_v", False)
    full = replace(
        local,
        head_dim=wide,
        v_head_dim=wide,
        window=None,
        kv_heads=f.size("num_global_key_value_heads", local.kv_heads) if twice else local.kv_heads,
        no_v_proj=twice,
    )
    f.pass_over("num_global_key_value_heads")
    sparse = f.flag("enable_moe_block", False)
    layers = stack(mixers(f), all_layers(f, "moe_residual" if sparse else "dense"))
    layers = with_variant(layers, [kind.mixer == "attention" for kind in layers], "global")
    moe = replace(experts(f), residual_intermediate=f.size("intermediate_size")) if sparse else None
    f.pass_over("num_experts", "top_k_experts", "moe_intermediate_size", "expert_intermediate_size")
    return Parts(
        layers=layers,
        attention=local,
        ffn=None if sparse else dense_ffn(f),
        moe=moe,
        norms_per_layer=7 if sparse else 4,
        variants=(Variant(name="global", attention=full),),
        tied_default=True,
    )


def with_variant(layers: tuple[LayerKind, ...], where: list[bool], name: str) -> tuple[LayerKind, ...]:
    """The layers, those of `where` with the sizes of a variant."""
    return tuple(replace(kind, variant=name) if own else kind for kind, own in zip(layers, where, strict=True))


def cohere(f: Fields) -> Parts:
    """Command R: one norm before attention and dense block, which run side by side."""
    norm = f.flag("use_qk_norm", False)
    bias = f.flag("attention_bias", False)
    return Parts(
        layers=stack(mixers(f), all_layers(f, "dense")),
        attention=attention(f, bias=(bias, bias), qk_norm="full" if norm else "none"),
        ffn=dense_ffn(f),
        norms_per_layer=1,
        tied_default=True,
    )


def cohere2(f: Fields) -> Parts:
    """Command R7B and Command A: as Command R, three layers in four within a window."""
    kinds = every_nth_full(f, f.size(f.first("sliding_window_pattern", "_sliding_window_pattern"), 4))
    f.pass_over("order_of_interleaved_layers", "layer_switch", "sliding_window_pattern", "_sliding_window_pattern")
    parts = cohere(f)
    a = parts.attention
    assert a is not None
    windowed = replace(a, window=f.size("sliding_window", 4096))
    return replace(parts, layers=stack(kinds, all_layers(f, "dense")), attention=windowed)


def olmo2(f: Fields) -> Parts:
    """OLMo 2 and 3: norms of whole queries and keys; OLMo 3 with windows in three layers of four."""
    bias = f.flag("attention_bias", False)
    window = f.size_or_none("sliding_window")
    kinds = mixers(f) if window is None else every_nth_full(f, 4)
    return Parts(
        layers=stack(kinds, all_layers(f, "dense")),
        attention=attention(f, bias=(bias, bias), qk_norm="full", window=window),
        ffn=dense_ffn(f),
    )


def exaone4(f: Fields) -> Parts:
    """EXAONE 4: norms of queries and keys; windows by a pattern of L and G."""
    return Parts(
        layers=stack(_exaone_mixers(f), all_layers(f, "dense")),
        attention=attention(f, qk_norm="head", window=f.size_or_none("sliding_window")),
        ffn=dense_ffn(f),
    )


def _exaone_mixers(f: Fields) -> list[MixerKind]:
    pattern = f.get("sliding_window_pattern")
    if f.has("layer_types") or not f.has("sliding_window"):
        return mixers(f)
    if isinstance(pattern, int) and not isinstance(pattern, bool) and pattern > 0:
        return every_nth_full(f, pattern)
    if not isinstance(pattern, str) or not pattern or set(pattern) - {"L", "G"}:
        raise f.fail("sliding_window_pattern", f"is {short(pattern)}; needs letters L and G, for example LLLG")
    n = num_layers(f)  # the last layer always sees everything (configuration_exaone4.py)
    letters = (pattern * n)[: n - 1] + "G"
    return ["window_attention" if letter == "L" else "attention" for letter in letters]


def mimo_v2(f: Fields) -> Parts:
    """MiMo-V2: windows with more key heads than the layers that see all, sinks in them; experts after a first layer."""
    n = num_layers(f)
    pattern = f.items("hybrid_layer_pattern", n)
    if pattern is None:
        raise f.fail("hybrid_layer_pattern", "is missing; needs 0 or 1 for every layer")
    if any(entry not in (0, 1) for entry in pattern):
        raise f.fail("hybrid_layer_pattern", f"holds {short(pattern)}; needs 0 (all tokens) or 1 (window)")
    bias = f.flag("attention_bias", False)
    full = replace(
        attention(f, bias=(bias, False)),
        sinks=f.flag("add_full_attention_sink_bias", False),
    )
    local = AttentionArch(
        heads=f.size("swa_num_attention_heads", full.heads),
        kv_heads=f.size("swa_num_key_value_heads", full.kv_heads),
        head_dim=f.size("swa_head_dim", full.head_dim),
        v_head_dim=f.size("swa_v_head_dim", full.v_head_dim),
        window=f.size(f.first("sliding_window", "sliding_window_size")),
        qkv_bias=bias,
        sinks=f.flag("add_swa_attention_sink_bias", False),
    )
    f.pass_over("sliding_window_size", "attention_chunk_size", "attention_value_scale")
    kinds = leading_dense_layers(f)
    layers = stack(["window_attention" if entry else "attention" for entry in pattern], kinds)
    return Parts(
        layers=with_variant(layers, [bool(entry) for entry in pattern], "window"),
        attention=full,
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=experts(f, shared=shared_experts(f), router_bias=f.text("topk_method", "noaux_tc") == "noaux_tc"),
        variants=(Variant(name="window", attention=local),),
        mtp_layers=f.count("num_nextn_predict_layers"),
    )


def step3p5(f: Fields) -> Parts:
    """Step 3.5 and 3.7: windows with heads of their own, a gate per head, experts after the first layers."""
    full = replace(attention(f, qk_norm="head"), head_gate=f.flag("use_head_wise_attn_gate", True), window=None)
    local = replace(full, window=f.size("sliding_window"))
    other = f.part("attention_other_setting")
    if other is not None:
        other.pass_over("attention_type")
        local = replace(
            local,
            heads=other.size("num_attention_heads", local.heads),
            kv_heads=other.size(other.first("num_attention_groups", "num_key_value_heads"), local.kv_heads),
            head_dim=other.size("head_dim", local.head_dim),
            v_head_dim=other.size("head_dim", local.head_dim),
        )
        other.pass_over("true_head_dim")
    named = f.items("layer_types") or []  # files go on for MTP modules
    if len(named) < num_layers(f):
        raise f.fail("layer_types", f"has {len(named)} entries; needs one for each of {num_layers(f)} layers")
    kinds = step_blocks(f)
    f.pass_over("n_shared_experts", "yarn_only_types", "norm_expert_weight", "use_moe", "moe_every_n_layer")
    f.pass_over("moe_layer_offset", "use_rope_layers", "need_fp32_gate", "use_qk_norm", "att_impl_type", "use_swa")
    f.pass_over("zero_centered", "max_seq_len")
    windowed = [entry == "sliding_attention" for entry in named[: num_layers(f)]]
    layers = stack(["window_attention" if own else "attention" for own in windowed], kinds)
    shared = f.count(f.first("share_expert_dim", "share_expert_dims"))
    bias = f.flag(f.first("use_moe_router_bias", "moe_router_bias"), True)
    return Parts(
        layers=with_variant(layers, windowed, "window"),
        attention=full,
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=experts(f, shared=shared, router_bias=bias),
        variants=(Variant(name="window", attention=local),),
        mtp_layers=f.count("num_nextn_predict_layers"),
    )


def step_blocks(f: Fields) -> list[FfnKind]:
    """Which layers hold experts: those of `moe_layers_enum`, or all but the first."""
    if not f.has("moe_layers_enum"):
        return leading_dense_layers(f)
    f.pass_over("first_k_dense_replace")
    listed = f.get("moe_layers_enum")
    words = listed.split(",") if isinstance(listed, str) else listed if isinstance(listed, list) else []
    places = {int(word) for word in words if str(word).strip().isdigit()}
    if len(places) != len(words) or not words:
        raise f.fail("moe_layers_enum", f"is {short(listed)}; needs numbers of layers, for example '3,4,5'")
    return ["moe" if i in places else "dense" for i in range(num_layers(f))]


def minimax_m3(f: Fields) -> Parts:
    """MiniMax-M3: most layers attend to blocks of keys that an indexer of their own chose; leading dense layers."""
    n = num_layers(f)
    plain = attention(
        f,
        qk_norm="head" if f.flag("use_qk_norm", False) else "none",
        output_gate=f.flag("attention_output_gate", False),
    )
    f.pass_over("qk_norm_type", "use_gemma_norm", "n_shared_experts", "swiglu_alpha", "num_nextn_predict_layers")
    chosen, places = _m3_indexer(f, plain)
    kinds = leading_dense_layers(f)
    width = f.first("moe_intermediate_size", "intermediate_size")
    f.pass_over("intermediate_size")
    return Parts(
        layers=with_variant(stack(["attention"] * n, kinds), [not own for own in places], "full"),
        attention=chosen,
        ffn=dense_ffn(f, key="dense_intermediate_size") if "dense" in kinds else None,
        moe=experts(
            f, width=width, shared=f.count("shared_intermediate_size"), router_bias=f.flag("use_routing_bias", False)
        ),
        variants=() if all(places) else (Variant(name="full", attention=plain),),
        mtp_layers=f.count("num_mtp_modules"),
    )


def _m3_indexer(f: Fields, plain: AttentionArch) -> tuple[AttentionArch, list[bool]]:
    """(attention with the indexer, which layers have it): from a part of its own, or from fields of the model."""
    n, part = num_layers(f), f.part("sparse_attention_config")
    if part is None and not f.has("index_n_heads"):
        return plain, [False] * n
    if part is None:
        f.pass_over("index_local_blocks")
        named = f.items("layer_types", n) or ["sparse"] * n
        names = ("index_n_heads", "index_head_dim", "index_topk_blocks", "index_block_size")
        places, own = [name != "full_attention" for name in named], f
    else:
        f.pass_over("layer_types", "index_n_heads", "index_head_dim", "index_topk_blocks", "index_block_size")
        part.pass_over("sparse_disable_index_value", "sparse_score_type", "sparse_init_block", "sparse_local_block")
        if not part.flag("use_sparse_attention", True):
            return plain, [False] * n
        names = ("sparse_num_index_heads", "sparse_index_dim", "sparse_topk_blocks", "sparse_block_size")
        places, own = [entry == 1 for entry in part.items("sparse_attention_freq", n) or [1] * n], part
    heads, dim, blocks, size = (own.size(name) for name in names)
    return replace(plain, index_heads=heads, index_head_dim=dim, index_top_k=blocks * size), places


def afmoe(f: Fields) -> Parts:
    """Trinity (AFMoE): gated attention, windows in three layers of four, leading dense layers, norms around blocks."""
    first = f.count("num_dense_layers")
    for key in ("num_expert_groups", "num_limited_groups"):
        if f.size(key, 1) > 1:
            raise f.fail(key, "is above 1; groups of experts are not read for this family")
    f.pass_over("use_grouped_mm", "load_balance_coeff")
    kinds: list[FfnKind] = ["moe" if i >= first else "dense" for i in range(num_layers(f))]
    return Parts(
        layers=stack(every_nth_full(f, f.size("global_attn_every_n_layers", 4)), kinds),
        attention=attention(f, qk_norm="head", output_gate=True, window=f.size("sliding_window")),
        ffn=dense_ffn(f) if first else None,
        moe=experts(f, shared=f.count("num_shared_experts") * f.size("moe_intermediate_size"), router_bias=True),
        norms_per_layer=4,
    )
