"""What users of a training run can change without buying anything: one function per knob, as keys of a scenario.

Whether a change can run is not asked here: the changed scenario is read like any other, and refused like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from moesim.sim.question.sections import PRECISIONS
from moesim.sim.train.job import Resolved, TrainJob
from moesim.sim.variation.settings import Setting

_SKEWS = (0.25, 0.5)  # sigma of the popularity of experts: an aux loss that works, and one that hardly does (assumed)


def _micro_batch(job: TrainJob) -> Iterator[Setting]:
    for factor in (0.5, 2.0):
        size = job.micro_batch * factor
        if size == int(size):
            yield Setting("micro-batch", f"{int(size)}", {"train.micro_batch": int(size)})


def _recompute(job: TrainJob) -> Iterator[Setting]:
    for word in ("none", "light", "full"):
        yield Setting("recompute", word, {"train.recompute": [word]})


def _dispatcher(job: TrainJob) -> Iterator[Setting]:
    for word in _dispatchers(job) if job.layout.ep > 1 else ():
        yield Setting("token dispatcher", word, {"stack.dispatcher": word})


def _dispatchers(job: TrainJob) -> list[str]:
    """What can carry tokens on these machines: DeepEP's own kernels post from the GPU, which EFA has no way for."""
    vendor, across = job.cluster.gpu.vendor.lower(), job.layout.group("ep", job.cluster).domains > 1
    own = {"amd": ["mori"], "nvidia": ["deepep", "hybridep"]}.get(vendor, [])
    if vendor == "nvidia" and across and job.cluster.fabric_kind == "efa":
        own = ["deepep-uccl", "deepep-nvshmem"]
    return ["alltoall", *own, *(["two-level"] if across else [])]


def _cuda_graphs(job: TrainJob) -> Iterator[Setting]:
    for word in ("none", "router", "partial", "full"):
        if word == "none" or word == "full" or job.arch.is_moe:
            yield Setting("CUDA graphs", word, {"stack.cuda_graphs": word})


def _expert_parallel(job: TrainJob) -> Iterator[Setting]:
    for ep in (job.layout.ep // 2, job.layout.ep * 2) if job.arch.is_moe else ():
        if ep:
            yield Setting("expert parallel", f"ep {ep}", {"layout.ep": ep})


def _virtual_stages(job: TrainJob) -> Iterator[Setting]:
    vpp = job.layout.vpp
    for other in (vpp // 2, vpp * 2) if job.layout.pp > 1 else ():
        if other:  # a schedule that interleaves runs no single stage: the software's own is taken for it
            keys: dict[str, Any] = {"layout.vpp": other}
            if (other > 1) != (vpp > 1):
                keys["layout.schedule"] = None
            yield Setting("virtual stages", f"vpp {other}", keys)


def _overlap(job: TrainJob) -> Iterator[Setting]:
    lay, stack = job.layout, job.stack
    if lay.tp > 1:
        yield Setting(
            "overlap of tensor parallelism", _on(not stack.tp_overlap), {"stack.tp_overlap": not stack.tp_overlap}
        )
    if lay.dp > 1:
        yield Setting("overlap of gradients", _on(not stack.dp_overlap), {"stack.dp_overlap": not stack.dp_overlap})
    for word in ("none", "hidden") if lay.ep > 1 and stack.ep_overlap != "dualpipe" else ():
        yield Setting("overlap of the expert exchange", word, {"stack.ep_overlap": word})


def _on(overlapped: bool) -> str:
    return "on" if overlapped else "off"


def _sequence_parallel(job: TrainJob) -> Iterator[Setting]:
    if job.layout.tp > 1:
        other = not job.layout.sequence_parallel
        yield Setting("sequence parallel", _on(other), {"layout.sequence_parallel": other})


def _zero(job: TrainJob) -> Iterator[Setting]:
    for zero in range(4) if job.layout.dp > 1 else ():
        yield Setting("ZeRO", f"stage {zero}", {"layout.zero": zero})


def _precision(job: TrainJob) -> Iterator[Setting]:
    for precision in PRECISIONS:
        if precision not in ("fp16", "fp32", "fp8_block") and job.cluster.gpu.supports(precision):
            yield Setting("precision", precision, {"train.precision": precision})


def _global_batch(job: TrainJob) -> Iterator[Setting]:
    for factor in (0.5, 2.0):
        batch = int(job.global_batch * factor)
        if batch:
            yield Setting("global batch", f"x{factor:g}", {"train.global_batch": batch}, "question")


def _routing(job: TrainJob) -> Iterator[Setting]:
    """Skew drawn as by default, whatever else the scenario says of routing."""
    for sigma in _SKEWS if job.arch.is_moe else ():
        yield Setting("expert imbalance", f"lognormal {sigma:g}", {"routing": {"lognormal": sigma}}, "question")
    if job.arch.is_moe:
        yield Setting("expert imbalance", "balanced", {"routing": "balanced"}, "question")


_KNOBS: tuple[Callable[[TrainJob], Iterator[Setting]], ...] = (
    _micro_batch, _recompute, _dispatcher, _cuda_graphs, _expert_parallel, _virtual_stages, _overlap,
    _sequence_parallel, _zero, _precision, _global_batch, _routing,
)  # fmt: skip


def train_settings(resolved: Resolved) -> Iterator[Setting]:
    """Every change to try of a training run; those that change nothing about it are among them."""
    for knob in _KNOBS:
        yield from knob(resolved.job)


def price_settings(usd_per_gpu_hour: float | None, share: float) -> Iterator[tuple[Setting, float]]:
    """The price by plus and minus `share`, each with its factor; nothing where none is known."""
    for factor in (1.0 - share, 1.0 + share) if usd_per_gpu_hour is not None else ():
        assert usd_per_gpu_hour is not None  # asked above
        keys = {"price_usd_per_gpu_hour": usd_per_gpu_hour * factor}
        yield Setting("price", f"{factor - 1.0:+.0%}", keys, "question"), factor
