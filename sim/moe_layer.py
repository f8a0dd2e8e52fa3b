"""What one mixture-of-experts block computes and sends: router, dispatch, experts, combine, shared experts."""

from __future__ import annotations

from hwmodels.dtypes import bytes_per_element
from hwmodels.work import Comm, ExpertExchange
from sim.arch import LayerKind, MoeArch
from sim.context import ExpertLoad, LayerContext
from sim.layers import (
    enter_tensor_parallel,
    feed_forward,
    leave_tensor_parallel,
    linear,
    norm,
    residual,
)
from sim.steps import Exchange, GroupedLinear, Linear, Pointwise, Step


def _router(ctx: LayerContext, moe: MoeArch, experts: int) -> list[Step]:
    """Scores of every expert, top-k, softmax, auxiliary and z loss, and the token-expert map.

    Traffic: about six passes over tokens x experts in fp32, forward and backward alike.
    """
    t = ctx.local_tokens
    gemm = Linear(
        name="moe.router",
        m=max(1, round(t)),
        n=experts,
        k=ctx.arch.hidden,
        dtype=ctx.half,
        module="moe",
        trainable=ctx.lora_rank == 0,
    )
    passes = ctx.tuning.get("router_passes", ctx.stack.constants_of, ctx.age)
    score_bytes = passes * 4.0 * t * experts
    work = Pointwise(
        name="moe.top_k",
        forward_bytes=score_bytes,
        backward_bytes=score_bytes,
        category="router",
        module="moe",
        kernels=6,
    )
    return [gemm, work]


def _permute(ctx: LayerContext, name: str, rows: float, width: int) -> Pointwise:
    """Copy rows into expert order (or back): read and write 16-bit vectors."""
    factor = ctx.tuning.get("permute_traffic", ctx.stack.constants_of, ctx.age)
    bytes_ = 4.0 * rows * width * factor
    return Pointwise(
        name=name,
        forward_bytes=bytes_,
        backward_bytes=bytes_,
        kind="permute",
        category="permute",
        module="moe",
        kernels=2,
    )


def _exchange(ctx: LayerContext, moe: MoeArch, load: ExpertLoad, width: int) -> tuple[list[Step], list[Step]]:
    if ctx.layout.ep == 1:
        return [], []
    exposed = ctx.tuning.get("ep_exposed", ctx.stack.constants_of, ctx.stack.ep_overlap)

    def exchange(stage: str, dtype: str) -> ExpertExchange:
        return ExpertExchange(
            stage="dispatch" if stage == "dispatch" else "combine",
            tokens=ctx.local_tokens,
            top_k=moe.top_k,
            payload_bytes=width * bytes_per_element(dtype),
            group=ctx.group("ep"),
            node_copies=load.node_copies,
            rank_copies=load.rank_copies,
            deduplicated=ctx.stack.deduplicated_dispatch is True,
            kernel="normal" if ctx.stack.deduplicated_dispatch else "all_to_all",
            imbalance=load.imbalance,
        )

    there = Exchange(
        name="moe.dispatch",
        forward=exchange("dispatch", ctx.stack.dispatch_dtype),
        backward=exchange("combine", "bf16"),
        category="ep_comm",
        module="moe",
        exposed=exposed,
    )
    back = Exchange(
        name="moe.combine",
        forward=exchange("combine", "bf16"),
        backward=exchange("dispatch", ctx.stack.dispatch_dtype),
        category="ep_comm",
        module="moe",
        exposed=exposed,
    )
    return [there], [back]


def _expert_tensor(ctx: LayerContext, rows: float, width: int) -> tuple[list[Step], list[Step]]:
    """Experts split over etp ranks: gather the rows before, reduce-scatter the partial sums after."""
    if ctx.layout.etp == 1:
        return [], []
    group, buffer = ctx.group("etp"), rows * width * 2.0
    gather, scatter = Comm("all_gather", buffer, group), Comm("reduce_scatter", buffer, group)
    enter = Exchange(name="moe.etp_enter", forward=gather, backward=scatter, module="moe")
    leave = Exchange(name="moe.etp_leave", forward=scatter, backward=gather, module="moe")
    return [enter], [leave]


