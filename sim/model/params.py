"""Parameters of a model and of the parts of a layer in closed form, whole and active.

Conventions, chosen so that the counts of released checkpoints come out: biases and norms are counted; tied
embeddings are counted once; MTP modules are never part of the total (see `mtp_params`); the routed experts
that a token does not visit are the only weights that are not active. All counts are exact integers. Matrices and
vectors are counted apart: a matrix weight costs one multiply-add per token (two FLOPs), a vector weight (norm, bias,
decay rate) next to nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from moesim.sim.model.arch import AttentionArch, FfnArch, LayerKind, ModelArch, MoeArch, SsmArch
from moesim.sim.model.mixer_weights import NOTHING, RECURRENT, Weights, attention_weights

EXPERT_FFN = ("moe", "moe_residual")
SOFTMAX = ("attention", "window_attention", "cross_attention")


def experts_in(arch: ModelArch, kind: LayerKind) -> int:
    """Number of routed experts in one layer; 0 in a layer without experts."""
    if kind.ffn not in EXPERT_FFN:
        return 0
    return kind.experts if kind.experts is not None else moe_of(arch).experts


def mixer(arch: ModelArch, kind: LayerKind) -> Weights:
    if kind.mixer == "none":
        return NOTHING
    if kind.mixer in SOFTMAX:
        one = attention_weights(attention_of(arch.at(kind)), arch.hidden)
        return one.times(2) if kind.mixer == "cross_attention" else one
    return RECURRENT[kind.mixer](ssm_of(arch), arch.hidden)


def _mlp(width: int, intermediate: int, gated: bool, bias: bool) -> Weights:
    up = 2 if gated else 1
    vector = up * intermediate + width if bias and intermediate else 0
    return Weights((up + 1) * width * intermediate, vector)


def dense_ffn(arch: ModelArch, kind: LayerKind) -> Weights:
    if kind.ffn == "dense":
        ffn = ffn_of(arch.at(kind))
        return _mlp(arch.hidden, ffn.intermediate, ffn.gated, arch.bias)
    if kind.ffn == "moe_residual":
        moe = moe_of(arch)
        return _mlp(arch.hidden, moe.residual_intermediate, moe.gated, arch.bias)
    return NOTHING


def expert(arch: ModelArch) -> Weights:
    moe = arch.moe
    if moe is None:
        return NOTHING
    return _mlp(moe.latent or arch.hidden, moe.expert_intermediate, moe.gated, moe.expert_bias)


def shared(arch: ModelArch) -> Weights:
    moe = arch.moe
    if moe is None:
        return NOTHING
    gate = Weights(arch.hidden if moe.shared_gate else 0, 0)
    return _mlp(arch.hidden, moe.shared_intermediate, moe.gated, arch.bias).plus(gate)


def router(arch: ModelArch, kind: LayerKind) -> Weights:
    if kind.ffn not in EXPERT_FFN:
        return NOTHING
    moe = moe_of(arch)
    experts = experts_in(arch, kind) + moe.zero_experts
    latent = 2 * arch.hidden * moe.latent if moe.latent else 0
    return Weights(arch.hidden * experts + latent, experts if moe.router_bias else 0)


def attention_of(arch: ModelArch) -> AttentionArch:
    if arch.attention is None:
        raise ValueError(f"{arch.name} has attention layers but no attention sizes")
    return arch.attention


def ffn_of(arch: ModelArch) -> FfnArch:
    if arch.ffn is None:
        raise ValueError(f"{arch.name} has dense layers but no ffn sizes")
    return arch.ffn


def moe_of(arch: ModelArch) -> MoeArch:
    if arch.moe is None:
        raise ValueError(f"{arch.name} has MoE layers but no moe sizes")
    return arch.moe


def ssm_of(arch: ModelArch) -> SsmArch:
    if arch.ssm is None:
        raise ValueError(f"{arch.name} has state-space layers but no ssm sizes")
    return arch.ssm


class ActiveParams(NamedTuple):
    """Parameters that one token touches; published figures follow one convention or the other."""

    with_input_embedding: int
    without_input_embedding: int  # leaves out an untied input table (a look-up, not a matrix product)


class LayerParams(NamedTuple):
    """Parameters of one layer, in numbers of weights; `experts` holds all routed experts together."""

    mixer: int
    dense_ffn: int
    experts: int
    shared: int
    router: int
    norms: int

    @property
    def total(self) -> int:
        """All parameters of the layer."""
        return sum(self)


def mixer_params(arch: ModelArch, kind: LayerKind) -> int:
    """Parameters of one layer's token mixer (attention, cross-attention included, or state space)."""
    return mixer(arch, kind).total


