"""What one layer computes in an inference pass: the builders of training, with the cores and exchanges of serving.

A pass works on `tokens` new tokens of one tensor group. Everything but the attention core depends on their number
only; the core depends on what each sequence holds in its cache, and is priced apart (sim/serve/step_parts.py).
"""

from __future__ import annotations

from dataclasses import replace

from moesim.hwmodels.gpu import bytes_per_element
from moesim.hwmodels.work import Comm, ExpertExchange
from moesim.sim.layers.context import LayerContext
from moesim.sim.layers.dense import (
    attention_inputs,
    attention_output,
    dense_ffn_steps,
    feed_forward,
    leave_tensor_parallel,
    linear,
    norm,
    pointwise,
)
from moesim.sim.layers.exchange import SERVING, STAGES, ExpertTokens, expert_exchange, payload_bytes
from moesim.sim.layers.experts import expert_steps
from moesim.sim.layers.state_space import ssm_steps
from moesim.sim.layers.steps import Exchange, Linear, Pointwise, Step
from moesim.sim.layout.placement import ExpertLoad, distinct_holders
from moesim.sim.model.arch import LayerKind, MoeArch
from moesim.sim.model.params import SOFTMAX, expert_params, experts_in
from moesim.sim.serve.expert_rows import expert_rows
from moesim.sim.serve.job import ServeJob
from moesim.sim.software.serving_engine import inference_stack
from moesim.sim.software.stack import Tuning


def expert_bytes(job: ServeJob) -> float:
    """Bytes of one routed expert on one rank."""
    return expert_params(job.arch) * bytes_per_element(job.formats.experts) / job.layout.etp


def offload_bytes(job: ServeJob, tokens: int) -> float:
    """Bytes of experts that one rank fetches in a pass of `tokens` tokens: touched, and not found on the GPU."""
    if job.offload is None or job.arch.moe is None:
        return 0.0
    touched = 0.0
    for kind in job.arch.layers:
        experts = experts_in(job.arch, kind)
        if experts:
            touched += len(expert_rows(job, experts, tokens)[0])
    return touched * expert_bytes(job) * (1.0 - job.offload.hit_rate)


def context(job: ServeJob, tuning: Tuning, tokens: int) -> LayerContext:
    """What the layer builders need to know for a pass of `tokens` tokens per tensor group."""
    return LayerContext(
        arch=job.arch,
        layout=job.layout,
        cluster=job.cluster,
        stack=inference_stack(job.engine),
        tuning=tuning,
        micro_batch=1,
        seq_len=tokens,
        precision=job.formats.attention,
    )


def mixer_steps(ctx: LayerContext, kind: LayerKind) -> list[Step]:
    """Projections of one layer's mixer, without its core, which is priced per sequence."""
    ctx = ctx.at(kind)
    if kind.mixer == "none":
        return []
    if kind.mixer in SOFTMAX:
        both = [*attention_inputs(ctx), *attention_output(ctx)]
        return both * (2 if kind.mixer == "cross_attention" else 1)
    return [s for s in ssm_steps(ctx, kind.mixer) if s.part == "body"]


def scan_steps(ctx: LayerContext, kind: LayerKind) -> list[Step]:
    """The core of a state-space layer over `ctx.tokens` tokens of a prompt."""
    return [s for s in ssm_steps(ctx, kind.mixer) if s.part == "core"]


def dense_steps(ctx: LayerContext, job: ServeJob, kind: LayerKind) -> list[Step]:
    """A dense feed-forward block; the residual is fused into the next norm."""
    return [s for s in dense_ffn_steps(_in_blocks(ctx.at(kind), job)) if s.part != "residual"]


def _in_blocks(ctx: LayerContext, job: ServeJob) -> LayerContext:
    """The context with the format of dense blocks and shared experts, where that is another than attention's."""
    return replace(ctx, precision=job.formats.dense) if job.formats.blocks else ctx


def join_steps(ctx: LayerContext, states: int) -> list[Step]:
    """What a drafting layer does first: a projection of several hidden states into one, whole on every rank."""
    if not states:
        return []
    hidden = ctx.arch.hidden
    return [Linear(name="draft.join", m=ctx.tokens, n=hidden, k=states * hidden, dtype=ctx.half)]


