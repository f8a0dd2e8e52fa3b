"""The shapes that one scenario's training step asks for, as measurements."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from moesim.calibrate.measure.asks import BACKWARD, Ask, ask, rows_text
from moesim.hwmodels.gpu import bytes_per_element
from moesim.hwmodels.work import Attention, Gemm, GroupedGemm, Stream, Work
from moesim.sim.layers.dense import PASSES
from moesim.sim.model.arch import ModelArch
from moesim.sim.question.scenario import load_scenario
from moesim.sim.software.stack import Tuning
from moesim.sim.train.job import resolve
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.program import step_program
from moesim.sim.train.segments import Variant

_MEASURED = ("fp32", "bf16", "fp16", "fp8")


def scenario_asks(path: Path, most_flops: float) -> tuple[list[Ask], list[str]]:
    """Measurements of every kernel in the scenario's step, and those that this device is too small for.

    Transfers are measured on the grid whatever the scenario. Formats that torch has no kernel for are priced by their
    16-bit relative: measured in bf16.
    """
    resolved = resolve(load_scenario(path))
    prices = StepPrices(resolved.job, resolved.kernels, resolved.tuning())
    step = step_program(prices)
    slots = step.slots
    assert slots  # a step is never empty
    works: dict[Work, None] = {}
    for slot in dict.fromkeys((s.phase, s.stage, s.stage_b) for s in slots.values()):
        number = next(i for i, s in slots.items() if (s.phase, s.stage, s.stage_b) == slot)
        works.update((op.work, None) for op in prices.segment(slots[number], Variant()).ops)
    asks, large = [], []
    for a, flops in _asks(works, resolved.job.arch):
        if flops > most_flops:
            large.append(f"{a.key}: {flops:.2g} FLOPs, this device is given at most {most_flops:.2g}")
        else:
            asks.append(a)
    return list(dict.fromkeys(asks)), large


def _asks(works: Iterable[Work], arch: ModelArch) -> Iterable[tuple[Ask, float]]:
    for work in works:
        question = None
        if isinstance(work, Gemm):
            question = ask("gemm", "forward", _format(work.dtype), m=work.m, n=work.n, k=work.k)
        elif isinstance(work, GroupedGemm):
            phase = "wgrad" if work.weight_gradient else "forward"
            question = ask("grouped_gemm", phase, _format(work.dtype), rows=rows_text(work.rows), n=work.n, k=work.k)
        elif isinstance(work, Attention) and work.qk_dim == work.v_dim and work.window is None:
            question = _attention(work)
        elif isinstance(work, Stream):
            question = _stream(work, arch)
        if question is not None:
            yield question, work.flops


def _format(dtype: str) -> str:
    return dtype if dtype in _MEASURED else "bf16"


def _attention(work: Attention) -> Ask:
    size = {"batch": work.batch, "q_len": work.q_len, "kv_len": work.kv_len, "heads": work.heads}
    phase = BACKWARD if work.phase == "backward" else work.phase
    return ask("attention", phase, _format(work.dtype), **size, kv_heads=work.kv_heads, dim=work.qk_dim)


def _stream(work: Stream, arch: ModelArch) -> Ask | None:
    """Rows of the model's width that move as many bytes; None for kinds that are not measured one by one."""
    phase = f"{work.kind}.bwd" if work.backward else work.kind
    experts, top_k = (arch.moe.experts, arch.moe.top_k) if arch.moe else (8, 2)
    if work.kind == "router":
        passes = Tuning().get("router_passes", "torch-eager", "unknown")
        tokens = round(work.bytes / (4.0 * passes * experts))
        return ask("stream", phase, "bf16", tokens=max(1, tokens), experts=experts, top_k=top_k)
    if work.kind not in PASSES or work.kind in ("act", "rope"):
        return None
    cols = arch.hidden
    rows = max(top_k, round(work.bytes / (PASSES[work.kind][work.backward] * bytes_per_element("bf16") * cols)))
    if work.kind in ("permute", "unpermute"):
        return ask("stream", phase, "bf16", rows=rows // top_k * top_k, cols=cols, experts=experts, top_k=top_k)
    if work.kind == "embedding":
        return ask("stream", phase, "bf16", rows=rows, cols=cols, vocab=max(1, arch.vocab))
    return ask("stream", phase, "bf16", rows=rows, cols=cols)
