"""One measurement on one device as something to call: real torch kernels on random data, buffers rotated.

What a program finds cold is cold here: weights and KV caches rotate through more than the caches hold. What the op
before has just written (activations of memory-bound work) comes in a few copies and stays where it fits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from calibrate.measure import blocks
from calibrate.measure.asks import BACKWARD, Ask
from calibrate.measure.clock import Call
from calibrate.measure.tensors import noise

_COPIES = 4  # of an activation
_MOST_COPIES = 24


class Unsupported(RuntimeError):
    """This device or torch has no such kernel; the message says which."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call, how many units of the asked work one call does, and which implementation runs."""

    call: Call
    units: int
    backend: str


@dataclass(frozen=True, slots=True)
class Bench:
    """Where measurements run: a torch device and what its last cache level holds."""

    device: str
    cache_bytes: float

    @property
    def cuda(self) -> bool:
        """True on an NVIDIA GPU."""
        return self.device.startswith("cuda")

    def copies(self, each_bytes: float) -> int:
        """Buffers of this size that together are larger than the cache."""
        return max(2, min(_MOST_COPIES, int(2.0 * self.cache_bytes / max(each_bytes, 1.0)) + 1))

    def many(self, shape: tuple[int, ...], dtype: str, cold: bool = True, gradient: bool = False) -> list[Any]:
        """Copies of one tensor: more than the cache holds when `cold`, else a few."""
        first = noise(shape, dtype, self.device, gradient=gradient)
        count = self.copies(first.numel() * first.element_size()) if cold else _COPIES
        return [first, *(first.detach().clone().requires_grad_(gradient) for _ in range(count - 1))]


def prepare(a: Ask, bench: Bench) -> Prepared:
    """Buffers and the call of one measurement. Unsupported when the device has no such kernel."""
    return _MAKERS[a.op](a, bench)


def _gemm(a: Ask, bench: Bench) -> Prepared:
    import torch
    import torch.nn.functional as F  # noqa: N812  # the name everybody uses

    m, n, k = a.number("m"), a.number("n"), a.number("k")
    if a.dtype == "fp8":
        return _scaled_gemm(m, n, k, bench)
    if bench.cuda:
        torch.backends.cuda.matmul.allow_tf32 = a.dtype == "tf32"
    if a.phase == "forward":
        x, weights = bench.many((m, k), a.dtype, cold=False), bench.many((n, k), a.dtype)
        return Prepared(lambda i: F.linear(x[i % len(x)], weights[i % len(weights)]), 1, "linear")
    if a.phase == "dgrad":
        x, weights = bench.many((m, k), a.dtype, cold=False), bench.many((k, n), a.dtype)
        return Prepared(lambda i: torch.mm(x[i % len(x)], weights[i % len(weights)]), 1, "mm")
    x, kept = bench.many((k, m), a.dtype, cold=False), bench.many((k, n), a.dtype)
    return Prepared(lambda i: torch.mm(x[i % len(x)].t(), kept[i % len(kept)]), 1, "mm")