def head_steps(ctx: LayerContext) -> list[Step]:
    """Final norm, logits of the last token of each sequence, sampling."""
    vocab = -(-ctx.arch.vocab // ctx.layout.tp)
    logits = Linear(name="head.logits", m=ctx.tokens, n=vocab, k=ctx.arch.hidden, dtype=ctx.half, category="head")
    sample = Pointwise(
        name="head.sample", forward_bytes=8.0 * ctx.tokens * vocab, backward_bytes=0.0, category="head", kernels=3
    )
    steps: list[Step] = [norm(ctx, "head.norm"), logits, sample]
    if ctx.layout.tp > 1:
        gather = Comm("all_gather", 2.0 * ctx.tokens * ctx.arch.vocab, ctx.layout.group("tp", ctx.cluster))
        steps.append(Exchange(name="head.gather", forward=gather, backward=None))
    return steps


def router_steps(ctx: LayerContext, job: ServeJob, kind: LayerKind) -> list[Step]:
    """Norm, router, and what every token computes beside the routed experts."""
    moe = ctx.arch.moe
    assert moe is not None
    t, experts = float(ctx.tokens), experts_in(ctx.arch, kind) + moe.zero_experts
    router = Linear(name="moe.router", m=ctx.tokens, n=experts, k=ctx.arch.hidden, dtype=ctx.half, module="moe")
    top_k = Pointwise(
        name="moe.top_k", forward_bytes=12.0 * t * experts, backward_bytes=0.0, category="router", kernels=2
    )
    steps: list[Step] = [norm(ctx, "moe.norm"), router, top_k]
    if moe.latent:
        steps.append(linear(ctx, "moe.latent_down", t, moe.latent, ctx.arch.hidden))
        steps.append(linear(ctx, "moe.latent_up", t, ctx.arch.hidden, moe.latent))
    for name, width in (("shared", moe.shared_intermediate), ("residual", _residual_width(moe, kind))):
        if width:
            steps += feed_forward(_in_blocks(ctx, job), name, max(1, width // ctx.layout.tp), moe.gated, t)
    if ctx.layout.dp == 1:  # routed and shared parts are summed over the tensor group together
        steps += leave_tensor_parallel(ctx, "moe.leave")
    elif ctx.layout.tp > 1 and moe.shared_intermediate:
        steps += leave_tensor_parallel(ctx, "shared.leave")
    return steps


def _residual_width(moe: MoeArch, kind: LayerKind) -> int:
    return moe.residual_intermediate if kind.ffn == "moe_residual" else 0


def routed_steps(ctx: LayerContext, job: ServeJob, kind: LayerKind, total: int, prefill: bool) -> list[Step]:
    """Exchange and experts of one layer, when the whole replica works on `total` tokens."""
    moe = ctx.arch.moe
    assert moe is not None
    width = moe.latent or ctx.arch.hidden
    rows, imbalance = expert_rows(job, experts_in(ctx.arch, kind), total)
    load = ExpertLoad(rows=rows, rank_rows=(sum(rows),), imbalance=imbalance, node_copies=1.0, rank_copies=1.0)
    permuted = float(sum(rows)) * width
    experts = replace(ctx, precision=job.formats.experts)
    steps: list[Step] = [
        pointwise(ctx, "moe.permute", 4.0 * permuted, 0.0),
        *expert_steps(experts, moe, load, width, job.formats.experts),
        pointwise(ctx, "moe.unpermute", 4.0 * permuted, 0.0),
    ]
    return _between(steps, exchange_steps(ctx, job, kind, total, imbalance, prefill))


def _between(steps: list[Step], exchange: tuple[list[Step], list[Step]]) -> list[Step]:
    return [*exchange[0], *steps, *exchange[1]]


def exchange_of(job: ServeJob, prefill: bool) -> str:
    """How tokens reach experts of other ranks: gathered inside a node, DeepEP across nodes, one-sided over NVL72."""
    if job.engine.exchange != "auto":
        return job.engine.exchange
    if job.layout.group("ep", job.cluster).domains > 1:
        return SERVING.kernel("prompts" if prefill else "tokens")
    wide = job.cluster.domain > job.cluster.gpus_per_host and job.layout.ep > 1
    return SERVING.kernel("one domain" if wide else "one host")


def exchange_steps(
    ctx: LayerContext, job: ServeJob, kind: LayerKind, total: int, imbalance: float, prefill: bool
) -> tuple[list[Step], list[Step]]:
    """(before, after) the experts: nothing where all ranks hold the same tokens and sum their results."""
    moe = ctx.arch.moe
    assert moe is not None
    lay = ctx.layout
    if lay.dp == 1:
        return [], []
    kernel = exchange_of(job, prefill)
    experts = experts_in(ctx.arch, kind)
    groups, chosen = (moe.groups, moe.top_k_groups) if moe.router == "group_limited" else (1, 1)
    group = lay.group("ep", ctx.cluster)
    sent = ExpertTokens(
        tokens=total / lay.dp,
        top_k=moe.top_k,
        experts=experts,
        width=moe.latent or ctx.arch.hidden,
        dtype=job.formats.experts,
        group=group,
        kernel=kernel,
        imbalance=imbalance,
    )
    if kernel == "gather" or lay.ep == 1:
        there, back = (total * payload_bytes(SERVING, stage, sent) for stage in STAGES)
        ranks = job.cluster.group(lay.dp, lay.tp)
        return (
            [_transfer("moe.gather", Comm("all_gather", there, ranks))],
            [_transfer("moe.scatter", Comm("reduce_scatter", back, ranks))],
        )
    sent = replace(
        sent,
        node_copies=distinct_holders(group.domains, experts, moe.top_k, groups, chosen),
        rank_copies=distinct_holders(lay.ep, experts, moe.top_k, groups, chosen),
    )
    dispatch, combine = (expert_exchange(SERVING, stage, sent) for stage in STAGES)
    return [_transfer("moe.dispatch", dispatch)], [_transfer("moe.combine", combine)]


def _transfer(name: str, work: Comm | ExpertExchange) -> Exchange:
    return Exchange(name=name, forward=work, backward=None, category="ep_comm", module="moe")
