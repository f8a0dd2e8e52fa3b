"""What one mixture-of-experts block computes and sends: router, dispatch, experts, combine, shared experts."""

from __future__ import annotations

from dataclasses import replace

from moesim.hwmodels.work import Comm, ExpertExchange, Group
from moesim.sim.layers.context import LayerContext
from moesim.sim.layers.dense import (
    PASSES,
    cast_bytes,
    enter_tensor_parallel,
    feed_forward,
    leave_tensor_parallel,
    linear,
    norm,
    passing,
    residual,
    weight_cast_bytes,
)
from moesim.sim.layers.exchange import STAGES, TRAINING, ExpertTokens, expert_exchange
from moesim.sim.layers.masks import EINSUM, mask_steps
from moesim.sim.layers.steps import Exchange, GroupedLinear, Linear, Pointwise, Step
from moesim.sim.layout.layout import BadLayout
from moesim.sim.layout.placement import ExpertLoad
from moesim.sim.model.arch import LayerKind, MoeArch
from moesim.sim.software.dispatchers import carried

_SCORE_BYTES = 4.0  # routers score in fp32


def router_bytes(tokens: float, experts: int, passes: float) -> float:
    """Bytes of scores that top-k, softmax and the losses move in one direction."""
    return passes * _SCORE_BYTES * tokens * experts


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
    score_bytes = router_bytes(t, experts, passes)
    work = Pointwise(
        name="moe.top_k",
        forward_bytes=score_bytes,
        backward_bytes=score_bytes,
        kind="router",
        category="router",
        module="moe",
        kernels=6,
    )
    return [gemm, work]


def _permute(ctx: LayerContext, name: str, rows: float, width: int, kind: str = "permute") -> Pointwise:
    """Copy rows into expert order (or back: "unpermute"): read and write vectors."""
    factor = ctx.tuning.get("permute_traffic", ctx.stack.constants_of, ctx.age)
    forward, backward = PASSES[kind]
    moved = ctx.width_bytes * rows * width * factor
    return Pointwise(
        name=name,
        forward_bytes=forward * moved,
        backward_bytes=backward * moved,
        kind=kind,
        category="permute",
        module="moe",
        kernels=2,
    )


def _exchange(
    ctx: LayerContext, moe: MoeArch, experts: int, load: ExpertLoad, width: int
) -> tuple[list[Step], list[Step]]:
    """(before, after) the experts: what one way sends forward, the other sends backward."""
    if ctx.layout.ep == 1:
        return [], []
    group = ctx.layout.group("ep", ctx.cluster)
    nic_share, copy_s = 1.0, 0.0
    if group.domains > 1:
        link = (ctx.cluster.fabric_kind, ctx.stack.dispatcher)
        nic_share, copy_s = carried(ctx.tuning, *link, (ctx.stack.name, ctx.age))
    kernel, slots = TRAINING.kernel(ctx.stack.dispatcher), 0.0
    if not ctx.dropless and kernel in TRAINING.per_expert:  # buffers [experts, capacity] travel whole, filled or not
        slots = float(sum(load.rows)) / ctx.layout.etp / moe.top_k
    sent = ExpertTokens(
        tokens=slots or ctx.dispatched_tokens,
        top_k=moe.top_k,
        experts=experts,
        width=width,
        dtype=ctx.stack.dispatch_dtype,
        plain_bytes=ctx.width_bytes,
        group=group,
        kernel=kernel,
        sms=int(ctx.tuning.get("exchange_sms", ctx.stack.dispatcher)),
        node_copies=load.node_copies,
        rank_copies=load.rank_copies,
        imbalance=load.imbalance,
        nic_share=nic_share,
        copy_s=copy_s,
    )
    if ctx.stack.dispatcher == "two-level" and group.domains > 1 and group.per_domain > 1:
        return _two_levels(ctx, sent)
    there, back = _both_ways("", sent)
    return [there], [back]


def _both_ways(where: str, sent: ExpertTokens) -> tuple[Step, Step]:
    """The exchange before the experts and the one after: what one sends forward, the other sends backward."""
    dispatch, combine = (expert_exchange(TRAINING, stage, sent) for stage in STAGES)

    def step(name: str, forward: ExpertExchange, backward: ExpertExchange) -> Step:
        return Exchange(name=name + where, forward=forward, backward=backward, category="ep_comm", module="moe")

    return step("moe.dispatch", dispatch, combine), step("moe.combine", combine, dispatch)


