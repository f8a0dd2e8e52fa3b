"""LoRA adapters in a pass: two thin kernels beside every linear layer that has them, and the bytes that they move.

Shrink reads the layer's inputs and the thin matrix [rank, in], expand adds to its outputs with [out, rank]. Each
adapter that a pass touches is read once; kernels before 2025-04 read it again for every token.
"""

from __future__ import annotations

from dataclasses import dataclass

from moesim.hwmodels.work import Stream
from moesim.sim.model.arch import ModelArch
from moesim.sim.model.mixer_weights import optional
from moesim.sim.model.params import EXPERT_FFN, SOFTMAX
from moesim.sim.serve.job import ServeJob
from moesim.sim.software.stack import Tuning

_KERNELS = 2  # per linear layer: shrink and expand, however many adapters
_WIDTH = 2.0  # bytes of an element


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


def adapted_layers(job: ServeJob) -> list[tuple[Adapted, int]]:
    """Linear layers with adapters, and in how many layers of the model each of them is."""
    arch, tp = job.arch, job.layout.tp
    assert job.adapters is not None
    everything, moe = job.adapters.targets == "all", arch.moe
    found: dict[Adapted, int] = {}
    for kind in arch.layers:
        own = arch.at(kind)
        here = _attention(own, tp) if kind.mixer in SOFTMAX else []
        if everything and kind.ffn == "dense" and own.ffn is not None:
            here += _block(arch.hidden, own.ffn.intermediate / tp, own.ffn.gated)
        if everything and kind.ffn in EXPERT_FFN and moe is not None:
            residual = moe.residual_intermediate if kind.ffn == "moe_residual" else 0
            here += [
                x for w in (moe.shared_intermediate, residual) if w for x in _block(arch.hidden, w / tp, moe.gated)
            ]
        for one in here:
            found[one] = found.get(one, 0) + 1
    return list(found.items())


def _one_adapter_bytes(job: ServeJob) -> float:
    """Bytes of one adapter's matrices in all layers, on one tensor rank."""
    assert job.adapters is not None
    return _WIDTH * job.adapters.rank * sum(one.rows * layers for one, layers in adapted_layers(job))


def adapter_bytes(job: ServeJob) -> float:
    """Bytes of all adapters on one GPU."""
    return job.adapters.count * _one_adapter_bytes(job) / job.layout.pp if job.adapters is not None else 0.0


def adapter_work(job: ServeJob, tokens: int, tuning: Tuning) -> tuple[Stream, float]:
    """(what a pass of `tokens` tokens moves, seconds of its small kernels) over all layers.

    Which adapter a token asks for is even chance. Constants: adapter_kernel_s, adapter_reads; before adapter_month
    those of early_adapter_kernel_s, early_adapter_reads.
    """
    assert job.adapters is not None
    count, engine = job.adapters.count, job.engine
    early = engine.month is not None and engine.month < tuning.get("adapter_month", engine.name)
    kernel_s, reads = (
        tuning.get(f"early_{name}" if early else name, engine.name) for name in ("adapter_kernel_s", "adapter_reads")
    )
    touched = count * (1.0 - (1.0 - 1.0 / count) ** tokens)
    moved = _WIDTH * tokens * sum(one.moved * layers for one, layers in adapted_layers(job))
    read = _one_adapter_bytes(job) * (touched + reads * tokens)
    kernels = _KERNELS * sum(layers for _, layers in adapted_layers(job))
    return Stream(moved + read, "adapters", 0), kernels * kernel_s
