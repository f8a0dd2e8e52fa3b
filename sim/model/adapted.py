"""Linear layers that LoRA adapters stand beside: attention's projections, dense blocks and shared experts."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.sim.model.arch import ModelArch
from moesim.sim.model.mixer_weights import optional
from moesim.sim.model.params import EXPERT_FFN, SOFTMAX


@dataclass(frozen=True, slots=True)
class Adapted:
    """A linear layer with adapters, on one rank: widths in elements."""

    in_dim: float
    out_dim: float
    shares: int = 1  # layers that are computed as one and have thin matrices of their own (query, key and value)

    @property
    def rows(self) -> float:
        """Elements of one adapter's thin matrices per unit of rank."""
        return self.shares * self.in_dim + self.out_dim

    @property
    def moved(self) -> float:
        """Elements that one token moves: its input once, its output there and back."""
        return self.in_dim + 2.0 * self.out_dim


def _attention(arch: ModelArch, tp: int) -> list[Adapted]:
    a = arch.attention
    if a is None:
        return []
    out = Adapted(a.heads * a.v_head_dim / tp, arch.hidden)
    if not a.is_mla:
        return [Adapted(arch.hidden, (a.heads * a.head_dim + a.kv_heads * (a.head_dim + a.v_head_dim)) / tp, 3), out]
    kv, rope, nope = optional(a.kv_lora_rank), optional(a.qk_rope_head_dim), optional(a.qk_nope_head_dim)
    q_rank = optional(a.q_lora_rank)
    down = Adapted(arch.hidden, q_rank + kv + rope, 2 if q_rank else 1)
    query = Adapted(q_rank or arch.hidden, a.heads * a.head_dim / tp)
    return [down, query, Adapted(kv, a.heads * (nope + a.v_head_dim) / tp), out]


def _block(hidden: int, width: float, gated: bool) -> list[Adapted]:
    return [Adapted(hidden, (2 if gated else 1) * width, 2 if gated else 1), Adapted(width, hidden)]


def adapted_layers(arch: ModelArch, tp: int, attention_only: bool) -> list[tuple[Adapted, int]]:
    """Linear layers with adapters, and in how many layers of the model each of them is; routed experts carry none."""
    found: dict[Adapted, int] = {}
    for kind in arch.layers:
        own, moe = arch.at(kind), arch.moe
        here = _attention(own, tp) if kind.mixer in SOFTMAX else []
        if not attention_only and kind.ffn == "dense" and own.ffn is not None:
            here += _block(arch.hidden, own.ffn.intermediate / tp, own.ffn.gated)
        if not attention_only and kind.ffn in EXPERT_FFN and moe is not None:
            residual = moe.residual_intermediate if kind.ffn == "moe_residual" else 0
            here += [
                x for w in (moe.shared_intermediate, residual) if w for x in _block(arch.hidden, w / tp, moe.gated)
            ]
        for one in here:
            found[one] = found.get(one, 0) + 1
    return list(found.items())


def adapter_parameters(arch: ModelArch, rank: int, attention_only: bool) -> float:
    """Weights that are trained: rank x (inputs + outputs) of every layer; what is computed as one counts as one."""
    return rank * sum((one.in_dim + one.out_dim) * layers for one, layers in adapted_layers(arch, 1, attention_only))
