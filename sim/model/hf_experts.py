"""Hugging Face families of experts with full attention: which fields hold which sizes, what is taken as given."""

from __future__ import annotations

from dataclasses import replace

from moesim.sim.model.arch import FfnKind, MixerKind
from moesim.sim.model.fields import Fields
from moesim.sim.model.hf_dense import qwen_window
from moesim.sim.model.hf_parts import (
    Parts,
    all_layers,
    attention,
    dense_ffn,
    experts,
    leading_dense_layers,
    listed_experts,
    mixers,
    num_layers,
    qwen_sparse_layers,
    shared_experts,
    stack,
)
from moesim.sim.model.hf_windows import step_blocks


def mixtral(f: Fields) -> Parts:
    """Mixtral: experts in every layer."""
    window = f.size_or_none("sliding_window")
    mixer = mixers(f, "attention" if window is None else "window_attention")
    return Parts(
        layers=stack(mixer, all_layers(f, "moe")),
        attention=attention(f, window=window),
        moe=experts(f, width="intermediate_size"),
    )


def qwen2_moe(f: Fields) -> Parts:
    """Qwen1.5-MoE and Qwen2-MoE: a gated shared expert."""
    mixer, window = qwen_window(f)
    kinds = qwen_sparse_layers(f)
    return Parts(
        layers=stack(mixer, kinds),
        attention=attention(f, bias=(f.flag("qkv_bias", True), False), window=window),
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=experts(f, shared=f.count("shared_expert_intermediate_size"), shared_gate=True),
    )


def qwen3_moe(f: Fields) -> Parts:
    """Qwen3 with experts."""
    mixer, window = qwen_window(f)
    kinds = qwen_sparse_layers(f)
    bias = f.flag("attention_bias", False)
    return Parts(
        layers=stack(mixer, kinds),
        attention=attention(f, bias=(bias, bias), qk_norm="head", window=window),
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=experts(f),
    )


def glm4_moe(f: Fields) -> Parts:
    """GLM-4.5, 4.6 and 4.7: leading dense layers, shared experts."""
    kinds = leading_dense_layers(f)
    return Parts(
        layers=stack(mixers(f), kinds),
        attention=attention(
            f,
            bias=(f.flag("attention_bias", False), False),
            qk_norm="head" if f.flag("use_qk_norm", False) else "none",
        ),
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=experts(f, shared=shared_experts(f), router_bias=True),
        mtp_layers=f.count("num_nextn_predict_layers"),
    )


def gpt_oss(f: Fields) -> Parts:
    """gpt-oss: sinks, every other layer within a window, biases in the experts."""
    window = f.size("sliding_window")
    default: list[MixerKind] = ["attention" if i % 2 else "window_attention" for i in range(num_layers(f))]
    bias = f.flag("attention_bias", True)
    return Parts(
        layers=stack(mixers(f) if f.has("layer_types") else default, all_layers(f, "moe")),
        attention=attention(f, bias=(bias, bias), window=window, sinks=True),
        moe=experts(f, width="intermediate_size", expert_bias=True, router_bias=True),
    )


def dbrx(f: Fields) -> Parts:
    """DBRX: nested sizes."""
    attn, ffn = f.part("attn_config"), f.part("ffn_config")
    if attn is None or ffn is None:
        raise f.fail("attn_config" if attn is None else "ffn_config", "is missing; needs DBRX's nested sizes")
    ffn.pass_over("moe_loss_weight", "moe_normalize_expert_weights", "uniform_expert_assignment", "ffn_act_fn")
    attn.pass_over("clip_qkv")
    return Parts(
        layers=stack(mixers(f), all_layers(f, "moe")),
        attention=attention(f.also(num_key_value_heads=attn.size("kv_n_heads"))),
        moe=experts(ffn, width="ffn_hidden_size"),
    )


