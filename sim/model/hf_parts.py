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
    Variant,
    short,
)
from moesim.sim.model.fields import Fields

_MIXERS: dict[str, MixerKind] = {
    "full_attention": "attention",
    "attention": "attention",
    "sliding_attention": "window_attention",
    "chunked_attention": "window_attention",
    "linear_attention": "gated_deltanet",
    "mamba": "mamba2",
    "conv": "short_conv",
    "deepseek_sparse_attention": "attention",  # the indexer of index_topk picks the keys
}
_ACTIVATIONS = {"swish": "silu", "swiglu": "silu", "relu2": "squared_relu"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a family makes of its config; the rest of a ModelArch is the same for all families."""

    layers: tuple[LayerKind, ...]
    attention: AttentionArch | None
    ffn: FfnArch | None = None
    moe: MoeArch | None = None
    ssm: SsmArch | None = None
    norms_per_layer: int = 2
    mtp_layers: int = 0
    tied_default: bool = False
    variants: tuple[Variant, ...] = ()
    residual_streams: int = 1
    layernorm: bool = False
    bias: bool = False  # in every linear layer
    vocab_default: int | None = None  # of the family's configuration class, where released files leave it out
    context_default: int | None = None


def hidden_size(f: Fields) -> int:
    """Width of the residual stream."""
    return f.size(f.first("hidden_size", "d_model"))


def num_layers(f: Fields) -> int:
    """Number of layers, within what can be a model."""
    key = f.first("num_hidden_layers", "n_layers", "num_layers")
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
    defaults: tuple[int, int, int] | None = None,
) -> AttentionArch:
    """Grouped-query attention by its usual fields; `bias` is (q/k/v, output).

    `defaults`: heads, key heads and width of a head of the family's configuration class.
    """
    preset = defaults or (None, None, None)
    heads = f.size(f.first("num_attention_heads", "n_heads"), preset[0])
    head_dim_key = f.first("head_dim", "attention_head_dim")
    if not f.has(head_dim_key) and preset[2] is None and hidden_size(f) % heads:
        raise f.fail("head_dim", f"is missing, and {heads} heads do not divide hidden_size {hidden_size(f)}")
    head_dim = f.size(head_dim_key, preset[2] or max(1, hidden_size(f) // heads))
    if not f.has(head_dim_key):
        f.assume(
            f"head_dim = {head_dim} ({'of the family' if preset[2] else 'hidden_size / heads'}: not in config.json)"
        )
    kv_key = f.first("num_key_value_heads", "num_attention_groups", "n_kv_heads")
    kv_heads = f.size(kv_key, preset[1] or heads)
    if not f.has(kv_key):
        why = "of the family" if preset[1] else "one per head"
        f.assume(f"num_key_value_heads = {kv_heads} ({why}: not in config.json)")
    return AttentionArch(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=f.size("v_head_dim", head_dim),
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
    f.pass_over("head_dim", "qk_head_dim", "num_key_value_heads")  # the latent's widths stand for them
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


def every_nth_full(f: Fields, step: int) -> list[MixerKind]:
    """`layer_types` where the file has them, else windows with a layer that attends to all every `step` layers."""
    if f.has("layer_types"):
        return mixers(f)
    return ["attention" if (i + 1) % step == 0 else "window_attention" for i in range(num_layers(f))]


def _mixer(f: Fields, entry: Any) -> MixerKind:
    if not isinstance(entry, str) or entry not in _MIXERS:
        raise f.fail("layer_types", f"holds {short(entry)}; needs one of {', '.join(_MIXERS)}")
    return _MIXERS[entry]


def qwen_sparse_layers(f: Fields) -> list[FfnKind]:
    """Which layers hold experts: every `decoder_sparse_step`-th, except `mlp_only_layers`."""
    step = f.size("decoder_sparse_step", 1)
    dense = f.places("mlp_only_layers", num_layers(f)) or ()
    return ["moe" if (i + 1) % step == 0 and i not in dense else "dense" for i in range(num_layers(f))]


def leading_dense_layers(f: Fields) -> list[FfnKind]:
    """Which layers hold experts: those of `mlp_layer_types` or of a list `moe_layer_freq`, where the file has one.

    Otherwise, after `first_k_dense_replace` layers, every `moe_layer_freq`-th.
    """
    n, first = num_layers(f), f.count("first_k_dense_replace")
    named = f.items("mlp_layer_types", n)
    if named is not None:
        f.pass_over("moe_layer_freq")
        return [_block(f, "mlp_layer_types", entry, _BLOCKS) for entry in named]
    if isinstance(f.get("moe_layer_freq"), list):
        listed = f.items("moe_layer_freq", n) or []
        return [_block(f, "moe_layer_freq", entry, _FLAGS) for entry in listed]
    step = f.size("moe_layer_freq", 1)
    return ["moe" if i >= first and i % step == 0 else "dense" for i in range(n)]


_BLOCKS: dict[Any, FfnKind] = {"dense": "dense", "sparse": "moe", "moe": "moe"}
_FLAGS: dict[Any, FfnKind] = {0: "dense", 1: "moe"}  # true and false, too


def _block(f: Fields, key: str, entry: Any, known: dict[Any, FfnKind]) -> FfnKind:
    try:
        return known[entry]
    except (KeyError, TypeError):
        raise f.fail(key, f"holds {short(entry)}; needs {', '.join(map(str, known))}") from None


def listed_experts(f: Fields, key: str) -> list[FfnKind]:
    """Which layers hold experts, from a list of true and false for every layer."""
    flags = f.items(key, num_layers(f))
    if flags is None:
        raise f.fail(key, "is missing; needs true or false for every layer")
    return [_block(f, key, entry, _FLAGS) for entry in flags]


def all_layers(f: Fields, kind: FfnKind) -> list[FfnKind]:
    """The same kind of block in every layer."""
    return [kind] * num_layers(f)


def stack(mixer: list[MixerKind], ffn: list[FfnKind]) -> tuple[LayerKind, ...]:
    """Layers from their mixers and feed-forward kinds, both one per layer."""
    return tuple(LayerKind(mixer=m, ffn=k) for m, k in zip(mixer, ffn, strict=True))


def dense_ffn(f: Fields, *, key: str = "intermediate_size", gated: bool = True) -> FfnArch:
    """A dense block of width `key`."""
    activation = f.text(f.first("hidden_act", "hidden_activation", "mlp_hidden_act"), "silu")
    return FfnArch(intermediate=f.size(key), gated=gated, activation=_ACTIVATIONS.get(activation, activation))


_TOP_K = (
    "num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk", "moe_k", "top_k_experts",
    "experts_per_token",
)  # fmt: skip
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def experts(f: Fields, *, width: str = "moe_intermediate_size", shared: int = 0, **more: bool) -> MoeArch:
    """Gated routed experts by their usual fields; `more` sets expert_bias, router_bias and shared_gate."""
    top_k = _same(f, _TOP_K)
    groups, top_k_groups = (1 if f.get(key) is False else f.size(key, 1) for key in ("n_group", "topk_group"))
    router: RouterKind = "group_limited" if groups > 1 else "top1" if top_k == 1 else "topk"
    return MoeArch(
        experts=_same(f, _EXPERTS),
        top_k=top_k,
        expert_intermediate=f.alike(width, 1),
        gated=True,
        shared_intermediate=shared,
        router=router,
        groups=groups,
        top_k_groups=top_k_groups,
        expert_bias=more.get("expert_bias", False),
        router_bias=more.get("router_bias", False),
        shared_gate=more.get("shared_gate", False),
    )


def _same(f: Fields, names: tuple[str, ...]) -> int:
    """One number by any of its names; files that say it twice must agree."""
    values = {name: f.alike(name, 1) for name in names if f.has(name)}
    if len(set(values.values())) > 1:
        first, second = list(values)[:2]
        raise f.fail(first, f"is {values[first]} and {second} {values[second]}; needs the same number in both")
    return f.alike(f.first(*names), 1)


def shared_experts(f: Fields) -> int:
    """Total width of the shared experts of DeepSeek-like families."""
    return f.count("n_shared_experts") * f.size("moe_intermediate_size")
