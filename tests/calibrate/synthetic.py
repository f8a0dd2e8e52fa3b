"""A machine that obeys simple laws exactly: samples as if they had been measured on it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from moesim.calibrate.measure.asks import Ask, work_of
from moesim.calibrate.measure.device import Machine
from moesim.calibrate.measure.plan import default_plan
from moesim.calibrate.measure.samples import Measured
from moesim.hwmodels.domain_collectives import wire_bytes
from moesim.hwmodels.work import Attention, Comm, Gemm, GroupedGemm, Stream

FLOPS_PER_S, BYTES_PER_S, LINK_BYTES_PER_S, LAUNCH_S = 1e11, 2e10, 1e9, 1e-5
MACHINE = Machine(
    device="cpu",
    name="cpu-test-2",
    described="Test CPU",
    cores=2,
    cache_bytes=3e7,
    memory_bytes=1.6e10,
    torch="2.0",
    system="test",
    power_and_clocks="not told",
)


def seconds_of(a: Ask) -> float:
    """Launch, FLOPs and bytes one after the other."""
    work = work_of(a)
    if isinstance(work, Gemm | GroupedGemm | Attention):
        return LAUNCH_S + work.flops / FLOPS_PER_S + work.bytes / BYTES_PER_S
    if isinstance(work, Stream):
        return LAUNCH_S + work.bytes / BYTES_PER_S
    if isinstance(work, Comm):
        return 5 * LAUNCH_S + wire_bytes(work.kind, work.group.ranks, work.bytes) / LINK_BYTES_PER_S
    if a.op == "copy":
        return (3.0 if a.phase == "add" else 2.0) * a.number("bytes") / BYTES_PER_S
    if a.op == "optimizer":
        return 28.0 * a.number("tensors") * a.number("each") / BYTES_PER_S
    return 10 * LAUNCH_S


def sample(a: Ask, ranks: int = 1) -> Measured:
    """One row of the table."""
    return Measured(
        ask=a, seconds=seconds_of(a), spread=0.01, repeats=9, disturbed_share=0.0, ranks=ranks, threads=2 // ranks,
        backend="law", machine=MACHINE.name, torch=MACHINE.torch, measured_at="2026-01-02T03:04:05Z",
    )  # fmt: skip


def samples(ranks: int, quick: bool = False) -> list[Measured]:
    """The whole plan, as this machine would answer it."""
    plan = default_plan("cpu", ranks, quick)
    return [sample(a, ranks) for a in plan if a.op not in ("launch", "host_link")]


@cache
def made() -> dict[str, Any]:
    """The profile of the synthetic machine, by one and by two ranks."""
    from moesim.calibrate.own.profile import make_own_profile

    return make_own_profile([*samples(1), *samples(2)], MACHINE, Path("law.samples.csv"))