def _two_levels(ctx: LayerContext, sent: ExpertTokens) -> tuple[list[Step], list[Step]]:
    """Two-dimensional hierarchical exchange (Tutel, arXiv:2206.03382, section 3.4): every copy goes to the GPU of its
    domain that sits on its destination's rail, then in one message per domain to the destination.

    Between the stages rows are put in order again, so that what goes to one domain lies together.
    """
    group = sent.group
    if group.ranks % group.per_domain:
        raise BadLayout(
            f"dispatcher=two-level sends over rails of hosts that hold equally many ranks; ep={ctx.layout.ep} fills "
            f"hosts of {group.per_domain} unevenly; use a multiple of it, or dispatcher=alltoall"
        )
    inside = replace(sent, group=Group(group.per_domain, group.per_domain))
    between = replace(sent, group=Group(group.domains, 1))
    there_in, back_in = _both_ways(".inside", inside)
    there_out, back_out = _both_ways(".between", between)
    rows = sent.tokens * sent.top_k
    there = [there_in, _permute(ctx, "moe.regroup.there", rows, sent.width), there_out]
    return there, [back_out, _permute(ctx, "moe.regroup.back", rows, sent.width), back_in]


def _expert_tensor(ctx: LayerContext, rows: float, width: int) -> tuple[list[Step], list[Step]]:
    """Experts split over etp ranks: gather the rows before, reduce-scatter the partial sums after.

    Where every rank was sent all rows, partial sums are all-reduced.
    """
    if ctx.layout.etp == 1:
        return [], []
    group, buffer = ctx.layout.group("etp", ctx.cluster), rows * width * ctx.width_bytes
    if ctx.layout.duplicates == "send":
        total = Comm("all_reduce", buffer, group)
        enter = Exchange(name="moe.etp_enter", forward=None, backward=total, module="moe")
        leave = Exchange(name="moe.etp_leave", forward=total, backward=None, module="moe")
        return [enter], [leave]
    gather, scatter = Comm("all_gather", buffer, group), Comm("reduce_scatter", buffer, group)
    enter = Exchange(name="moe.etp_enter", forward=gather, backward=scatter, module="moe")
    leave = Exchange(name="moe.etp_leave", forward=scatter, backward=gather, module="moe")
    return [enter], [leave]


def _drop_duplicates(ctx: LayerContext) -> tuple[list[Step], list[Step]]:
    """Without sequence parallelism each GPU of a tensor group dispatches its share of their common tokens (TED's DTD).

    The results are gathered after the combine, their gradients after the backward of the dispatch.
    """
    lay = ctx.layout
    if lay.sequence_parallel or lay.tp == 1 or lay.duplicates == "send":
        return [], []
    gather = Comm("all_gather", ctx.tokens * ctx.arch.hidden * 2.0, ctx.layout.group("tp", ctx.cluster))
    drop = Exchange(name="moe.drop_duplicates", forward=None, backward=gather, module="moe")
    back = Exchange(name="moe.gather_duplicates", forward=gather, backward=None, module="moe")
    return [drop], [back]


def expert_steps(ctx: LayerContext, moe: MoeArch, load: ExpertLoad, width: int, dtype: str | None = None) -> list[Step]:
    """The local experts' matrices and the activation between; `dtype` of their GEMMs: that of the run, unless given."""
    inner = max(1, moe.expert_intermediate // ctx.layout.etp)
    rows = load.rows
    accumulate = 8.0 * ctx.tuning.get("accumulate_traffic", ctx.stack.constants_of)

    fused = ctx.stack.fused_experts is True
    scale = ctx.tuning.get("fused_expert_mlp_factor") if fused else 1.0
    cast = cast_bytes(ctx) * scale * ctx.tuning.get("expert_cast_factor", ctx.stack.constants_of, ctx.age)
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
            weight_cast_bytes=weight_cast_bytes(ctx),
            one_launch=fused or ctx.stack.grouped_kernels,
        )

    elements = float(sum(rows)) * inner * scale
    if moe.expert_bias:  # bias, clamp and gate as separate elementwise kernels (gpt-oss)
        elements *= ctx.tuning.get("unfused_activation_passes", ctx.stack.constants_of)
    act = passing(ctx, "moe.act", "gated_act" if moe.gated else "act", elements, "moe_act")
    return [grouped("moe.up", (2 if moe.gated else 1) * inner, width), act, grouped("moe.down", width, inner)]