def expert_steps(ctx: LayerContext, moe: MoeArch, load: ExpertLoad, width: int, dtype: str | None = None) -> list[Step]:
    """The local experts' matrices and the activation between; `dtype` of their GEMMs: that of the run, unless given."""
    inner = max(1, moe.expert_intermediate // ctx.layout.etp)
    rows = load.rows
    accumulate = 8.0 * ctx.tuning.get("accumulate_traffic", ctx.stack.constants_of)

    fused = ctx.stack.fused_experts is True
    scale = ctx.tuning.get("fused_expert_mlp_factor") if fused else 1.0
    cast = ctx.cast_bytes() * scale * ctx.tuning.get("expert_cast_factor", ctx.stack.constants_of, ctx.age)
    # published NVFP4 recipes of MoE models gain next to nothing over MXFP8: experts are priced in MXFP8 (assumed)
    dtype = dtype or ("mxfp8" if ctx.precision == "nvfp4" else ctx.precision)

    def grouped(name: str, n: int, k: int) -> GroupedLinear:
        return GroupedLinear(
            name=name,
            rows=rows,
            n=n,
            k=k,
            dtype=dtype,
            cast_bytes=cast,
            accumulate_bytes=accumulate,
            scale=scale,
            trainable=ctx.lora_rank == 0,
            weight_cast_bytes=ctx.weight_cast_bytes(),
            one_launch=fused or ctx.stack.grouped_kernels,
        )

    elements = float(sum(rows)) * inner * ctx.traffic() * scale
    forward_bytes, backward_bytes = (6.0, 10.0) if moe.gated else (4.0, 6.0)
    if moe.expert_bias:  # bias, clamp and gate as separate elementwise kernels (gpt-oss)
        passes = ctx.tuning.get("unfused_activation_passes", ctx.stack.constants_of)
        forward_bytes, backward_bytes = forward_bytes * passes, backward_bytes * passes
    act = Pointwise(
        name="moe.act",
        forward_bytes=forward_bytes * elements,
        backward_bytes=backward_bytes * elements,
        module="moe_act",
    )
    return [grouped("moe.up", (2 if moe.gated else 1) * inner, width), act, grouped("moe.down", width, inner)]


def _shared(ctx: LayerContext, moe: MoeArch) -> list[Step]:
    if not moe.shared_intermediate:
        return []
    steps = enter_tensor_parallel(ctx, "shared.enter", "shared_experts")
    width = max(1, moe.shared_intermediate // ctx.layout.tp)
    steps += feed_forward(ctx, "shared", width, moe.gated, float(ctx.tokens))
    return steps + leave_tensor_parallel(ctx, "shared.leave", "shared_experts")


def moe_steps(ctx: LayerContext, kind: LayerKind) -> list[Step]:
    """One MoE block with its norm and residual; rows and bytes follow the expert load of the busiest rank."""
    moe = ctx.arch.moe
    assert moe is not None
    experts = kind.experts or moe.experts
    load = ctx.load
    assert load is not None, "an MoE layer needs its expert load"
    width = moe.latent or ctx.arch.hidden
    sent = ctx.local_tokens * moe.top_k
    received = float(sum(load.rows))
    steps: list[Step] = [norm(ctx, "moe.norm"), *_router(ctx, moe, experts)]
    steps += _shared(ctx, moe)
    if moe.latent:
        steps.append(linear(ctx, "moe.latent_down", ctx.local_tokens, moe.latent, ctx.arch.hidden))
    there, back = _exchange(ctx, moe, load, width)
    enter, leave = _expert_tensor(ctx, received, width)
    if not ctx.stack.deduplicated_dispatch:
        steps.append(_permute(ctx, "moe.permute", sent, width))
    steps += [*there, *enter, _permute(ctx, "moe.sort", received, width)]
    steps += expert_steps(ctx, moe, load, width)
    steps += [_permute(ctx, "moe.unsort", received, width), *leave, *back]
    if not ctx.stack.deduplicated_dispatch:
        steps.append(_permute(ctx, "moe.unpermute", sent, width))
    if moe.latent:
        steps.append(linear(ctx, "moe.latent_up", ctx.local_tokens, ctx.arch.hidden, moe.latent))
    if kind.ffn == "moe_residual" and moe.residual_intermediate:
        steps += dense_residual(ctx, moe)
    steps.append(residual(ctx, "moe.residual"))
    return steps


def dense_residual(ctx: LayerContext, moe: MoeArch) -> list[Step]:
    """The dense MLP beside the experts (Arctic, PR-MoE)."""
    steps = enter_tensor_parallel(ctx, "residual.enter")
    steps += feed_forward(ctx, "residual", moe.residual_intermediate // ctx.layout.tp, moe.gated, float(ctx.tokens))
    return steps + leave_tensor_parallel(ctx, "residual.leave")
