"""ModelArch: the sizes of a language model, layer by layer, as frozen records; knows no GPU and no layout.

A model is a row of layers. Each layer is a pair (mixer, ffn): what moves information between tokens and what
transforms each token. Either may be "none", so hybrid stacks that interleave single blocks (Nemotron-3) fit too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from reprlib import Repr
from typing import Literal

from moesim.refusal import Refusal

MixerKind = Literal[
    "attention", "window_attention", "cross_attention", "mamba1", "mamba2", "gated_deltanet", "kda", "lightning",
    "short_conv", "none",
]  # fmt: skip
FfnKind = Literal["dense", "moe", "moe_residual", "none"]  # moe_residual: MoE beside a dense MLP (Arctic, PR-MoE)
RouterKind = Literal["top1", "topk", "group_limited", "expert_choice"]


MAX_LAYERS = 10_000
MAX_EXPERTS = 16_384  # of a layer, as many as a placement has slots
MAX_ALL_EXPERTS = 500_000  # of all layers: memory and time are taken for each of them
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 120


class ArchError(Refusal):
    """A model that was asked for cannot be had: says what was asked, why it cannot be, and what would do."""


def short(value: object) -> str:
    """`value` as one short line for a message."""
    return " ".join(_SHORT.repr(value).split())


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionArch:
    """Sizes of softmax attention. MHA, GQA and MQA by kv_heads; MLA when kv_lora_rank is set."""

    heads: int
    kv_heads: int
    head_dim: int  # width of one query/key head; for MLA qk_nope_head_dim + qk_rope_head_dim
    v_head_dim: int  # width of one value head
    q_lora_rank: int | None = None
    kv_lora_rank: int | None = None
    qk_nope_head_dim: int | None = None
    qk_rope_head_dim: int | None = None
    window: int | None = None  # tokens seen by window_attention layers
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: Literal["none", "head", "full"] = "none"
    output_gate: bool = False
    sinks: bool = False
    index_heads: int | None = None  # sparse attention indexer (DSA): heads, width, tokens kept
    index_head_dim: int | None = None
    index_top_k: int | None = None
    index_shared: bool = False  # attends to the keys that the indexer of a layer before chose: has none of its own
    head_gate: bool = False  # one gate per head on the core's output (Step 3.5)
    no_v_proj: bool = False  # values are the keys' projection (Gemma 4's global layers)
    shared_values: bool = False  # one cached vector is key and value (DeepSeek-V4); implies no_v_proj
    compress: int | None = None  # beside its window, a query sees one entry per so many older tokens (DeepSeek-V4)
    o_lora_rank: int | None = None  # the output projection goes through `o_groups` blocks of this width
    o_groups: int | None = None

    @property
    def is_mla(self) -> bool:
        """True when keys and values come from a low-rank latent."""
        return self.kv_lora_rank is not None

    @property
    def cached_width(self) -> int:
        """Elements that one token leaves in the cache of a layer that keeps it, index keys not counted."""
        if self.is_mla:
            return (self.kv_lora_rank or 0) + (self.qk_rope_head_dim or 0)
        return self.kv_heads * (self.head_dim if self.shared_values else self.head_dim + self.v_head_dim)

    @property
    def own_index_dim(self) -> int:
        """Width of the index keys that a layer caches; 0 without an indexer of its own."""
        return 0 if self.index_shared else self.index_head_dim or 0

    def seen(self, tokens: int) -> int:
        """Cache entries that a query behind `tokens` tokens attends to in a layer with compressed keys."""
        older = tokens // (self.compress or 1)
        return max(1, min(self.window or 0, tokens) + min(older, self.index_top_k or older))


@dataclass(frozen=True, slots=True, kw_only=True)
class FfnArch:
    """Sizes of a dense feed-forward block: three matrices when gated, two otherwise."""

    intermediate: int
    gated: bool
    activation: str = "silu"


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeArch:
    """Sizes of a mixture-of-experts block. `top_k` experts compute for a token; identities picked are not in it."""

    experts: int
    top_k: int
    expert_intermediate: int
    gated: bool
    shared_intermediate: int = 0  # total width of all shared experts
    router: RouterKind = "topk"
    groups: int = 1
    top_k_groups: int = 1
    latent: int | None = None  # routed experts act on a projection of this width (LatentMoE)
    expert_bias: bool = False
    router_bias: bool = False
    shared_gate: bool = False
    residual_intermediate: int = 0  # width of the dense MLP beside the experts (moe_residual layers)
    capacity_factor: float | None = None  # the paper's own; None: dropless
    zero_experts: int = 0  # identities beside the experts: the router scores them, they compute nothing (LongCat)


@dataclass(frozen=True, slots=True, kw_only=True)
class SsmArch:
    """Sizes of a state-space, linear-attention or short-convolution mixer."""

    d_state: int
    d_conv: int
    d_inner: int  # width of the value path
    heads: int = 1
    key_heads: int = 1  # groups of Mamba-2, key heads of gated DeltaNet, KDA and lightning attention
    key_dim: int = 1  # width of one key head (gated DeltaNet, KDA, lightning attention)
    dt_rank: int = 0  # Mamba-1
    gate_rank: int = 0  # of the output gate (KDA); 0: a full matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """One layer: a mixer and a feed-forward block; experts may differ per layer (pyramid MoE)."""

    mixer: MixerKind
    ffn: FfnKind
    experts: int | None = None  # overrides MoeArch.experts in this layer
    encoder: bool = False  # runs on the encoder's sequence, without a causal mask
    variant: str | None = None  # sizes of its own, by the name that ModelArch.variants knows them


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Sizes in which some layers differ from the rest; None: as the rest."""

    name: str
    attention: AttentionArch | None = None
    intermediate: int | None = None  # width of the dense block


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Number formats of published weights by part: bf16, fp8, fp8_block, int8, mxfp4, nvfp4 or int4."""

    method: str  # what quantised it, e.g. "fp8 (blocks of 128 x 128)"
    attention: str = "bf16"
    dense: str = "bf16"
    experts: str = "bf16"
    shared: str = "bf16"
    head: str = "bf16"
    kv: str | None = None  # of the cache, where the file says it
    block: tuple[int, int] | None = None  # rows and columns of weights that share a scale, in fp8_block parts


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArch:
    """A whole model: widths in elements, lengths in tokens, nothing per GPU. MTP modules come on top of `layers`.

    `attention`, `ffn`, `moe` and `ssm` hold the sizes that all layers of that kind share; None where none is of it.
    Layers with sizes of their own name a variant: ask `at(kind)` for the sizes that a layer sees.
    """

    name: str
    hidden: int  # width of the residual stream
    layers: tuple[LayerKind, ...]  # every layer in order, an encoder's first
    attention: AttentionArch | None
    ffn: FfnArch | None
    moe: MoeArch | None
    ssm: SsmArch | None
    vocab: int  # rows of the embedding
    tied_embeddings: bool  # the output head is the embedding
    max_context: int  # tokens of the longest sequence
    bias: bool = False  # biases in every linear layer
    layernorm: bool = False  # norms with bias instead of RMSNorm
    norms_per_layer: int = 2
    learned_positions: int = 0  # rows of a position table; 0: none (rotary)
    mtp_layers: int = 0  # modules that predict further tokens
    fp8_blocks: bool = False  # its published 8-bit checkpoint scales blocks of 128 x 128 weights, not whole matrices
    variants: tuple[Variant, ...] = ()
    residual_streams: int = 1  # hyper-connections mix so many copies of the residual stream (DeepSeek-V4)
    checkpoint: Checkpoint | None = field(default=None, compare=False)  # formats of the published weights, where known
    source: str = ""
    notes: str = ""
    said: tuple[str, ...] = field(default=(), compare=False)  # what reading the file assumed or left out
    num_layers: int = field(init=False, repr=False, compare=False)  # MTP modules not counted

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_layers", len(self.layers))

    @property
    def is_moe(self) -> bool:
        """True when any layer holds experts."""
        return any(layer.ffn in ("moe", "moe_residual") for layer in self.layers)

    @property
    def moe_layers(self) -> int:
        """Number of layers that hold experts."""
        return sum(layer.ffn in ("moe", "moe_residual") for layer in self.layers)

    def at(self, kind: LayerKind) -> ModelArch:
        """The model with the sizes that this layer sees: itself, or with those of the layer's variant."""
        return self if kind.variant is None else _with_variant(self, kind.variant)

    def with_layers(self, layers: tuple[LayerKind, ...]) -> ModelArch:
        """The same shapes with other layers (a layer-reduced proxy)."""
        return replace(self, layers=layers)