def _scaled_gemm(m: int, n: int, k: int, bench: Bench) -> Prepared:
    """FP8 with one scale per tensor. Written for Hopper and later, never run here."""
    import torch

    if not bench.cuda or torch.cuda.get_device_capability() < (8, 9):
        raise Unsupported("fp8 needs a GPU with 8-bit tensor cores (torch._scaled_mm)")
    one = torch.ones((), device=bench.device)
    x, weights = bench.many((m, k), "fp8", cold=False), bench.many((n, k), "fp8")

    def call(i: int) -> Any:
        left, right = x[i % len(x)], weights[i % len(weights)].t()
        return torch._scaled_mm(left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    return Prepared(call, 1, "_scaled_mm")


def _grouped(a: Ask, bench: Bench) -> Prepared:
    import torch

    rows, n, k = a.numbers("rows"), a.number("n"), a.number("k")
    x = bench.many((sum(rows), k), a.dtype, cold=False)
    if a.phase == "wgrad":
        up = bench.many((sum(rows), n), a.dtype)

        def gradients(i: int) -> Any:
            pairs = zip(up[i % len(up)].split(rows), x[i % len(x)].split(rows), strict=True)
            return [torch.mm(d.t(), part) for d, part in pairs if len(d)]

        return Prepared(gradients, 1, "mm, one expert after the other")
    sets = min(4, bench.copies(len(rows) * n * k * x[0].element_size()))
    if bench.cuda and a.dtype in ("bf16", "fp16"):
        whole = [noise((len(rows), n, k), a.dtype, bench.device) for _ in range(sets)]
        return Prepared(lambda i: blocks.grouped_linear(x[i % len(x)], whole[i % sets], rows), 1, "grouped_mm")
    split = [[noise((n, k), a.dtype, bench.device) for _ in rows] for _ in range(sets)]
    return Prepared(
        lambda i: blocks.grouped_linear(x[i % len(x)], split[i % sets], rows), 1, "linear, one expert after the other"
    )


def _attention(a: Ask, bench: Bench) -> Prepared:
    import torch

    batch, dim = a.number("batch"), a.number("dim")
    shapes = [
        (batch, a.number(length), a.number(heads), dim)
        for length, heads in (("q_len", "heads"), ("kv_len", "kv_heads"), ("kv_len", "kv_heads"))
    ]
    back = a.phase == BACKWARD
    cold = a.phase == "decode"
    count = bench.copies(2.0 * shapes[1][0] * shapes[1][1] * shapes[1][2] * dim * 4.0) if cold else _COPIES
    parts = [
        tuple(noise(shape, a.dtype, bench.device, gradient=not cold).transpose(1, 2) for shape in shapes)
        for _ in range(count)
    ]
    backend = _attention_backend(parts[0], not cold)
    if not back:
        return Prepared(lambda i: blocks.attend(parts[i % count], not cold), 1, backend)
    outs = [blocks.attend(part, True) for part in parts]
    grads = [torch.ones_like(out) for out in outs]

    def backward(i: int) -> Any:
        return torch.autograd.grad(outs, [t for part in parts for t in part], grads, retain_graph=True)

    return Prepared(backward, count, backend)


def _attention_backend(parts: tuple[Any, ...], causal: bool) -> str:
    """The kernel family that torch takes for these tensors."""
    import torch

    if not parts[0].is_cuda:
        return "sdpa, flash on CPU where torch has it"
    takes = torch.backends.cuda
    params = takes.SDPAParams(*parts, None, 0.0, causal, parts[0].shape[1] != parts[1].shape[1])
    if takes.can_use_cudnn_attention(params):
        return "sdpa, cudnn"
    return "sdpa, flash" if takes.can_use_flash_attention(params) else "sdpa, efficient or math"


def _stream(a: Ask, bench: Bench) -> Prepared:
    import torch

    kind, _, way = a.phase.partition(".")
    parts = [_STREAMS[kind](a, bench) for _ in range(_COPIES)]
    if not way:
        return Prepared(lambda i: parts[i % _COPIES][0](), 1, "eager")
    outs = [out for make, _ in parts for out in make()]
    ins = [t for _, tensors in parts for t in tensors]
    grads = [torch.ones_like(out) for out in outs]
    return Prepared(lambda i: torch.autograd.grad(outs, ins, grads, retain_graph=True), _COPIES, "autograd")


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

    from traces.assignments import sample_picks

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


def _optimizer(a: Ask, bench: Bench) -> Prepared:
    """One AdamW step over `tensors` weights of `each` elements, gradients present."""
    import torch

    params = [noise((a.number("each"),), a.dtype, bench.device, gradient=True) for _ in range(a.number("tensors"))]
    for p in params:
        p.grad = torch.full_like(p, 1e-3)
    optimizer = torch.optim.AdamW(params, lr=1e-4, fused=True)
    return Prepared(lambda i: optimizer.step(), 1, "AdamW, fused")


def _copy(a: Ask, bench: Bench) -> Prepared:
    import torch

    count = a.number("bytes") // 4
    source = torch.ones(count, device=bench.device)
    target = torch.zeros(count, device=bench.device)
    if a.phase == "add":
        return Prepared(lambda i: target.add_(source), 1, "add_")
    return Prepared(lambda i: target.copy_(source), 1, "copy_")


def _launch(a: Ask, bench: Bench) -> Prepared:
    import torch

    x = torch.zeros(a.number("elements"), device=bench.device)
    if a.phase == "eager":
        return Prepared(lambda i: x.add_(1.0), 1, "add_")
    if not bench.cuda:
        raise Unsupported("launches in a graph need CUDA")
    graph, kernels = torch.cuda.CUDAGraph(), 100
    with torch.cuda.graph(graph):
        for _ in range(kernels):
            x.add_(1.0)
    return Prepared(lambda i: graph.replay(), kernels, "CUDA graph")


def _host_link(a: Ask, bench: Bench) -> Prepared:
    import torch

    if not bench.cuda:
        raise Unsupported("a CPU has no link to its host")
    near = torch.empty(a.number("bytes"), dtype=torch.uint8, device=bench.device)
    far = torch.empty(a.number("bytes"), dtype=torch.uint8, pin_memory=True)
    if a.phase == "down":
        return Prepared(lambda i: far.copy_(near, non_blocking=True), 1, "pinned copy")
    return Prepared(lambda i: near.copy_(far, non_blocking=True), 1, "pinned copy")


_MAKERS: dict[str, Callable[[Ask, Bench], Prepared]] = {
    "gemm": _gemm,
    "grouped_gemm": _grouped,
    "attention": _attention,
    "stream": _stream,
    "optimizer": _optimizer,
    "copy": _copy,
    "launch": _launch,
    "host_link": _host_link,
}
