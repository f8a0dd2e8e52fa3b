"""What one dense layer computes: attention of every kind and feed-forward blocks, as differentiable steps."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from moesim.hwmodels.work import Attention, Comm
from moesim.sim.layers.context import LayerContext
from moesim.sim.layers.sparse import chooses, compressor_width, index_core, index_projections, sparse_core
from moesim.sim.layers.steps import Core, Exchange, Linear, Pointwise, Step
from moesim.sim.model.arch import AttentionArch
from moesim.sim.model.flops import mean_seen

MLP = ("mlp", "mlp_act")  # modules of a dense feed-forward block: matrices, activation
_ACCUMULATE = 8.0  # fp32 gradient buffer: read and write per weight

# How often memory-bound work moves each element it touches when nothing is fused or spilt. Calibration times the same
# work on a machine with the same numbers: a fit per byte is only worth something where both count the same bytes.
# kind -> (passes forward, passes backward) over the elements named beside it
PASSES: dict[str, tuple[float, float]] = {
    "norm": (2.0, 4.0),  # the hidden state; backward joins the residual's gradient
    "residual": (3.0, 1.0),  # the hidden state: read two, write one
    "rope": (2.0, 2.0),  # queries and keys
    "act": (2.0, 3.0),  # the intermediate activations
    "gated_act": (3.0, 5.0),  # the same with a gate
    "embedding": (2.0, 4.0),  # one row of the table per token; backward adds into its gradient
    "permute": (2.0, 2.0),  # rows copied into expert order
    "unpermute": (2.0, 2.0),  # and back, summed per token
}


def cast_bytes(ctx: LayerContext) -> float:
    """Bytes moved per quantised element (read 16 bits, write both layouts), times the stack's factor."""
    if not ctx.quantised:
        return 0.0
    return 4.0 * ctx.tuning.get("cast_traffic", ctx.precision, ctx.cluster.gpu.generation)


def weight_cast_bytes(ctx: LayerContext) -> float:
    """Bytes moved per weight and micro-batch to quantise and transpose it; 0 in 16 bits."""
    if not ctx.quantised:
        return 0.0
    return ctx.tuning.get("weight_cast_bytes", ctx.precision, ctx.cluster.gpu.generation)


def linear(ctx: LayerContext, name: str, m: float, n: int, k: int, module: str = "") -> Linear:
    """A linear layer in the run's precision, with its cast and gradient-accumulation traffic."""
    adapted = ctx.lora_rank > 0 and (not ctx.lora_attention_only or name.startswith(("attention", "cross")))
    return Linear(
        name=name,
        trainable=ctx.lora_rank == 0,
        adapter_rank=ctx.lora_rank if adapted else 0,
        dequantise_bytes=ctx.dequantise_bytes,
        m=max(1, round(m)),
        n=max(1, n),
        k=max(1, k),
        dtype=ctx.precision,
        module=module,
        cast_bytes=cast_bytes(ctx),
        weight_cast_bytes=weight_cast_bytes(ctx),
        accumulate_bytes=_ACCUMULATE * ctx.tuning.get("accumulate_traffic", ctx.stack.constants_of),
    )


def pointwise(
    ctx: LayerContext, name: str, forward: float, backward: float, module: str = "", kind: str = "elementwise"
) -> Pointwise:
    """Elementwise work: ideal bytes in a 16-bit run, times what this stack moves beyond perfectly fused kernels."""
    stack = ctx.stack.constants_of + ("+compile" if ctx.stack.compiled else "")
    factor = ctx.tuning.get("elementwise_traffic", stack) * ctx.width_bytes / 2.0
    return Pointwise(
        name=name, forward_bytes=forward * factor, backward_bytes=backward * factor, module=module, kind=kind
    )