@lru_cache(maxsize=256)
def _with_variant(arch: ModelArch, name: str) -> ModelArch:
    variant = next((each for each in arch.variants if each.name == name), None)
    if variant is None:
        known = ", ".join(each.name for each in arch.variants) or "none"
        raise ArchError(f"model {arch.name!r}: a layer names variant {name!r}; variants: {known}")
    width = variant.intermediate
    return replace(
        arch,
        attention=variant.attention or arch.attention,
        ffn=replace(arch.ffn, intermediate=width) if width is not None and arch.ffn is not None else arch.ffn,
    )


_SOFTMAX = ("attention", "window_attention", "cross_attention")
_STATE_SPACE = ("mamba1", "mamba2", "gated_deltanet", "kda", "lightning", "short_conv")
KEYED = ("gated_deltanet", "kda", "lightning")


def check(arch: ModelArch) -> None:
    """Raise ArchError for the first pair of sizes that cannot both be true."""
    where = f"model {arch.name!r}"
    _check_layers(arch, where)
    for kind in {*arch.layers}:  # also finds a variant that is not there
        attention = arch.at(kind).attention
        if attention is not None:
            _check_attention(attention, where)
    if arch.moe is not None:
        _check_moe(arch, arch.moe, where)
    if arch.ssm is not None:
        _check_ssm(arch, arch.ssm, where)