def dense_ffn_params(arch: ModelArch, kind: LayerKind) -> int:
    """Parameters of the dense block of one layer: a plain layer's FFN, or the residual MLP beside experts."""
    return dense_ffn(arch, kind).total


def expert_params(arch: ModelArch) -> int:
    """Parameters of ONE routed expert; 0 for a dense model."""
    return expert(arch).total


def shared_params(arch: ModelArch) -> int:
    """Parameters of all shared experts of one MoE layer, with their gate; 0 where there are none."""
    return shared(arch).total


def router_params(arch: ModelArch, kind: LayerKind) -> int:
    """Parameters of one layer's router, with the projections into and out of a latent expert space."""
    return router(arch, kind).total


def norm_params(arch: ModelArch, kind: LayerKind) -> int:
    """Parameters of the norms on one layer's residual stream, and of what mixes several streams.

    A decoder's cross-attention brings one norm more.
    """
    norms = arch.norms_per_layer + (1 if kind.mixer == "cross_attention" else 0)
    blocks = (kind.mixer != "none") + (kind.ffn != "none")
    return norms * _norm_width(arch) + blocks * _mixing_params(arch)


def _mixing_params(arch: ModelArch) -> int:
    """Weights that mix the residual streams before and after one block (hyper-connections); 0 for one stream."""
    n = arch.residual_streams
    if n == 1:
        return 0
    mixed = (2 + n) * n  # what goes in, what comes out, and streams among each other
    return mixed * n * arch.hidden + mixed + 3


def final_norm_params(arch: ModelArch) -> int:
    """Parameters of the last norm of each stack (two stacks when there is an encoder)."""
    stacks = len({kind.encoder for kind in arch.layers})
    return stacks * _norm_width(arch)


def embedding_params(arch: ModelArch) -> int:
    """Parameters of the input table [vocab, hidden] and of learned positions [learned_positions, hidden]."""
    return (arch.vocab + arch.learned_positions) * arch.hidden


def head_params(arch: ModelArch) -> int:
    """Parameters of the output projection [hidden, vocab]; 0 when it is tied to the input table."""
    return 0 if arch.tied_embeddings else arch.vocab * arch.hidden


def layer_params(arch: ModelArch, kind: LayerKind) -> LayerParams:
    """Parameters of one layer, part by part."""
    return LayerParams(
        mixer=mixer_params(arch, kind),
        dense_ffn=dense_ffn_params(arch, kind),
        experts=experts_in(arch, kind) * expert_params(arch),
        shared=shared_params(arch) if kind.ffn in EXPERT_FFN else 0,
        router=router_params(arch, kind),
        norms=norm_params(arch, kind),
    )


def parameters(arch: ModelArch) -> int:
    """All parameters of the text model, MTP modules not counted."""
    layers = sum(n * layer_params(arch, kind).total for kind, n in Counter(arch.layers).items())
    return layers + embedding_params(arch) + head_params(arch) + final_norm_params(arch)


def active_parameters(arch: ModelArch) -> ActiveParams:
    """Parameters that one token touches: everything but the routed experts it does not visit."""
    idle = sum(
        n * max(0, experts_in(arch, kind) - moe_of(arch).top_k) * expert_params(arch)
        for kind, n in Counter(arch.layers).items()
        if kind.ffn in EXPERT_FFN
    )
    active = parameters(arch) - idle
    table = 0 if arch.tied_embeddings else arch.vocab * arch.hidden
    return ActiveParams(active, active - table)


def mtp_params(arch: ModelArch) -> int:
    """Parameters of all multi-token-prediction modules.

    Each holds one attention layer with the model's own feed-forward kind, a projection [2 hidden, hidden],
    two norms on its inputs and one on its output; embedding table and output head are the main model's.
    """
    if arch.mtp_layers == 0:
        return 0
    layer = layer_params(arch, mtp_kind(arch)).total
    # in a stack of single blocks (one norm each) a module holds two of them
    missing_norms = max(0, 2 - arch.norms_per_layer) * _norm_width(arch)
    return arch.mtp_layers * (layer + missing_norms + 2 * arch.hidden**2 + 3 * _norm_width(arch))


def mtp_kind(arch: ModelArch) -> LayerKind:
    """The layer inside an MTP module: full attention, with experts when the model has any."""
    return LayerKind(mixer="attention", ffn="moe" if arch.is_moe else "dense")


def _norm_width(arch: ModelArch) -> int:
    return arch.hidden * (2 if arch.layernorm else 1)
