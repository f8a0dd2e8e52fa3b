"""Memory-bound work of a transformer as something to call: each kind with its inputs, forward or backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moesim.calibrate.measure import blocks
from moesim.calibrate.measure.asks import Ask
from moesim.calibrate.measure.bench import COPIES, Bench, Prepared
from moesim.calibrate.measure.tensors import noise


def prepare_stream(a: Ask, bench: Bench) -> Prepared:
    """One kind of memory-bound work, forward, or backward through autograd."""
    import torch

    kind, _, way = a.phase.partition(".")
    parts = [_STREAMS[kind](a, bench) for _ in range(COPIES)]
    if not way:
        return Prepared(lambda i: parts[i % COPIES][0](), 1, "eager")
    outs = [out for make, _ in parts for out in make()]
    ins = [t for _, tensors in parts for t in tensors]
    grads = [torch.ones_like(out) for out in outs]
    return Prepared(lambda i: torch.autograd.grad(outs, ins, grads, retain_graph=True), COPIES, "autograd")


Part = tuple[Callable[[], tuple[Any, ...]], list[Any]]  # makes the outputs; the inputs whose gradients are asked for


def _norm(a: Ask, bench: Bench) -> Part:
    x = noise((a.number("rows"), a.number("cols")), a.dtype, bench.device, gradient=True)
    weight = noise((a.number("cols"),), a.dtype, bench.device, gradient=True)
    if a.phase == "norm":
        return lambda: (blocks.rms_norm(x, weight),), [x, weight]
    return lambda: (blocks.rms_norm(x, weight), x.view_as(x)), [x, weight]  # the residual's gradient joins


def _residual(a: Ask, bench: Bench) -> Part:
    shape = (a.number("rows"), a.number("cols"))
    x, y = (noise(shape, a.dtype, bench.device, gradient=True) for _ in range(2))
    return lambda: (x + y,), [x, y]


def _rope(a: Ask, bench: Bench) -> Part:
    """As many key as query heads; the values ride along unturned."""
    tokens, turned, dim = a.number("tokens"), a.number("heads"), a.number("dim")
    heads = turned // 2
    qkv = noise((tokens, 3 * heads * dim), a.dtype, bench.device, gradient=True)
    tables = blocks.rotary_tables(tokens, dim, a.dtype, bench.device)
    return lambda: blocks.split_and_rotate(qkv, 1, heads, heads, *tables), [qkv]


def _act(a: Ask, bench: Bench) -> Part:
    x = noise((a.number("rows"), 2 * a.number("cols")), a.dtype, bench.device, gradient=True)
    return lambda: (blocks.gated_activation(x),), [x]


def _router(a: Ask, bench: Bench) -> Part:
    scores = noise((a.number("tokens"), a.number("experts")), a.dtype, bench.device, 1.0, gradient=True)
    top_k = a.number("top_k")
    if a.phase == "router":
        return lambda: blocks.choose_experts(scores, top_k), [scores]
    return lambda: blocks.choose_experts(scores, top_k)[:1], [scores]


def _picks(tokens: int, experts: int, top_k: int, device: str) -> Any:
    """Experts of every token, [tokens, top_k], spread evenly."""
    import torch

    from moesim.traces.assignments import sample_picks

    return torch.from_numpy(sample_picks(experts, top_k, tokens).astype("int64")).to(device)


def _permute(a: Ask, bench: Bench) -> Part:
    experts, top_k = a.number("experts"), a.number("top_k")
    tokens = a.number("rows") // top_k
    x = noise((tokens, a.number("cols")), a.dtype, bench.device, gradient=True)
    picks = _picks(tokens, experts, top_k, bench.device)
    return lambda: blocks.into_expert_order(x, picks)[:1], [x]


def _unpermute(a: Ask, bench: Bench) -> Part:
    import torch

    experts, top_k = a.number("experts"), a.number("top_k")
    tokens = a.number("rows") // top_k
    rows = noise((tokens * top_k, a.number("cols")), a.dtype, bench.device, gradient=True)
    order = _picks(tokens, experts, top_k, bench.device).reshape(-1).argsort(stable=True)
    weights = torch.full((tokens, top_k), 1.0 / top_k, device=bench.device, requires_grad=True)
    return lambda: (blocks.back_to_tokens(rows, order, weights, tokens),), [rows, weights]


def _embedding(a: Ask, bench: Bench) -> Part:
    import torch
    import torch.nn.functional as F  # noqa: N812  # the name everybody uses

    table = noise((a.number("vocab"), a.number("cols")), a.dtype, bench.device, gradient=True)
    names = (torch.arange(a.number("rows"), device=bench.device) * 7919) % a.number("vocab")
    return lambda: (F.embedding(names, table),), [table]


def _loss(a: Ask, bench: Bench) -> Part:
    import torch
    import torch.nn.functional as F  # noqa: N812  # the name everybody uses

    logits = noise((a.number("tokens"), a.number("vocab")), a.dtype, bench.device, gradient=True)
    names = (torch.arange(a.number("tokens"), device=bench.device) * 7919) % a.number("vocab")
    return lambda: (F.cross_entropy(logits.float(), names),), [logits]


_STREAMS: dict[str, Callable[[Ask, Bench], Part]] = {
    "norm": _norm,
    "residual": _residual,
    "rope": _rope,
    "gated_act": _act,
    "router": _router,
    "permute": _permute,
    "unpermute": _unpermute,
    "embedding": _embedding,
    "loss": _loss,
}
