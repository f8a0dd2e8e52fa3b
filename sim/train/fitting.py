"""Whether a training step fits: every GPU and every host; and what would, where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from moesim.hwmodels.units import GIB
from moesim.sim.layout.layout import BadLayout, check_layout
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.train.host_memory import host_shortage
from moesim.sim.train.job import TrainJob
from moesim.sim.train.memory import RankMemory, step_memory
from moesim.sim.train.prices import StepPrices

_FULL = 0.99  # of a GPU's memory: from here on an answer says what is left


def fits(prices: StepPrices, memory: Sequence[RankMemory]) -> bool:
    """Whether every GPU and every host has room."""
    return max(m.total for m in memory) <= prices.job.cluster.gpu.usable_bytes and not host_shortage(prices, memory)


def step_fits(prices: StepPrices) -> bool:
    """The same of a step whose memory nobody has asked for yet."""
    return fits(prices, step_memory(prices))


def require_memory(prices: StepPrices, memory: tuple[RankMemory, ...]) -> None:
    """DoesNotFit where a rank needs more than a GPU has, or its host; the message says how much, and what would fit."""
    worst = max(memory, key=lambda m: m.total)
    usable = prices.job.cluster.gpu.usable_bytes
    if worst.total <= usable:
        if shortage := host_shortage(prices, memory):
            raise DoesNotFit(f"does not fit: {shortage}")
        return
    raise DoesNotFit(
        f"does not fit: needs {worst.total / GIB:.1f} GiB of {usable / GIB:.1f} GiB on stage {worst.rank}; "
        f"{_what_fits(prices)}"
    )


def headroom_note(prices: StepPrices, memory: Sequence[RankMemory]) -> str:
    """What is left where the fullest GPU is full but for a hundredth; empty where more is left, or nothing."""
    worst, usable = max(memory, key=lambda m: m.total), prices.job.cluster.gpu.usable_bytes
    share = worst.total / usable
    if not _FULL <= share <= 1.0:
        return ""
    return (
        f"memory: stage {worst.rank} fills {share:.1%} of a GPU, {(usable - worst.total) / GIB:.1f} GiB are left: more "
        f"fragmentation than the {worst.reserve / GIB:.1f} GiB counted for it, or an uneven batch, would not fit"
    )


def _what_fits(prices: StepPrices) -> str:
    """The nearest changes, one at a time, that make the job fit."""
    job = prices.job
    lay = job.layout
    tries: list[tuple[str, TrainJob]] = []
    for name, modules in (("recompute=selective", {job.stack.selective}), ("recompute=full", {"full"})):
        if not modules <= job.recompute:
            tries.append((name, replace(job, recompute=frozenset(modules))))
    changes: list[dict[str, int]] = [{"zero": z} for z in (1, 3) if z > lay.zero]
    for key in ("tp", "pp", "ep"):
        value = getattr(lay, key)
        changes += [{key: value * 2}, {key: value * 4}]
    for change in changes:
        try:
            other = replace(lay, **change)  # type: ignore[arg-type]  # keys are those of integer fields
            tries.append((_spell(change), replace(job, layout=check_layout(other, job.arch))))
        except BadLayout:
            continue
    fitting = [name for name, other in tries if _fits(other, prices)]
    if fitting:
        return "fits with " + " or ".join(fitting[:3]) + "; `moesim plan` finds the fastest layout that fits"
    found = _any_layout(prices)
    if found:
        return f"other layouts on the same GPUs fit, for example {found}: `moesim plan` finds the fastest of them"
    return "no layout that was tried on these GPUs fits: use more GPUs, or a smaller model or batch"


def _any_layout(prices: StepPrices) -> str:
    """A layout on as many GPUs that fits, with all recomputed where it must be; empty where none was found.

    The widest that the experts and machines allow, which need least memory: few enough to be tried before a refusal.
    """
    job = prices.job
    arch, gpus = job.arch, job.cluster.gpus
    experts = arch.moe.experts if arch.moe is not None else 1
    wide = sorted({1, min(8, job.cluster.domain)})
    deep = [d for d in (1, 4, 8, 16) if d <= arch.num_layers]
    for modules, tp, pp, zero in product((job.recompute, frozenset({"full"})), wide, deep, (1, 3)):
        ep = next((e for e in (64, 32, 16, 8, 4, 2) if experts % e == 0 and gpus % (e * pp) == 0), 1)
        if gpus % (tp * pp) or (zero == 3 and pp > 1):
            continue
        plain = replace(job.layout, vpp=1, cp=1, etp=1, schedule="1f1b", stage_layers=None, zero_group=None)
        try:
            layout = check_layout(replace(plain, tp=tp, pp=pp, ep=ep, zero=zero), arch)
        except BadLayout:
            continue
        if _fits(replace(job, layout=layout, recompute=modules, micro_batch=1), prices):
            more = ", recompute=full" if "full" in modules and "full" not in job.recompute else ""
            return _spell({"tp": tp, "pp": pp, "ep": ep, "zero": zero}) + more
    return ""


def _spell(change: dict[str, int]) -> str:
    return ", ".join(f"{k}={v}" for k, v in change.items())


def _fits(job: TrainJob, prices: StepPrices) -> bool:
    if job.global_batch % (job.micro_batch * job.layout.dp):
        return False
    # expected rows first: drawing every rank's costs far more, and most of what is tried does not fit by far
    expected = step_fits(StepPrices(job, prices.profile, prices.tuning, drawn=False))
    return expected and step_fits(StepPrices(job, prices.profile, prices.tuning))