def minimax_m2(f: Fields) -> Parts:
    """MiniMax-M2: norms of whole queries and keys."""
    norm = f.flag("use_qk_norm", False)
    if any(entry != 1 for entry in f.items("attn_type_list", num_layers(f)) or []):
        raise f.fail("attn_type_list", "names layers without softmax attention, which this family does not have")
    f.pass_over("qk_norm_type")
    mtp = f.count("num_mtp_modules") if f.flag("use_mtp", False) else 0
    return Parts(
        layers=stack(mixers(f), all_layers(f, "moe")),
        attention=attention(f, qk_norm="full" if norm else "none"),
        moe=experts(
            f,
            width="intermediate_size",
            shared=f.count("shared_intermediate_size"),
            router_bias=f.flag("use_routing_bias", False),
        ),
        mtp_layers=mtp * f.size("mtp_transformer_layers", 1),
    )


def grok(f: Fields) -> Parts:
    """Grok-1: four norms, tied tables."""
    return Parts(
        layers=stack(mixers(f), all_layers(f, "moe")),
        attention=attention(f),
        moe=experts(f, width=f.first("moe_intermediate_size", "intermediate_size")),
        norms_per_layer=4,
        tied_default=True,
    )


def grok_2(f: Fields) -> Parts:
    """Grok-2: a dense block beside the experts of every layer."""
    residual = f.size("intermediate_size") if f.flag("residual_moe", True) else 0
    f.pass_over("residual_moe", "embedding_multiplier_scale", "output_multiplier_scale", "global_attn_every_n")
    if f.get("sliding_window_size") not in (None, -1):
        raise f.fail("sliding_window_size", "names a window, which this family is read without")
    return Parts(
        layers=stack(mixers(f), all_layers(f, "moe_residual" if residual else "moe")),
        attention=attention(f),
        moe=replace(experts(f), residual_intermediate=residual),
        norms_per_layer=4,
    )


def olmoe(f: Fields) -> Parts:
    """OLMoE: norms of whole queries and keys."""
    bias = f.flag("attention_bias", False)
    return Parts(
        layers=stack(mixers(f), all_layers(f, "moe")),
        attention=attention(f, bias=(bias, bias), qk_norm="full"),
        moe=experts(f, width="intermediate_size"),
    )


def llama4(f: Fields) -> Parts:
    """Three layers in four attend within chunks, the fourth to all; one shared expert as wide."""
    n, step = num_layers(f), f.size("interleave_moe_layer_step", 1)
    chunk = f.size_or_none("attention_chunk_size")
    local: list[MixerKind] = ["window_attention" if (i + 1) % 4 else "attention" for i in range(n)]
    listed = f.items("moe_layers")
    kinds: list[FfnKind] = [
        "moe" if (i in listed if listed is not None else (i + 1) % step == 0) else "dense" for i in range(n)
    ]
    bias = f.flag("attention_bias", False)
    f.pass_over("intermediate_size_mlp", "use_qk_norm")  # a norm without weights
    return Parts(
        layers=stack(mixers(f) if f.has("layer_types") or chunk is None else local, kinds),
        attention=attention(f, bias=(bias, bias), window=chunk),
        ffn=dense_ffn(f, key="intermediate_size_mlp") if "dense" in kinds else None,
        moe=experts(f, width="intermediate_size", shared=f.size("intermediate_size")),
    )


_HUNYUAN_BESIDE = (  # of pictures, of training, and of heads for other tasks
    "num_media_embeds", "org_vocab_size", "dense_list", "class_num", "moe_drop_tokens", "anyres_pooling_size",
    "moe_random_routing_dropped_token", "position_embedding_xdrope", "pool_type", "group_limited_greedy",
    "anyres_vit_max_image_size", "anyres_vit_two_views", "add_classification_head", "enable_lm_head_fp32",
    "use_rotary_pos_emb",
)  # fmt: skip


