"""Hugging Face families with latent attention: DeepSeek V2 to V4, Kimi K2 and K3, GLM-5, LongCat, Kimi Linear."""

from __future__ import annotations

from dataclasses import replace

from moesim.sim.model.arch import (
    AttentionArch,
    FfnKind,
    LayerKind,
    MixerKind,
    MoeArch,
    SsmArch,
    Variant,
    short,
)
from moesim.sim.model.fields import Fields
from moesim.sim.model.hf_parts import (
    Parts,
    attention,
    dense_ffn,
    experts,
    latent_attention,
    leading_dense_layers,
    mixers,
    num_layers,
    shared_experts,
    stack,
)
from moesim.sim.model.hf_windows import with_variant


def deepseek_moe(f: Fields) -> Parts:
    """The first DeepSeekMoE (16B): multi-head attention with fine-grained experts."""
    bias = f.flag("attention_bias", False)
    kinds = leading_dense_layers(f)
    return Parts(
        layers=stack(mixers(f), kinds),
        attention=attention(f, bias=(bias, bias)),
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=experts(f, shared=shared_experts(f)),
    )


def deepseek(f: Fields) -> Parts:
    """DeepSeek V2, V3, V3.2, Kimi K2, GLM-5: MLA, leading dense layers, shared and routed experts."""
    kinds = leading_dense_layers(f)
    method = f.text("topk_method", "noaux_tc")
    moe = experts(f, shared=shared_experts(f), router_bias=method == "noaux_tc") if "moe" in kinds else None
    if method == "greedy" and moe is not None:  # DeepSeek-V2-Lite names groups but does not use them
        moe = replace(moe, router="topk", groups=1, top_k_groups=1)
    latent = latent_attention(f)
    layers = stack(mixers(f), kinds)
    shared = _shares_indexer(f, latent)
    return Parts(
        layers=with_variant(layers, shared, "shared"),
        attention=latent,
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=moe,
        mtp_layers=f.count("num_nextn_predict_layers"),
        variants=(Variant(name="shared", attention=replace(latent, index_shared=True)),) if any(shared) else (),
    )


def _shares_indexer(f: Fields, a: AttentionArch) -> list[bool]:
    """Which layers attend to the keys that an indexer before them chose (GLM-5.2)."""
    n = num_layers(f)
    f.pass_over("index_share_for_mtp_iteration", "indexer_rope_interleave")
    if a.index_top_k is None:
        return [False] * n
    types = f.items("indexer_types", n)
    every, start = f.size("index_topk_freq", 1), f.count("index_skip_topk_offset")
    pattern = f.get("index_topk_pattern")
    if types is not None:
        wrong = next((entry for entry in types if entry not in ("full", "shared")), None)
        if wrong is not None or types[0] != "full":
            raise f.fail("indexer_types", f"holds {short(wrong or types[0])}; needs full or shared, full first")
        return [entry == "shared" for entry in types]
    if pattern is not None:
        if not isinstance(pattern, str) or len(pattern) != n or set(pattern) - {"F", "S"}:
            raise f.fail("index_topk_pattern", f"is {short(pattern)}; needs F or S for each of {n} layers")
        return [letter == "S" for letter in pattern]
    return [every > 1 and max(i - start + 1, 0) % every != 0 for i in range(n)]


def deepseek_v2(f: Fields) -> Parts:
    """DeepSeek-V2: as its descendants, without a bias of the router."""
    parts = deepseek(f)
    return parts if parts.moe is None else replace(parts, moe=replace(parts.moe, router_bias=False))


def deepseek_v4(f: Fields) -> Parts:
    """DeepSeek-V4: one vector is key and value, older tokens in compressed entries, four residual streams.

    arXiv report and modular_deepseek_v4.py of transformers: spans of 4 tokens overlap and are chosen by an indexer,
    spans of 128 are all read; layers of ratio 0 see their window only. The first layers route by a table of tokens.
    """
    n, heads = num_layers(f), f.size("num_attention_heads")
    ratios = _compress_ratios(f, n)
    base = AttentionArch(
        heads=heads,
        kv_heads=f.size("num_key_value_heads", 1),
        head_dim=f.size("head_dim"),
        v_head_dim=f.size("head_dim"),
        q_lora_rank=f.size("q_lora_rank"),
        window=f.size("sliding_window"),
        sinks=True,
        shared_values=True,
        o_lora_rank=f.size("o_lora_rank"),
        o_groups=f.size("o_groups"),
    )
    f.pass_over(
        "qk_rope_head_dim",
        "num_hash_layers",
        "compress_rope_theta",
        "attention_bias",
        "compress_rates",
        "mlp_layer_types",
    )
    index = {key: f.size(name) for key, name in _INDEX.items()}
    shapes = {0: base, 128: replace(base, compress=128)}
    for ratio in {*ratios} - {0}:
        chosen = replace(base, compress=ratio, index_heads=index["heads"], index_head_dim=index["dim"])
        shapes[ratio] = replace(chosen, index_top_k=index["top_k"]) if ratio <= 4 else replace(base, compress=ratio)
    kinds = tuple(
        LayerKind(mixer="attention" if ratio else "window_attention", ffn="moe", variant=f"ratio-{ratio}")
        for ratio in ratios
    )
    streams = f.size("hc_mult", 1)
    f.pass_over("hc_sinkhorn_iters")
    return Parts(
        layers=kinds,
        attention=base,
        moe=experts(f, shared=shared_experts(f), router_bias=True),
        variants=tuple(Variant(name=f"ratio-{r}", attention=shapes[r]) for r in sorted({*ratios})),
        residual_streams=streams,
        mtp_layers=f.count("num_nextn_predict_layers"),
    )