def _need(true: bool, where: str, why: str) -> None:
    if not true:
        raise ArchError(f"{where}: {why}")


def _check_layers(arch: ModelArch, where: str) -> None:
    _need(len(arch.layers) <= MAX_LAYERS, where, f"has {len(arch.layers)} layers; needs at most {MAX_LAYERS}")
    mixers = {kind.mixer for kind in arch.layers}
    ffns = {kind.ffn for kind in arch.layers}
    windows = [arch.at(kind).attention for kind in {*arch.layers} if kind.mixer == "window_attention"]
    residual = arch.moe.residual_intermediate if arch.moe else 0
    encoders = [kind.encoder for kind in arch.layers]
    has_attention, has_ssm = arch.attention is not None, arch.ssm is not None
    _need(not mixers & set(_SOFTMAX) or has_attention, where, "attention layers need attention: {heads}")
    _need(all(a is not None and a.window for a in windows), where, "window layers need a window")
    _need(not mixers & set(_STATE_SPACE) or has_ssm, where, "state-space layers need ssm: {d_state}")
    _need("dense" not in ffns or arch.ffn is not None, where, "dense layers need ffn: {intermediate, gated}")
    _need(not arch.is_moe or arch.moe is not None, where, "MoE layers need moe: {experts, top_k, ...}")
    _need("moe_residual" not in ffns or residual > 0, where, "moe_residual layers need residual_intermediate")
    _need(encoders == sorted(encoders, reverse=True), where, "encoder layers must come before decoder layers")
    _need("cross_attention" not in mixers or any(encoders), where, "cross_attention needs encoder layers")