def hunyuan_moe(f: Fields) -> Parts:
    """Hunyuan-A13B: experts in every layer; per-layer lists must say the same for all."""
    if f.flag("use_cla", False):
        raise f.fail("use_cla", "shares keys and values between layers, which moesim does not price")
    f.pass_over("cla_share_factor", "intermediate_size", "use_mixed_mlp_moe", "moe_layer_num_skipped", *_HUNYUAN_BESIDE)
    if f.count("moe_layer_num_skipped"):
        raise f.fail("moe_layer_num_skipped", "leaves the first layers dense, which is not read for this family")
    width = f.first("moe_intermediate_size", "intermediate_size")
    norm, bias = f.flag("use_qk_norm", True), f.flag("attention_bias", False)
    f.pass_over("attention_head_dim", "num_shared_expert")
    return Parts(
        layers=stack(mixers(f), all_layers(f, "moe")),
        attention=attention(f, bias=(bias, bias), qk_norm="head" if norm else "none"),
        moe=experts(f, width=width, shared=f.alike("num_shared_expert", 0, 0) * f.alike(width, 1)),
    )


def ernie_moe(f: Fields) -> Parts:
    """ERNIE 4.5: experts from one layer to another, every few of them."""
    n = num_layers(f)
    first, last = f.alike("moe_layer_start_index", 0, 0), f.alike("moe_layer_end_index", -1, -1)
    step, last = f.size("moe_layer_interval", 1), n - 1 if last == -1 else last
    kinds: list[FfnKind] = ["moe" if first <= i <= last and (i + 1) % step == 0 else "dense" for i in range(n)]
    bias = f.flag("use_bias", False)
    f.pass_over("moe_capacity", "compression_ratio", "weight_share_add_bias", "moe_aux_loss_lambda", "fuse_rms_norm")
    f.pass_over("moe_group", "moe_group_experts", "moe_use_hard_gate", "moe_multimodal_dispatch_use_allgather")
    shared = f.count("moe_num_shared_experts") * f.alike("moe_intermediate_size", 1)
    return Parts(
        layers=stack(mixers(f), kinds),
        attention=attention(f, bias=(bias, bias)),
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=experts(f, shared=shared, router_bias=f.flag("moe_use_aux_free", True)),
        mtp_layers=f.count("num_nextn_predict_layers"),
        tied_default=True,
    )


def bailing(f: Fields) -> Parts:
    """Ling and Ring: leading dense layers, shared experts; the second version norms queries and keys."""
    kinds = leading_dense_layers(f)
    width = f.size("moe_intermediate_size")
    shared = f.count("num_shared_experts") * f.size("moe_shared_expert_intermediate_size", width)
    bias = f.flag("use_bias", False)
    f.pass_over("moe_shared_expert_intermediate_size")
    return Parts(
        layers=stack(mixers(f), kinds),
        attention=attention(
            f, bias=(f.flag("use_qkv_bias", False), bias), qk_norm="head" if f.flag("use_qk_norm", False) else "none"
        ),
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=experts(f, shared=shared, router_bias=f.flag("moe_router_enable_expert_bias", False)),
        mtp_layers=f.count("num_nextn_predict_layers"),
    )


def dots(f: Fields) -> Parts:
    """dots.llm1: as GLM-4.5, norms of queries and keys always."""
    kinds = leading_dense_layers(f)
    bias = f.flag("attention_bias", False)
    return Parts(
        layers=stack(mixers(f), kinds),
        attention=attention(f, bias=(bias, bias), qk_norm="head"),
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=experts(f, shared=shared_experts(f), router_bias=True),
    )


def exaone_moe(f: Fields) -> Parts:
    """K-EXAONE: windows by layer_types, experts where is_moe_layer says so."""
    kinds = listed_experts(f, "is_moe_layer") if f.has("is_moe_layer") else leading_dense_layers(f)
    f.pass_over("first_k_dense_replace", "sliding_window_pattern", "moe_layer_freq", "mlp_layer_types")
    return Parts(
        layers=stack(mixers(f), kinds),
        attention=attention(f, qk_norm="head", window=f.size_or_none("sliding_window")),
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=experts(f, shared=f.count("num_shared_experts") * f.size("moe_intermediate_size"), router_bias=True),
        mtp_layers=f.count("num_nextn_predict_layers"),
    )