_INDEX = {"heads": "index_n_heads", "dim": "index_head_dim", "top_k": "index_topk"}
_LAYER_RATIOS = {"sliding_attention": 0, "compressed_sparse_attention": 4, "heavily_compressed_attention": 128}


def _compress_ratios(f: Fields, n: int) -> list[int]:
    """Tokens per compressed entry of every layer, 0 where a layer sees its window only; MTP modules follow."""
    if not f.has("compress_ratios") and f.has("layer_types"):
        names = f.items("layer_types", n) or []
        wrong = next((name for name in names if name not in _LAYER_RATIOS), None)
        if wrong is not None:
            raise f.fail("layer_types", f"holds {short(wrong)}; needs {', '.join(_LAYER_RATIOS)}")
        rates = f.part("compress_rates")
        return [
            ratio and (ratio if rates is None else rates.size(name, ratio))
            for name, ratio in ((name, _LAYER_RATIOS[name]) for name in names)
        ]
    listed = f.items("compress_ratios")
    if listed is None or len(listed) < n:
        raise f.fail("compress_ratios", f"has {len(listed or [])} entries; needs one for each of {n} layers")
    f.pass_over("layer_types")
    for ratio in listed:
        if isinstance(ratio, bool) or not isinstance(ratio, int) or not 0 <= ratio <= 65_536:
            raise f.fail("compress_ratios", f"holds {short(ratio)}; needs whole numbers of tokens, or 0")
    return listed[:n]


def longcat(f: Fields) -> Parts:
    """LongCat-Flash: a layer is two attention and two dense blocks, with experts across the first half of it.

    Each is read as two layers: experts beside the first dense block, then attention and the second. Some of what the
    router picks are identities: `top_k` becomes the mean number of experts that compute.
    """
    n = num_layers(f)
    a = latent_attention(f)
    width = f.size(f.first("ffn_hidden_size", "intermediate_size"))
    moe = experts(f, width=f.first("expert_ffn_hidden_size", "moe_intermediate_size"), router_bias=True)
    zero = f.count("zero_expert_num")
    if zero and f.text("zero_expert_type", "identity") != "identity":
        raise f.fail("zero_expert_type", f"is {short(f.get('zero_expert_type'))}; only identity costs nothing")
    f.pass_over("attention_method", "mla_scale_q_lora", "mla_scale_kv_lora", "router_bias", "num_hidden_layers")
    half = (LayerKind(mixer="attention", ffn="moe_residual"), LayerKind(mixer="attention", ffn="dense"))
    f.said.append(f"{n} layers of two attention and two dense blocks are read as {2 * n} layers")
    return Parts(
        layers=half * n,
        attention=a,
        ffn=dense_ffn(Fields({"intermediate_size": width}, f.where)),
        moe=replace(_without_identities(f, moe, zero), residual_intermediate=width),
        mtp_layers=f.count("num_nextn_predict_layers"),
    )


def _without_identities(f: Fields, moe: MoeArch, zero: int) -> MoeArch:
    """Experts that compute on average, where the router picks among experts and identities alike."""
    computing, rest = divmod(moe.top_k * moe.experts, moe.experts + zero)
    if rest or not computing:
        mean = moe.top_k * moe.experts / (moe.experts + zero)
        raise f.fail("zero_expert_num", f"leaves {mean:.2f} computing experts on average; needs a whole number")
    return replace(moe, top_k=computing, zero_experts=zero, router="topk")


def kimi_linear(f: Fields) -> Parts:
    """Kimi Linear and K3: Kimi Delta Attention with a layer of MLA every few; K3 with experts in a latent space."""
    n, linear = num_layers(f), f.part("linear_attn_config")
    if linear is None:
        raise f.fail("linear_attn_config", "is missing; needs kda_layers, num_heads and head_dim")
    kda = linear.items("kda_layers") or []
    full = linear.items("full_attn_layers")
    if not all(isinstance(place, int) and 1 <= place <= n for place in kda):
        raise linear.fail("kda_layers", f"holds {short(kda)}; needs numbers of layers from 1 to {n}")
    if full is not None and sorted([*full, *kda], key=str) != sorted(range(1, n + 1), key=str):
        raise linear.fail("full_attn_layers", f"and kda_layers together do not name each of {n} layers once")
    mixer: list[MixerKind] = ["kda" if i + 1 in kda else "attention" for i in range(n)]
    kinds: list[FfnKind] = leading_dense_layers(f)
    heads, dim = linear.size("num_heads"), linear.size("head_dim")
    rank = 0 if linear.flag("use_full_rank_gate", False) else dim
    shared = f.count("num_shared_experts") * f.size("moe_intermediate_size")
    f.pass_over("rope_theta", "num_expert_group", "head_dim", "attn_res_block_size", "latent_moe_use_norm")
    if f.has("attn_res_block_size"):
        f.said.append("residuals of blocks (attn_res_block_size): neither counted nor priced")
    linear.pass_over("gate_lower_bound")
    moe = experts(f, shared=shared, router_bias=True)
    return Parts(
        layers=stack(mixer, kinds),
        attention=replace(latent_attention(f), output_gate=f.flag("mla_use_output_gate", False)),
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=replace(moe, latent=f.size_or_none("routed_expert_hidden_size")),
        ssm=SsmArch(
            d_state=dim,
            d_conv=linear.size("short_conv_kernel_size"),
            d_inner=heads * dim,
            heads=heads,
            key_heads=heads,
            key_dim=dim,
            gate_rank=rank,
        ),
        mtp_layers=f.count("num_nextn_predict_layers"),
        context_default=f.size_or_none("model_max_length"),
    )