def passing(ctx: LayerContext, name: str, kind: str, elements: float, module: str = "") -> Pointwise:
    """Work that passes over `elements` as often as its kind does, see PASSES."""
    forward, backward = PASSES[kind]
    return pointwise(ctx, name, 2.0 * forward * elements, 2.0 * backward * elements, module, kind)


def norm(ctx: LayerContext, name: str) -> Pointwise:
    """Norm plus the residual gradient that joins it backward: read and write the hidden state."""
    elements = ctx.local_tokens * ctx.arch.hidden
    return passing(ctx, name, "norm", elements, "layernorm")


def residual(ctx: LayerContext, name: str) -> Pointwise:
    """Residual add (with bias and dropout where they exist): read two, write one."""
    elements = ctx.local_tokens * ctx.arch.hidden
    return replace(passing(ctx, name, "residual", elements), part="residual")


def enter_tensor_parallel(ctx: LayerContext, name: str, module: str = "") -> list[Step]:
    """Before a column-parallel layer: all-gather with sequence parallelism, an all-reduce backward without."""
    if ctx.layout.tp == 1:
        return []
    group, buffer = ctx.layout.group("tp", ctx.cluster), ctx.tokens * ctx.arch.hidden * ctx.width_bytes
    exposed = tp_exposed(ctx)
    if not ctx.layout.sequence_parallel:
        return [
            Exchange(
                name=name, forward=None, backward=Comm("all_reduce", buffer, group), exposed=exposed, module=module
            )
        ]
    gather, scatter = Comm("all_gather", buffer, group), Comm("reduce_scatter", buffer, group)
    enter = Exchange(name=name, forward=gather, backward=scatter, exposed=exposed, module=module)
    if not ctx.stack.regather:
        return [enter]
    again = Exchange(name=f"{name}.regather", forward=None, backward=gather, exposed=exposed, module=module)
    return [enter, again]


def leave_tensor_parallel(ctx: LayerContext, name: str, module: str = "") -> list[Step]:
    """After a row-parallel layer: reduce-scatter with sequence parallelism, an all-reduce forward without."""
    if ctx.layout.tp == 1:
        return []
    group, buffer = ctx.layout.group("tp", ctx.cluster), ctx.tokens * ctx.arch.hidden * ctx.width_bytes
    exposed = tp_exposed(ctx)
    if not ctx.layout.sequence_parallel:
        return [
            Exchange(
                name=name, forward=Comm("all_reduce", buffer, group), backward=None, exposed=exposed, module=module
            )
        ]
    gather, scatter = Comm("all_gather", buffer, group), Comm("reduce_scatter", buffer, group)
    return [Exchange(name=name, forward=scatter, backward=gather, exposed=exposed, module=module)]


def tp_exposed(ctx: LayerContext) -> float:
    """Share of the unit-test time of tensor-parallel communication that compute waits for (above 1: slowed down)."""
    if ctx.stack.tp_overlap:
        return ctx.tuning.get("tp_exposed", ctx.stack.constants_of)
    return ctx.tuning.get("tp_slowdown", ctx.stack.constants_of)


def _context_exchange(ctx: LayerContext, name: str, elements: float) -> list[Step]:
    """Context parallelism as all-to-all between sequence and heads."""
    if ctx.layout.cp == 1:
        return []
    comm = Comm("all_to_all", elements * ctx.width_bytes, ctx.layout.group("cp", ctx.cluster))
    exposed = ctx.tuning.get("cp_exposed", ctx.stack.constants_of)
    return [Exchange(name=name, forward=comm, backward=comm, category="cp_comm", exposed=exposed)]


