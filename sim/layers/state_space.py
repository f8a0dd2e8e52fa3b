"""What one recurrent mixer computes: Mamba-1 and 2, gated DeltaNet, KDA, lightning attention, short convolutions."""

from __future__ import annotations

from moesim.sim.layers.context import LayerContext
from moesim.sim.layers.dense import enter_tensor_parallel, leave_tensor_parallel, linear, norm, pointwise, residual
from moesim.sim.layers.steps import Linear, Pointwise, Step
from moesim.sim.model.arch import KEYED, SsmArch

_CHUNK = 128  # tokens per chunk of the chunked scan (state-spaces/mamba and flash-linear-attention defaults: 64-256)


def _chunked_scan(ctx: LayerContext, name: str, heads: int, d_state: int, head_dim: int) -> list[Step]:
    """Chunked scan: per chunk and head, score, value and state GEMMs of size chunk x state x head_dim, plus traffic.

    FLOPs per token and head: 2 x (chunk x (d_state + head_dim) / 2 + 2 x d_state x head_dim).
    """
    t = float(ctx.tokens)
    per_token = _CHUNK * (d_state + head_dim) / 2.0 + 2.0 * d_state * head_dim
    rows = max(1, round(t))
    core = Linear(
        name=name,
        m=rows,
        n=max(1, heads),
        k=max(1, round(per_token)),
        category="ssm",
        module="ssm",
        trainable=False,
        dtype=ctx.half,
        part="core",
    )
    passes = ctx.tuning.get("ssm_passes", ctx.stack.constants_of)
    states = t / _CHUNK * heads * d_state * head_dim * 4.0
    traffic = passes * (t * heads * head_dim * 2.0 * 3 + t * 2 * d_state * 2.0) + 4.0 * states
    scan = Pointwise(
        name=f"{name}.scan",
        forward_bytes=traffic,
        backward_bytes=2.5 * traffic,
        category="ssm",
        module="ssm",
        kernels=5,
        part="core",
    )
    return [core, scan]


def _input_width(s: SsmArch, kind: str, inner: int, keys: int, heads: int) -> int:
    """Columns of the input projection on one rank: what is read, written and gated."""
    if kind == "mamba1":
        return 2 * inner
    if kind == "short_conv":
        return 3 * inner
    if kind == "kda":
        return (1 if s.gate_rank else 2) * inner + 2 * keys + heads
    return 2 * inner + 2 * keys + (0 if kind == "lightning" else heads)


def ssm_steps(ctx: LayerContext, kind: str) -> list[Step]:
    """One mixer with norm, input projection, short convolution, scan, gated norm, output projection, residual."""
    s = ctx.arch.ssm
    assert s is not None
    h, t, tp = ctx.arch.hidden, float(ctx.tokens), ctx.layout.tp
    inner = s.d_inner // tp
    heads = max(1, s.heads // tp)
    keys = s.key_heads * (s.key_dim if kind in KEYED else s.d_state) // tp
    width = _input_width(s, kind, inner, keys, heads)
    steps: list[Step] = [norm(ctx, "ssm.norm"), *enter_tensor_parallel(ctx, "ssm.enter")]
    steps.append(linear(ctx, "ssm.in", t, width, h))
    if kind == "kda":  # decay and, where it is of low rank, the gate: from latents that every rank computes
        steps.append(linear(ctx, "ssm.latents", ctx.local_tokens, s.key_dim + s.gate_rank, h))
        steps.append(linear(ctx, "ssm.decay", t, keys, s.key_dim))
        steps += [linear(ctx, "ssm.gate", t, inner, s.gate_rank)] if s.gate_rank else []
    convolved = t * (inner if kind == "short_conv" else inner + 2 * keys)
    if kind != "lightning":
        steps.append(pointwise(ctx, "ssm.conv", 4.0 * convolved, 8.0 * convolved, "ssm"))
    if kind == "mamba1":
        steps.append(linear(ctx, "ssm.x", t, s.dt_rank + 2 * s.d_state, inner))
        steps.append(linear(ctx, "ssm.dt", t, inner, s.dt_rank))
        scan = t * inner * (8.0 + 2.0 * s.d_state / 8.0)
        steps.append(
            Pointwise(
                name="ssm.scan",
                forward_bytes=scan,
                backward_bytes=3 * scan,
                category="ssm",
                module="ssm",
                part="core",
            )
        )
    elif kind != "short_conv":
        head_dim = s.d_inner // max(1, s.heads)
        state = s.key_dim if kind in KEYED else s.d_state
        steps += _chunked_scan(ctx, "ssm.core", heads, state, head_dim)
    steps.append(pointwise(ctx, "ssm.gate_norm", 6.0 * t * inner, 10.0 * t * inner, "ssm"))
    steps.append(linear(ctx, "ssm.out", t, h, inner))
    steps += [*leave_tensor_parallel(ctx, "ssm.leave"), residual(ctx, "ssm.residual")]
    return steps
