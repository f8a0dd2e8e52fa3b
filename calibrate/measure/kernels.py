"""One measurement on one device as something to call: real torch kernels on random data, buffers rotated.

What a program finds cold is cold here: weights and KV caches rotate through more than the caches hold. What the op
before has just written (activations of memory-bound work) comes in a few copies and stays where it fits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moesim.calibrate.measure import blocks
from moesim.calibrate.measure.asks import BACKWARD, Ask
from moesim.calibrate.measure.bench import COPIES, Bench, Prepared, Unsupported
from moesim.calibrate.measure.streams import prepare_stream
from moesim.calibrate.measure.tensors import noise


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
    count = bench.copies(2.0 * shapes[1][0] * shapes[1][1] * shapes[1][2] * dim * 4.0) if cold else COPIES
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
    "stream": prepare_stream,
    "optimizer": _optimizer,
    "copy": _copy,
    "launch": _launch,
    "host_link": _host_link,
}