def granite_moe(f: Fields) -> Parts:
    """Granite 3 with experts, and with shared ones."""
    bias = f.flag("attention_bias", False)
    return Parts(
        layers=stack(mixers(f), all_layers(f, "moe")),
        attention=attention(f, bias=(bias, bias)),
        moe=experts(f, width="intermediate_size", shared=f.count("shared_intermediate_size")),
        tied_default=True,
    )


def phi_moe(f: Fields) -> Parts:
    """Phi-3.5-MoE: biases of attention, LayerNorm."""
    bias = f.flag("attention_bias", True)
    window = f.size_or_none("sliding_window")
    f.pass_over("lm_head_bias", "original_max_position_embeddings", "input_jitter_noise")
    if window is not None and window >= f.size("max_position_embeddings"):
        window = None  # as published: a window as long as the context
    return Parts(
        layers=stack(mixers(f, "attention" if window is None else "window_attention"), all_layers(f, "moe")),
        attention=attention(f, bias=(bias, bias), window=window),
        moe=experts(f, width="intermediate_size"),
        layernorm=True,
    )


def flex_olmo(f: Fields) -> Parts:
    """FlexOlmo: experts of whole OLMo 2 blocks."""
    bias = f.flag("attention_bias", False)
    return Parts(
        layers=stack(mixers(f), all_layers(f, "moe")),
        attention=attention(f, bias=(bias, bias), qk_norm="full"),
        moe=experts(f, width="intermediate_size"),
    )


def aria(f: Fields) -> Parts:
    """Aria: routed and shared experts of the same width in every layer."""
    shared = f.count("moe_num_shared_experts") * f.size("intermediate_size")
    return Parts(
        layers=stack(mixers(f), all_layers(f, "moe")),
        attention=attention(f),
        moe=experts(f, width="intermediate_size", shared=shared),
    )


def arctic(f: Fields) -> Parts:
    """Arctic: a dense block of the hidden size beside the experts."""
    residual = f.flag("parallel_attn_mlp_res", True)
    f.pass_over("moe_layer_frequency", "use_residual", "moe_train_capacity_factor", "moe_eval_capacity_factor")
    f.pass_over("moe_min_capacity", "moe_token_dropping", "enable_expert_tensor_parallelism", "attention_bias")
    if f.size("moe_layer_frequency", 2 if not residual else 1) > 2 or not residual:
        raise f.fail("parallel_attn_mlp_res", "is false; only experts beside a dense block are read")
    return Parts(
        layers=stack(mixers(f), all_layers(f, "moe_residual")),
        attention=attention(f),
        moe=replace(experts(f, width="intermediate_size"), residual_intermediate=f.size("hidden_size")),
        norms_per_layer=3,
    )


def step3(f: Fields) -> Parts:
    """Step-3: multi-query attention with queries from a latent, shared expert, experts in listed layers."""
    kinds: list[FfnKind] = step_blocks(f)
    a = replace(attention(f.also(num_key_value_heads=1)), q_lora_rank=f.size("share_q_dim"))
    f.pass_over("num_attention_groups", "moe_layer_offset", "moe_every_n_layer")
    return Parts(
        layers=stack(mixers(f), kinds),
        attention=a,
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=experts(f, shared=f.count(f.first("share_expert_dim", "shared_expert_intermediate_size"))),
    )


def klear(f: Fields) -> Parts:
    """Klear: as Qwen3 with experts, shared ones beside them weighed by two coefficients."""
    parts = qwen3_moe(f)
    if parts.moe is None:
        raise f.fail("num_experts", "is missing; needs the number of experts")
    shared = f.count("n_shared_experts") * f.size("moe_intermediate_size")
    return replace(parts, moe=replace(parts.moe, shared_intermediate=shared, router_bias=True))