def _core(ctx: LayerContext, a: AttentionArch, *, window: bool, causal: bool, sparse: bool = False) -> Core:
    heads, kv_heads = a.heads // ctx.layout.tp, max(1, a.kv_heads // ctx.layout.tp)
    seq, cp = ctx.seq_len, ctx.layout.cp
    size = a.window if window and a.window and a.window < seq else None
    if a.compress and causal:  # recent tokens and entries of older ones: as many keys as a query sees on average
        size = min(seq, ceil(mean_seen(a, seq)))
    if cp > 1:  # balanced halves of the causal mask: every rank sees half the keys for its own queries
        q_len, kv_len, masked = max(1, seq // cp), (max(1, seq // 2) if causal else seq), False
        if size is not None:
            kv_len = min(kv_len, size)
            size = None
    else:
        q_len, kv_len, masked = seq, seq, causal
    if not masked:
        size = None
    work = Attention(
        ctx.micro_batch, q_len, kv_len, heads, kv_heads, a.head_dim, a.v_head_dim, masked, size, ctx.half, "forward"
    )
    if ctx.stack.attention_kernel != "unfused":
        if sparse:
            work = work if a.compress else sparse_core(a, work)
        eight = ctx.stack.fp8_attention and ctx.quantised
        return Core(name="attention.core", work=work, scale=ctx.tuning.get("fp8_attention_factor") if eight else 1.0)
    factor = ctx.tuning.get("unfused_score_bytes", ctx.stack.constants_of)
    return Core(name="attention.core", work=work, unfused_bytes=12.0 * factor, unfused_backward_bytes=18.0 * factor)


def _mla_projections(ctx: LayerContext, a: AttentionArch) -> list[Step]:
    assert a.kv_lora_rank and a.qk_nope_head_dim is not None and a.qk_rope_head_dim is not None
    h, t, tp = ctx.arch.hidden, float(ctx.tokens), ctx.layout.tp
    local = ctx.local_tokens
    heads = a.heads // tp
    steps: list[Step] = []
    latent = (a.q_lora_rank or 0) + a.kv_lora_rank + a.qk_rope_head_dim
    steps.append(linear(ctx, "attention.down", local, latent, h))  # down projections are not split over tp
    steps.append(pointwise(ctx, "attention.latent_norm", 4.0 * local * latent, 6.0 * local * latent))
    if a.q_lora_rank:
        steps.append(linear(ctx, "attention.q_up", t, heads * a.head_dim, a.q_lora_rank, "mla_up_proj"))
    else:
        steps.append(linear(ctx, "attention.q", t, heads * a.head_dim, h))
    up = heads * (a.qk_nope_head_dim + a.v_head_dim)
    steps.append(linear(ctx, "attention.kv_up", t, up, a.kv_lora_rank, "mla_up_proj"))
    if gate := _gate_width(a, heads):
        steps.append(linear(ctx, "attention.gate", t, gate, h))
    return [*steps, *index_projections(ctx, a)]


def _gate_width(a: AttentionArch, heads: int) -> int:
    """Columns of the gate on a core's output: as wide as that, one per head, or none."""
    return heads * a.v_head_dim if a.output_gate else heads if a.head_gate else 0


def attention_inputs(ctx: LayerContext, prefix: str = "attention") -> list[Step]:
    """What an attention block does before its core: norm, projections, position encoding."""
    a = ctx.arch.attention
    assert a is not None
    h, t, tp = ctx.arch.hidden, float(ctx.tokens), ctx.layout.tp
    heads, kv = a.heads // tp, max(1, a.kv_heads // tp)
    steps: list[Step] = [norm(ctx, f"{prefix}.norm")]
    steps += enter_tensor_parallel(ctx, f"{prefix}.enter")
    if a.is_mla:
        steps += _mla_projections(ctx, a)
    else:
        values = 0 if a.no_v_proj or a.shared_values else a.v_head_dim
        width = (0 if a.q_lora_rank else heads * a.head_dim) + kv * (a.head_dim + values) + _gate_width(a, heads)
        steps.append(linear(ctx, f"{prefix}.qkv", t, width, h))
        if a.q_lora_rank:
            steps.append(linear(ctx, f"{prefix}.q_down", ctx.local_tokens, a.q_lora_rank, h))
            steps.append(linear(ctx, f"{prefix}.q_up", t, heads * a.head_dim, a.q_lora_rank))
        if a.compress:  # values and gates of the entries that stand for older tokens
            steps.append(linear(ctx, f"{prefix}.compress", t, compressor_width(a), h))
        steps += index_projections(ctx, a)
    rotated = t * (heads + (heads if a.is_mla else kv)) * a.head_dim
    passes = 2.0 if a.qk_norm != "none" else 1.0
    steps.append(passing(ctx, f"{prefix}.rope", "rope", passes * rotated))
    return steps


def attention_output(ctx: LayerContext, prefix: str = "attention") -> list[Step]:
    """What an attention block does after its core: output projection, and the sum over the tensor group."""
    a = ctx.arch.attention
    assert a is not None
    t, h, tp = float(ctx.tokens), ctx.arch.hidden, ctx.layout.tp
    wide = a.heads // tp * a.v_head_dim
    steps: list[Step] = []
    if a.o_lora_rank:  # a block per group of heads: together as many weights as one matrix of this size
        steps.append(linear(ctx, f"{prefix}.out_down", t, a.o_lora_rank, wide))
        wide = max(1, (a.o_groups or 1) * a.o_lora_rank // tp)
    steps.append(linear(ctx, f"{prefix}.out", t, h, wide))
    return [*steps, *leave_tensor_parallel(ctx, f"{prefix}.leave")]


def attention_steps(ctx: LayerContext, *, window: bool = False, causal: bool = True, cross: bool = False) -> list[Step]:
    """One attention block with its norm, projections, position encoding, core and residual."""
    a = ctx.arch.attention
    assert a is not None
    t, tp = float(ctx.tokens), ctx.layout.tp
    heads, kv = a.heads // tp, max(1, a.kv_heads // tp)
    prefix = "cross" if cross else "attention"
    steps = attention_inputs(ctx, prefix)
    steps += _context_exchange(ctx, f"{prefix}.cp_in", t * (heads * a.head_dim + 2 * kv * a.head_dim))
    sparse = not window and not cross and chooses(a, ctx.seq_len)
    core = _core(ctx, a, window=window, causal=causal, sparse=sparse)
    if sparse and not a.index_shared:
        steps += index_core(ctx, a, _core(ctx, a, window=False, causal=causal).work)
    steps.append(core)
    steps += _context_exchange(ctx, f"{prefix}.cp_out", t * heads * a.v_head_dim)
    steps += attention_output(ctx, prefix)
    steps.append(residual(ctx, f"{prefix}.residual"))
    return steps


def feed_forward(
    ctx: LayerContext, name: str, intermediate: int, gated: bool, tokens: float, modules: tuple[str, str] = MLP
) -> list[Step]:
    """Two or three matrices with the activation between; width already split over the tensor group.

    `modules`: what the matrices and the activation are to recompute.
    """
    h = ctx.arch.hidden
    elements = tokens * intermediate
    matrices, activation = modules
    first = linear(ctx, f"{name}.up", tokens, (2 if gated else 1) * intermediate, h, matrices)
    act = passing(ctx, f"{name}.act", "gated_act" if gated else "act", elements, activation)
    return [first, act, linear(ctx, f"{name}.down", tokens, h, intermediate, matrices)]


def dense_ffn_steps(ctx: LayerContext) -> list[Step]:
    """A dense feed-forward block with its norm and residual."""
    f = ctx.arch.ffn
    assert f is not None
    steps: list[Step] = [norm(ctx, "ffn.norm")]
    steps += enter_tensor_parallel(ctx, "ffn.enter", "mlp")
    steps += feed_forward(ctx, "ffn", f.intermediate // ctx.layout.tp, f.gated, float(ctx.tokens))
    steps += leave_tensor_parallel(ctx, "ffn.leave", "mlp")
    steps.append(residual(ctx, "ffn.residual"))
    return steps