def _shared(ctx: LayerContext, moe: MoeArch) -> list[Step]:
    if not moe.shared_intermediate:
        return []
    steps = enter_tensor_parallel(ctx, "shared.enter", "shared_experts")
    width = max(1, moe.shared_intermediate // ctx.layout.tp)
    steps += feed_forward(ctx, "shared", width, moe.gated, float(ctx.tokens), ("shared_experts", "shared_act"))
    return steps + leave_tensor_parallel(ctx, "shared.leave", "shared_experts")


def moe_steps(ctx: LayerContext, kind: LayerKind) -> list[Step]:
    """One MoE block with its norm and residual; rows and bytes follow the expert load of the busiest rank."""
    moe = ctx.arch.moe
    assert moe is not None
    experts = kind.experts or moe.experts
    load = ctx.load
    assert load is not None, "an MoE layer needs its expert load"
    width = moe.latent or ctx.arch.hidden
    sent = ctx.dispatched_tokens * moe.top_k
    received = float(sum(load.rows))
    steps: list[Step] = [norm(ctx, "moe.norm"), *_router(ctx, moe, experts + moe.zero_experts)]
    steps += _shared(ctx, moe)
    if moe.latent:
        steps.append(linear(ctx, "moe.latent_down", ctx.local_tokens, moe.latent, ctx.arch.hidden, "moe"))
    there, back = _exchange(ctx, moe, experts, load, width)
    enter, leave = _expert_tensor(ctx, received, width)
    drop, regather = _drop_duplicates(ctx)
    steps += drop
    if ctx.stack.dispatcher == EINSUM:
        steps += _by_masks(ctx, moe, load, width, ([*there, *enter], [*leave, *back]))
        return steps + _after_experts(ctx, kind, moe, regather)
    # the other kernels permute while they copy
    copies = TRAINING.kernel(ctx.stack.dispatcher) in TRAINING.per_expert and ctx.layout.ep > 1
    if copies:
        steps.append(_permute(ctx, "moe.permute", sent, width))
    steps += [*there, *enter, _permute(ctx, "moe.sort", received, width)]
    steps += expert_steps(ctx, moe, load, width)
    # whoever brings rows back to their tokens also adds them up: here, or after the exchange of plain copies
    steps += [_permute(ctx, "moe.unsort", received, width, "permute" if copies else "unpermute"), *leave, *back]
    if copies:
        steps.append(_permute(ctx, "moe.unpermute", sent, width, "unpermute"))
    return steps + _after_experts(ctx, kind, moe, regather)


def _by_masks(
    ctx: LayerContext, moe: MoeArch, load: ExpertLoad, width: int, transfers: tuple[list[Step], list[Step]]
) -> list[Step]:
    """Masks in place of copies: slots arrive in the order of experts, so nothing is sorted on either side."""
    slots = float(sum(load.rows)) / ctx.layout.etp
    there, back = mask_steps(ctx, moe, slots, width)
    return [*there, *transfers[0], *expert_steps(ctx, moe, load, width), *transfers[1], *back]


def _after_experts(ctx: LayerContext, kind: LayerKind, moe: MoeArch, regather: list[Step]) -> list[Step]:
    """What follows the experts however tokens came to them."""
    steps: list[Step] = list(regather)
    if moe.latent:
        steps.append(linear(ctx, "moe.latent_up", ctx.local_tokens, ctx.arch.hidden, moe.latent, "moe"))
    if kind.ffn == "moe_residual" and moe.residual_intermediate:
        steps += dense_residual(ctx, moe)
    steps.append(residual(ctx, "moe.residual"))
    return steps


def dense_residual(ctx: LayerContext, moe: MoeArch) -> list[Step]:
    """The dense MLP beside the experts (Arctic, PR-MoE)."""
    steps = enter_tensor_parallel(ctx, "residual.enter", "mlp")
    steps += feed_forward(ctx, "residual", moe.residual_intermediate // ctx.layout.tp, moe.gated, float(ctx.tokens))
    return steps + leave_tensor_parallel(ctx, "residual.leave", "mlp")
