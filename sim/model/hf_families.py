"""Hugging Face families: for each model_type, which fields hold which sizes and what is taken as given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from moesim.sim.model.arch import FfnKind, MixerKind
from moesim.sim.model.fields import Fields
from moesim.sim.model.hf_hybrids import jamba, nemotron_h, qwen_hybrid_dense, qwen_hybrid_moe
from moesim.sim.model.hf_parts import (
    Parts,
    attention,
    dense_ffn,
    experts,
    latent_attention,
    leading_dense_layers,
    mixers,
    num_layers,
    qwen_sparse_layers,
    shared_experts,
    stack,
)


def _all(f: Fields, kind: FfnKind) -> list[FfnKind]:
    return [kind] * num_layers(f)


def _llama(f: Fields) -> Parts:
    bias = f.flag("attention_bias", False)
    window = f.size_or_none("sliding_window")
    mixer = mixers(f, "attention" if window is None else "window_attention")
    return Parts(
        layers=stack(mixer, _all(f, "dense")),
        attention=attention(f, bias=(bias, bias), window=window),
        ffn=dense_ffn(f),
    )


def _mixtral(f: Fields) -> Parts:
    window = f.size_or_none("sliding_window")
    mixer = mixers(f, "attention" if window is None else "window_attention")
    return Parts(
        layers=stack(mixer, _all(f, "moe")),
        attention=attention(f, window=window),
        moe=experts(f, width="intermediate_size"),
    )


def _qwen_window(f: Fields) -> tuple[list[MixerKind], int | None]:
    """Qwen files name a window that counts only with use_sliding_window, from max_window_layers on."""
    if not f.flag("use_sliding_window", False):
        return mixers(f), None
    window, first = f.size("sliding_window"), f.count("max_window_layers")
    default: list[MixerKind] = ["window_attention" if i >= first else "attention" for i in range(num_layers(f))]
    return (mixers(f) if f.has("layer_types") else default), window


def _qwen2(f: Fields) -> Parts:
    mixer, window = _qwen_window(f)
    return Parts(
        layers=stack(mixer, _all(f, "dense")),
        attention=attention(f, bias=(f.flag("attention_bias", True), False), window=window),
        ffn=dense_ffn(f),
        mtp_layers=f.count("num_nextn_predict_layers"),
    )


def _qwen2_moe(f: Fields) -> Parts:
    mixer, window = _qwen_window(f)
    kinds = qwen_sparse_layers(f)
    return Parts(
        layers=stack(mixer, kinds),
        attention=attention(f, bias=(f.flag("qkv_bias", True), False), window=window),
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=experts(f, shared=f.count("shared_expert_intermediate_size"), shared_gate=True),
    )


def _qwen3(f: Fields) -> Parts:
    mixer, window = _qwen_window(f)
    bias = f.flag("attention_bias", False)
    return Parts(
        layers=stack(mixer, _all(f, "dense")),
        attention=attention(f, bias=(bias, bias), qk_norm="head", window=window),
        ffn=dense_ffn(f),
    )


def _qwen3_moe(f: Fields) -> Parts:
    mixer, window = _qwen_window(f)
    kinds = qwen_sparse_layers(f)
    bias = f.flag("attention_bias", False)
    return Parts(
        layers=stack(mixer, kinds),
        attention=attention(f, bias=(bias, bias), qk_norm="head", window=window),
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=experts(f),
    )


def _deepseek_moe(f: Fields) -> Parts:
    """The first DeepSeekMoE (16B): multi-head attention with fine-grained experts."""
    bias = f.flag("attention_bias", False)
    kinds = leading_dense_layers(f)
    return Parts(
        layers=stack(mixers(f), kinds),
        attention=attention(f, bias=(bias, bias)),
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=experts(f, shared=shared_experts(f)),
    )


def _deepseek(f: Fields) -> Parts:
    """DeepSeek-V2, V3, V3.2, Kimi K2, GLM-5: MLA, leading dense layers, shared and routed experts.

    Files in which several layers share one indexer (GLM-5.2) are read as if each had its own.
    """
    kinds = leading_dense_layers(f)
    method = f.text("topk_method", "noaux_tc")
    moe = experts(f, shared=shared_experts(f), router_bias=method == "noaux_tc")
    if method == "greedy":  # DeepSeek-V2-Lite names groups but does not use them
        moe = replace(moe, router="topk", groups=1, top_k_groups=1)
    return Parts(
        layers=stack(mixers(f), kinds),
        attention=latent_attention(f),
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=moe,
        mtp_layers=f.count("num_nextn_predict_layers"),
    )


def _deepseek_v2(f: Fields) -> Parts:
    parts = _deepseek(f)
    return parts if parts.moe is None else replace(parts, moe=replace(parts.moe, router_bias=False))


def _glm4_moe(f: Fields) -> Parts:
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


def _gpt_oss(f: Fields) -> Parts:
    window = f.size("sliding_window")
    default: list[MixerKind] = ["attention" if i % 2 else "window_attention" for i in range(num_layers(f))]
    bias = f.flag("attention_bias", True)
    return Parts(
        layers=stack(mixers(f) if f.has("layer_types") else default, _all(f, "moe")),
        attention=attention(f, bias=(bias, bias), window=window, sinks=True),
        moe=experts(f, width="intermediate_size", expert_bias=True, router_bias=True),
    )


def _dbrx(f: Fields) -> Parts:
    attn, ffn = f.part("attn_config"), f.part("ffn_config")
    if attn is None or ffn is None:
        raise f.fail("attn_config" if attn is None else "ffn_config", "is missing; needs DBRX's nested sizes")
    return Parts(
        layers=stack(mixers(f), _all(f, "moe")),
        attention=replace(attention(f), kv_heads=attn.size("kv_n_heads")),
        moe=experts(ffn, width="ffn_hidden_size"),
    )


def _minimax_m2(f: Fields) -> Parts:
    norm = f.flag("use_qk_norm", False)
    mtp = f.count("num_mtp_modules") if f.flag("use_mtp", False) else 0
    return Parts(
        layers=stack(mixers(f), _all(f, "moe")),
        attention=attention(f, qk_norm="full" if norm else "none"),
        moe=experts(
            f,
            width="intermediate_size",
            shared=f.count("shared_intermediate_size"),
            router_bias=f.flag("use_routing_bias", False),
        ),
        mtp_layers=mtp * f.size("mtp_transformer_layers", 1),
    )


def _grok(f: Fields) -> Parts:
    return Parts(
        layers=stack(mixers(f), _all(f, "moe")),
        attention=attention(f),
        moe=experts(f, width=f.first("moe_intermediate_size", "intermediate_size")),
        norms_per_layer=4,
        tied_default=True,
    )


def _olmoe(f: Fields) -> Parts:
    bias = f.flag("attention_bias", False)
    return Parts(
        layers=stack(mixers(f), _all(f, "moe")),
        attention=attention(f, bias=(bias, bias), qk_norm="full"),
        moe=experts(f, width="intermediate_size"),
    )


def _llama4(f: Fields) -> Parts:
    """Three layers in four attend within chunks, the fourth to all; one shared expert as wide."""
    n, step = num_layers(f), f.size("interleave_moe_layer_step", 1)
    chunk = f.size_or_none("attention_chunk_size")
    local: list[MixerKind] = ["window_attention" if (i + 1) % 4 else "attention" for i in range(n)]
    listed = f.items("moe_layers")
    kinds: list[FfnKind] = [
        "moe" if (i in listed if listed is not None else (i + 1) % step == 0) else "dense" for i in range(n)
    ]
    bias = f.flag("attention_bias", False)
    return Parts(
        layers=stack(mixers(f) if f.has("layer_types") or chunk is None else local, kinds),
        attention=attention(f, bias=(bias, bias), window=chunk),
        ffn=dense_ffn(f, key="intermediate_size_mlp") if "dense" in kinds else None,
        moe=experts(f, width="intermediate_size", shared=f.size("intermediate_size")),
    )


FAMILIES: dict[str, Callable[[Fields], Parts]] = {
    "llama": _llama,
    "mistral": _llama,
    "mixtral": _mixtral,
    "qwen2": _qwen2,
    "mimo": _qwen2,  # Qwen2's shape with MTP
    "qwen2_moe": _qwen2_moe,
    "qwen3": _qwen3,
    "qwen3_vl_text": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "qwen3_vl_moe_text": _qwen3_moe,
    "qwen3_next": qwen_hybrid_moe,
    "qwen3_5_text": qwen_hybrid_dense,
    "qwen3_5_moe_text": qwen_hybrid_moe,
    "deepseek": _deepseek_moe,
    "deepseek_v2": _deepseek_v2,
    "deepseek_v3": _deepseek,
    "deepseek_v32": _deepseek,
    "kimi_k2": _deepseek,
    "glm_moe_dsa": _deepseek,
    "glm4_moe": _glm4_moe,
    "gpt_oss": _gpt_oss,
    "dbrx": _dbrx,
    "jamba": jamba,
    "minimax_m2": _minimax_m2,
    "grok-1": _grok,
    "grok_1": _grok,
    "olmoe": _olmoe,
    "llama4_text": _llama4,
    "nemotron_h": nemotron_h,
}
