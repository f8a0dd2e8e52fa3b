"""ModelArch: the sizes of a language model, layer by layer, as frozen records; knows no GPU and no layout.

A model is a row of layers. Each layer is a pair (mixer, ffn): what moves information between tokens and what
transforms each token. Either may be "none", so hybrid stacks that interleave single blocks (Nemotron-3) fit too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

MixerKind = Literal["attention", "window_attention", "cross_attention", "mamba1", "mamba2", "gated_deltanet", "none"]
FfnKind = Literal["dense", "moe", "moe_residual", "none"]  # moe_residual: MoE beside a dense MLP (Arctic, PR-MoE)
RouterKind = Literal["top1", "topk", "group_limited", "expert_choice"]


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

    @property
    def is_mla(self) -> bool:
        """True when keys and values come from a low-rank latent."""
        return self.kv_lora_rank is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class FfnArch:
    """Sizes of a dense feed-forward block: three matrices when gated, two otherwise."""

    intermediate: int
    gated: bool
    activation: str = "silu"


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeArch:
    """Sizes of a mixture-of-experts block."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SsmArch:
    """Sizes of a state-space or linear-attention mixer (Mamba-1, Mamba-2, gated DeltaNet)."""

    d_state: int
    d_conv: int
    d_inner: int  # width of the value path
    heads: int = 1
    key_heads: int = 1  # groups of Mamba-2, key heads of gated DeltaNet
    key_dim: int = 1  # width of one key head (gated DeltaNet)
    dt_rank: int = 0  # Mamba-1


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """One layer: a mixer and a feed-forward block; experts may differ per layer (pyramid MoE)."""

    mixer: MixerKind
    ffn: FfnKind
    experts: int | None = None  # overrides MoeArch.experts in this layer
    encoder: bool = False  # runs on the encoder's sequence, without a causal mask


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArch:
    """A whole model. `layers` lists every layer in order; MTP modules come on top of it."""

    name: str
    hidden: int
    layers: tuple[LayerKind, ...]
    attention: AttentionArch | None
    ffn: FfnArch | None
    moe: MoeArch | None
    ssm: SsmArch | None
    vocab: int
    tied_embeddings: bool
    max_context: int
    bias: bool = False  # biases in every linear layer
    layernorm: bool = False  # norms with bias instead of RMSNorm
    norms_per_layer: int = 2
    learned_positions: int = 0
    mtp_layers: int = 0
    fp8_blocks: bool = False  # its published 8-bit checkpoint scales blocks of 128 x 128 weights, not whole matrices
    source: str = ""
    notes: str = ""

    @property
    def num_layers(self) -> int:
        """Number of layers, MTP modules not counted."""
        return len(self.layers)

    @property
    def is_moe(self) -> bool:
        """True when any layer holds experts."""
        return any(layer.ffn in ("moe", "moe_residual") for layer in self.layers)

    @property
    def moe_layers(self) -> int:
        """Number of layers that hold experts."""
        return sum(layer.ffn in ("moe", "moe_residual") for layer in self.layers)

    def with_layers(self, layers: tuple[LayerKind, ...]) -> ModelArch:
        """The same shapes with other layers (a layer-reduced proxy)."""
        return replace(self, layers=layers)
