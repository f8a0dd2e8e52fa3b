"""Hugging Face families of dense models with full attention: which fields hold which sizes, what is taken as given."""

from __future__ import annotations

from dataclasses import replace

from moesim.sim.model.arch import MixerKind
from moesim.sim.model.fields import Fields
from moesim.sim.model.hf_parts import (
    Parts,
    all_layers,
    attention,
    dense_ffn,
    latent_attention,
    mixers,
    num_layers,
    stack,
)


def llama(f: Fields) -> Parts:
    """Gated blocks, RMSNorm, rotary positions: Llama, Mistral, Phi-3, Granite, SmolLM 3 and many more."""
    bias = f.flag("attention_bias", False)
    window = f.size_or_none("sliding_window")
    f.pass_over("original_max_position_embeddings")
    mixer = mixers(f, "attention" if window is None else "window_attention")
    return Parts(
        layers=stack(mixer, all_layers(f, "dense")),
        attention=attention(f, bias=(bias, bias), window=window),
        ffn=dense_ffn(f),
    )


def qwen_window(f: Fields) -> tuple[list[MixerKind], int | None]:
    """Qwen files name a window that counts only with use_sliding_window, from max_window_layers on."""
    f.pass_over("max_window_layers", "sliding_window")
    if not f.flag("use_sliding_window", False):
        return mixers(f), None
    window, first = f.size("sliding_window"), f.count("max_window_layers")
    default: list[MixerKind] = ["window_attention" if i >= first else "attention" for i in range(num_layers(f))]
    return (mixers(f) if f.has("layer_types") else default), window


def qwen2(f: Fields) -> Parts:
    """Qwen2, Qwen2.5 and MiMo: biases of queries, keys and values."""
    mixer, window = qwen_window(f)
    return Parts(
        layers=stack(mixer, all_layers(f, "dense")),
        attention=attention(f, bias=(f.flag("attention_bias", True), False), window=window),
        ffn=dense_ffn(f),
        mtp_layers=f.count("num_nextn_predict_layers"),
    )


def qwen3(f: Fields) -> Parts:
    """Qwen3: norms of queries and keys."""
    mixer, window = qwen_window(f)
    bias = f.flag("attention_bias", False)
    return Parts(
        layers=stack(mixer, all_layers(f, "dense")),
        attention=attention(f, bias=(bias, bias), qk_norm="head", window=window),
        ffn=dense_ffn(f),
    )


def qkv_out_bias(f: Fields) -> Parts:
    """Seed-OSS: biases of projections and of the output by fields of their own."""
    bias = (f.flag("attention_bias", True), f.flag("attention_out_bias", False))
    return Parts(layers=stack(mixers(f), all_layers(f, "dense")), attention=attention(f, bias=bias), ffn=dense_ffn(f))


def qk_normed(f: Fields) -> Parts:
    """Hunyuan dense: norms of queries and keys unless the file says no."""
    bias = f.flag("attention_bias", False)
    norm = f.flag("use_qk_norm", True)
    return Parts(
        layers=stack(mixers(f), all_layers(f, "dense")),
        attention=attention(f, bias=(bias, bias), qk_norm="head" if norm else "none"),
        ffn=dense_ffn(f),
    )


def ernie(f: Fields) -> Parts:
    """ERNIE 4.5 without experts."""
    bias = f.flag("use_bias", False)
    return Parts(
        layers=stack(mixers(f), all_layers(f, "dense")),
        attention=attention(f, bias=(bias, bias)),
        ffn=dense_ffn(f),
        tied_default=True,
    )


def apertus(f: Fields) -> Parts:
    """Apertus: two matrices with xIELU between, norms of queries and keys."""
    bias = f.flag("attention_bias", False)
    f.pass_over("qk_norm", "post_norm")
    return Parts(
        layers=stack(mixers(f), all_layers(f, "dense")),
        attention=attention(f, bias=(bias, bias), qk_norm="head"),
        ffn=dense_ffn(f, gated=False),
    )


def glm4(f: Fields) -> Parts:
    """GLM-4 (0414): biases of queries, keys and values, norms around both blocks."""
    return Parts(
        layers=stack(mixers(f), all_layers(f, "dense")),
        attention=attention(f, bias=(f.flag("attention_bias", True), False)),
        ffn=dense_ffn(f),
        norms_per_layer=4,
    )


def internlm3(f: Fields) -> Parts:
    """InternLM 3: biases by two fields."""
    bias = (f.flag("qkv_bias", False), f.flag("bias", False))
    return Parts(layers=stack(mixers(f), all_layers(f, "dense")), attention=attention(f, bias=bias), ffn=dense_ffn(f))


def nemotron(f: Fields) -> Parts:
    """Nemotron 4 and Minitron: squared ReLU without a gate, LayerNorm."""
    bias = f.flag("attention_bias", False)
    return Parts(
        layers=stack(mixers(f), all_layers(f, "dense")),
        attention=attention(f, bias=(bias, bias)),
        ffn=dense_ffn(f, gated=False),
        layernorm=True,
    )


def internlm2(f: Fields) -> Parts:
    """InternLM 2 and 2.5: one flag for all biases of attention."""
    bias = f.flag("bias", True)
    return Parts(
        layers=stack(mixers(f), all_layers(f, "dense")), attention=attention(f, bias=(bias, bias)), ffn=dense_ffn(f)
    )


def minicpm(f: Fields) -> Parts:
    """MiniCPM and MiniCPM 4: Llama's shape with scales of its own, tied tables."""
    f.pass_over("scale_emb", "dim_model_base", "scale_depth", "sparse_config")
    return replace(llama(f), tied_default=True)


def dense_latent(f: Fields) -> Parts:
    """MiniCPM 3 and Youtu-LLM: latent attention over dense blocks."""
    f.pass_over("scale_emb", "dim_model_base", "scale_depth")
    return Parts(
        layers=stack(mixers(f), all_layers(f, "dense")),
        attention=latent_attention(f),
        ffn=dense_ffn(f),
        tied_default=True,
    )


def starcoder2(f: Fields) -> Parts:
    """StarCoder 2: two matrices with GELU, LayerNorm, biases everywhere."""
    bias = f.flag("use_bias", True)
    window = f.size_or_none("sliding_window")
    return Parts(
        layers=stack(mixers(f, "attention" if window is None else "window_attention"), all_layers(f, "dense")),
        attention=attention(f, bias=(bias, bias), window=window),
        ffn=dense_ffn(f, gated=False),
        layernorm=True,
        bias=bias,
        tied_default=True,
    )


def arcee(f: Fields) -> Parts:
    """AFM (Arcee): Llama's shape with two matrices and squared ReLU."""
    parts = llama(f)
    return replace(parts, ffn=dense_ffn(f, gated=False))


def llada(f: Fields) -> Parts:
    """LLaDA: Llama's shape under OLMo's names; it denoises blocks of tokens, priced as if it wrote one by one."""
    f.pass_over("embedding_size", "weight_tying", "mlp_ratio", "block_type", "block_group_size", "n_kv_heads")
    f.said.append("a diffusion model: a pass is priced for one token of each sequence, not for a block of them")
    bias = f.flag("include_qkv_bias", False)
    return Parts(
        layers=stack(mixers(f), all_layers(f, "dense")),
        attention=attention(f, bias=(bias, f.flag("include_bias", False))),
        ffn=dense_ffn(f, key="mlp_hidden_size"),
        tied_default=f.flag("weight_tying", False),
        context_default=f.size("max_sequence_length"),
    )