def _check_attention(a: AttentionArch, where: str) -> None:
    _need(a.heads % a.kv_heads == 0, where, f"{a.heads} heads are not a multiple of {a.kv_heads} kv_heads")
    latent = (a.kv_lora_rank, a.qk_nope_head_dim, a.qk_rope_head_dim)
    _need(
        all(latent) or not any(latent),
        where,
        "MLA needs kv_lora_rank, qk_nope_head_dim and qk_rope_head_dim together",
    )
    if a.is_mla:
        split = (a.qk_nope_head_dim or 0) + (a.qk_rope_head_dim or 0)
        _need(a.head_dim == split, where, f"head_dim {a.head_dim} is not qk_nope + qk_rope = {split}")
        _need(a.kv_heads == a.heads, where, f"MLA has no kv_heads of its own; needs {a.heads} or none")
    index = (a.index_heads, a.index_head_dim, a.index_top_k)
    why = "an indexer needs index_heads, index_head_dim and index_top_k together"
    _need(all(index) or not any(index), where, why)
    _need(all(index) or not a.index_shared, where, "index_shared needs the sizes of the indexer that it shares")
    _need(a.compress is None or a.window is not None, where, "compress needs a window of tokens seen in full")
    _need(not a.is_mla or not (a.compress or a.shared_values), where, "MLA has no compress and no shared_values")
    _need(a.heads % (a.o_groups or 1) == 0, where, f"{a.heads} heads are not a multiple of {a.o_groups} o_groups")
    _need(bool(a.o_groups) == bool(a.o_lora_rank), where, "o_lora_rank and o_groups go together")


def _check_moe(arch: ModelArch, moe: MoeArch, where: str) -> None:
    held = [kind.experts or moe.experts for kind in arch.layers if kind.ffn in ("moe", "moe_residual")]
    most = max(moe.experts, moe.zero_experts, *held, 0)
    _need(most <= MAX_EXPERTS, where, f"has {most:,} experts in a layer; needs at most {MAX_EXPERTS:,}")
    every = sum(held)
    _need(every <= MAX_ALL_EXPERTS, where, f"has {every:,} experts in all layers; needs at most {MAX_ALL_EXPERTS:,}")
    fewest = min([moe.experts, *(kind.experts for kind in arch.layers if kind.experts is not None)])
    _need(moe.top_k <= fewest, where, f"top_k {moe.top_k} is more than {fewest} experts")
    _need(moe.router != "top1" or moe.top_k == 1, where, f"router top1 needs top_k 1, not {moe.top_k}")
    _need(not moe.zero_experts or moe.router == "topk", where, "zero_experts need router topk")
    _need(moe.experts % moe.groups == 0, where, f"{moe.experts} experts do not fill {moe.groups} groups")
    why = f"top_k_groups {moe.top_k_groups} is more than {moe.groups} groups"
    _need(moe.top_k_groups <= moe.groups, where, why)
    reachable = moe.experts // moe.groups * moe.top_k_groups
    why = f"top_k {moe.top_k} is more than the {reachable} experts of {moe.top_k_groups} groups"
    _need(moe.top_k <= reachable or moe.groups == 1, where, why)


def _check_ssm(arch: ModelArch, s: SsmArch, where: str) -> None:
    mixers = {kind.mixer for kind in arch.layers}
    _need(s.d_inner % s.heads == 0, where, f"ssm.d_inner {s.d_inner} is not a multiple of {s.heads} heads")
    _need(s.heads % s.key_heads == 0, where, f"{s.heads} heads are no multiple of {s.key_heads} key_heads")
    _need("mamba1" not in mixers or s.dt_rank > 0, where, "mamba1 layers need ssm.dt_rank")
    keyed = next((kind for kind in KEYED if kind in mixers), None)
    _need(keyed is None or s.key_dim > 1, where, f"{keyed} layers need ssm.key_dim")
    recurrent = mixers & set(_STATE_SPACE)
    _need(len(recurrent) < 2, where, f"ssm holds one set of sizes, for one of {', '.join(sorted(recurrent))}")
