"""The blocks of a model as steps: embedding, layers, head, and multi-token-prediction modules."""

from __future__ import annotations

from moesim.sim.layers.context import LayerContext
from moesim.sim.layers.dense import (
    PASSES,
    attention_steps,
    dense_ffn_steps,
    enter_tensor_parallel,
    leave_tensor_parallel,
    linear,
    norm,
    pointwise,
)
from moesim.sim.layers.experts import moe_steps
from moesim.sim.layers.state_space import ssm_steps
from moesim.sim.layers.steps import Linear, Pointwise, Step
from moesim.sim.model.arch import LayerKind

_LOSS_FORWARD_SHARE = 0.4  # of what cross-entropy moves per logit


def block_steps(ctx: LayerContext, name: str, kind: LayerKind | None) -> tuple[Step, ...]:
    """Forward steps of one block of a virtual stage: "embedding", "head", "mtp...", or a layer of this kind."""
    if name == "embedding":
        return embedding_steps(ctx)
    if name == "head":
        return head_steps(ctx)
    if name.startswith("mtp"):
        return mtp_steps(ctx)
    assert kind is not None
    return layer_steps(ctx, kind)


def layer_steps(ctx: LayerContext, kind: LayerKind) -> tuple[Step, ...]:
    """All forward steps of one layer."""
    steps: list[Step] = []
    ctx = ctx.at(kind)
    causal = not kind.encoder
    if kind.mixer in ("attention", "window_attention", "cross_attention"):
        steps += attention_steps(ctx, window=kind.mixer == "window_attention", causal=causal)
        if kind.mixer == "cross_attention":
            steps += attention_steps(ctx, causal=False, cross=True)
    elif kind.mixer != "none":
        steps += ssm_steps(ctx, kind.mixer)
    if kind.ffn == "dense":
        steps += dense_ffn_steps(ctx)
    elif kind.ffn != "none":
        steps += moe_steps(ctx, kind)
    return tuple(steps)


def embedding_steps(ctx: LayerContext) -> tuple[Step, ...]:
    """Gather rows of the table; backward adds them into its gradient, which plain PyTorch writes whole each time."""
    moved = ctx.local_tokens * ctx.arch.hidden * ctx.width_bytes
    forward_passes, backward_passes = PASSES["embedding"]
    table_bytes = ctx.arch.vocab / ctx.layout.tp * ctx.arch.hidden * ctx.width_bytes
    dense_gradient_passes = ctx.tuning.get("embedding_gradient_passes", ctx.stack.constants_of)
    work = Pointwise(
        name="embedding",
        forward_bytes=forward_passes * moved,
        backward_bytes=backward_passes * moved + dense_gradient_passes * table_bytes,
        kind="embedding",
        category="embedding",
    )
    return (work, *leave_tensor_parallel(ctx, "embedding.leave"))


def loss_bytes(logits: float, bytes_per_logit: float) -> tuple[float, float]:
    """Bytes of softmax cross-entropy, forward and backward."""
    forward = _LOSS_FORWARD_SHARE * bytes_per_logit * logits
    return forward, bytes_per_logit * logits - forward


def head_steps(ctx: LayerContext) -> tuple[Step, ...]:
    """Final norm, logits in 16 bits, softmax cross-entropy; the loss moves 20 to 25 bytes per logit in all."""
    vocab = -(-ctx.arch.vocab // ctx.layout.tp)
    logits = float(ctx.tokens) * vocab
    bytes_per_logit = ctx.tuning.get("loss_bytes_per_logit", "fused" if ctx.stack.fused_loss else "plain")
    gemm = Linear(
        name="head.logits",
        m=ctx.tokens,
        n=vocab,
        k=ctx.arch.hidden,
        dtype=ctx.half,
        category="head",
        module="head",
        trainable=ctx.lora_rank == 0,
        accumulate_bytes=8.0 * ctx.tuning.get("accumulate_traffic", ctx.stack.constants_of),
    )
    loss_forward, loss_backward = loss_bytes(logits, bytes_per_logit)
    loss = Pointwise(
        name="head.loss",
        forward_bytes=loss_forward,
        backward_bytes=loss_backward,
        kind="loss",
        category="head",
        module="head",
        kernels=4,
        part="loss",
    )
    return (norm(ctx, "head.norm"), *enter_tensor_parallel(ctx, "head.enter"), gemm, loss)


def mtp_steps(ctx: LayerContext) -> tuple[Step, ...]:
    """One multi-token-prediction module: two norms, a projection of both halves, one layer, the head again."""
    t, h = ctx.local_tokens, ctx.arch.hidden
    project = linear(ctx, "mtp.project", t, h, 2 * h)
    extra = pointwise(ctx, "mtp.norms", 8.0 * t * h, 12.0 * t * h)
    return (extra, project, *layer_steps(ctx, ctx.arch.layers[-1]), *head_steps(ctx))
