"""Pieces that Hugging Face families share: attention, layer kinds, blocks, experts by usual field names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from moesim.sim.model.arch import (
    MAX_LAYERS,
    AttentionArch,
    FfnArch,
    FfnKind,
    LayerKind,
    MixerKind,
    MoeArch,
    RouterKind,
    SsmArch,
    short,
)
from moesim.sim.model.fields import Fields

_MIXERS: dict[str, MixerKind] = {
    "full_attention": "attention",
    "sliding_attention": "window_attention",
    "chunked_attention": "window_attention",
    "linear_attention": "gated_deltanet",
    "deepseek_sparse_attention": "attention",  # the indexer of index_topk picks the keys
}
_ACTIVATIONS = {"swish": "silu", "swiglu": "silu", "relu2": "squared_relu"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a family makes of its config; the rest of a ModelArch is the same for all families."""

    layers: tuple[LayerKind, ...]
    attention: AttentionArch
    ffn: FfnArch | None = None
    moe: MoeArch | None = None
    ssm: SsmArch | None = None
    norms_per_layer: int = 2
    mtp_layers: int = 0
    tied_default: bool = False


def hidden_size(f: Fields) -> int:
    """Width of the residual stream."""
    return f.size(f.first("hidden_size", "d_model"))


def num_layers(f: Fields) -> int:
    """Number of layers, within what can be a model."""
    key = f.first("num_hidden_layers", "n_layers")
    layers = f.size(key)
    if layers > MAX_LAYERS:
        raise f.fail(key, f"is {layers}; needs at most {MAX_LAYERS}")
    return layers


def attention(
    f: Fields,
    *,
    bias: tuple[bool, bool] = (False, False),
    qk_norm: Literal["none", "head", "full"] = "none",
    window: int | None = None,
    output_gate: bool = False,
    sinks: bool = False,
) -> AttentionArch:
    """Grouped-query attention by its usual fields; `bias` is (q/k/v, output)."""
    heads = f.size(f.first("num_attention_heads", "n_heads"))
    head_dim_key = f.first("head_dim", "attention_head_dim")
    if not f.has(head_dim_key) and hidden_size(f) % heads:
        raise f.fail("head_dim", f"is missing, and {heads} heads do not divide hidden_size {hidden_size(f)}")
    head_dim = f.size(head_dim_key, max(1, hidden_size(f) // heads))
    return AttentionArch(
        heads=heads,
        kv_heads=f.size("num_key_value_heads", heads),
        head_dim=head_dim,
        v_head_dim=head_dim,
        window=window,
        qkv_bias=bias[0],
        o_bias=bias[1],
        qk_norm=qk_norm,
        output_gate=output_gate,
        sinks=sinks,
    )


def latent_attention(f: Fields) -> AttentionArch:
    """MLA of DeepSeek-V2 and its descendants, with the sparse indexer where there is one."""
    heads = f.size("num_attention_heads")
    nope, rope = f.size("qk_nope_head_dim"), f.size("qk_rope_head_dim")
    bias = f.flag("attention_bias", False)
    return AttentionArch(
        heads=heads,
        kv_heads=heads,
        head_dim=nope + rope,
        v_head_dim=f.size("v_head_dim"),
        q_lora_rank=f.size_or_none("q_lora_rank"),
        kv_lora_rank=f.size("kv_lora_rank"),
        qk_nope_head_dim=nope,
        qk_rope_head_dim=rope,
        qkv_bias=bias,
        o_bias=bias,
        index_heads=f.size_or_none("index_n_heads"),
        index_head_dim=f.size_or_none("index_head_dim"),
        index_top_k=f.size_or_none("index_topk"),
    )


def mixers(f: Fields, default: MixerKind = "attention") -> list[MixerKind]:
    """The mixer of every layer: from `layer_types` when the file has them, else `default` everywhere."""
    n = num_layers(f)
    named = f.items("layer_types", n)
    return [default] * n if named is None else [_mixer(f, entry) for entry in named]


def _mixer(f: Fields, entry: Any) -> MixerKind:
    if not isinstance(entry, str) or entry not in _MIXERS:
        raise f.fail("layer_types", f"holds {short(entry)}; needs one of {', '.join(_MIXERS)}")
    return _MIXERS[entry]


def qwen_sparse_layers(f: Fields) -> list[FfnKind]:
    """Which layers hold experts: every `decoder_sparse_step`-th, except `mlp_only_layers`."""
    step = f.size("decoder_sparse_step", 1)
    dense = f.items("mlp_only_layers") or []
    return ["moe" if (i + 1) % step == 0 and i not in dense else "dense" for i in range(num_layers(f))]


def leading_dense_layers(f: Fields) -> list[FfnKind]:
    """Which layers hold experts: after `first_k_dense_replace` layers, those of `moe_layer_freq`."""
    first, step = f.count("first_k_dense_replace"), f.size("moe_layer_freq", 1)
    return ["moe" if i >= first and i % step == 0 else "dense" for i in range(num_layers(f))]


def stack(mixer: list[MixerKind], ffn: list[FfnKind]) -> tuple[LayerKind, ...]:
    """Layers from their mixers and feed-forward kinds, both one per layer."""
    return tuple(LayerKind(mixer=m, ffn=k) for m, k in zip(mixer, ffn, strict=True))


def dense_ffn(f: Fields, *, key: str = "intermediate_size", gated: bool = True) -> FfnArch:
    """A dense block of width `key`."""
    activation = f.text(f.first("hidden_act", "mlp_hidden_act"), "silu")
    return FfnArch(intermediate=f.size(key), gated=gated, activation=_ACTIVATIONS.get(activation, activation))


def experts(f: Fields, *, width: str = "moe_intermediate_size", shared: int = 0, **more: bool) -> MoeArch:
    """Gated routed experts by their usual fields; `more` sets expert_bias, router_bias and shared_gate."""
    top_k = f.size(f.first("num_experts_per_tok", "num_experts_per_token", "moe_top_k"))
    groups, top_k_groups = f.size("n_group", 1), f.size("topk_group", 1)
    router: RouterKind = "group_limited" if groups > 1 else "top1" if top_k == 1 else "topk"
    return MoeArch(
        experts=f.size(f.first("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")),
        top_k=top_k,
        expert_intermediate=f.size(width),
        gated=True,
        shared_intermediate=shared,
        router=router,
        groups=groups,
        top_k_groups=top_k_groups,
        expert_bias=more.get("expert_bias", False),
        router_bias=more.get("router_bias", False),
        shared_gate=more.get("shared_gate", False),
    )


def shared_experts(f: Fields) -> int:
    """Total width of the shared experts of DeepSeek-like families."""
    return f.count("n_shared_experts") * f.size("moe_intermediate_size")
