"""Experts apart from attention: a replica whose routed experts lie on GPUs of their own.

Batches go to and fro: while one is with the experts the next is with attention, a third on the wires. A pass takes what
the slowest of the three takes for all batches, and at least what one batch takes through all of them. The exchange is
priced as among the experts' GPUs, at the rate of the side that has fewer NICs. (Attention-FFN disaggregation as in
MegaScale-Infer, arXiv:2504.02263, and Step-3, arXiv:2507.19427; shared experts stay with attention here.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd

from moesim.hwmodels.units import GIB
from moesim.sim.layout.layout import BadLayout, Layout, check_layout
from moesim.sim.layout.slots import check_slots
from moesim.sim.model.arch import ModelArch
from moesim.sim.question.feature_sections import ApartAsk
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.serve.job import Apart, ServeJob

_WEIGHTS_SHARE = 0.9  # assumed: of a GPU's memory, that experts may fill where there is no cache beside them


def apart_of(ask: ApartAsk | None, arch: ModelArch) -> tuple[Apart | None, list[str]]:
    """What a scenario asks for, and what is said of it. ScenarioError for a model without experts."""
    if ask is None:
        return None, []
    if not arch.is_moe:
        raise ScenarioError(f"serve.experts_apart moves experts to GPUs of their own; {arch.name} has none")
    said = f"experts apart: {ask.gpus} GPUs hold the routed experts, {ask.batches} batches go to and fro"
    return Apart(gpus=ask.gpus, batches=ask.batches), [f"{said}; shared experts stay with attention"]


def experts_job(job: ServeJob) -> ServeJob | None:
    """The GPUs with experts as a job of their own; None where experts are with attention.

    As many ranks as divide the experts, each on as many GPUs as that leaves. BadLayout where experts cannot be divided.
    """
    apart, moe = job.apart, job.arch.moe
    if apart is None or moe is None:
        return None
    ep = gcd(moe.experts + job.placement.spare_slots, apart.gpus)
    layout = check_layout(
        Layout(gpus=apart.gpus, tp=1, ep=ep, etp=apart.gpus // ep, sequence_parallel=False, schedule="1f1b"), job.arch
    )
    check_slots(job.placement, job.arch, ep)
    return replace(
        job, layout=layout, apart=None, speculation=None, adapters=None, sampling=None,
        first_gpu=job.first_gpu + job.layout.gpus,
    )  # fmt: skip


def check_apart(job: ServeJob, bytes_of_experts: float) -> None:
    """DoesNotFit where a GPU has no room for its experts; `bytes_of_experts`: of one of them."""
    apart, usable = job.apart, job.cluster.gpu.usable_bytes
    if apart is None or bytes_of_experts <= _WEIGHTS_SHARE * usable:
        return
    needed = bytes_of_experts * apart.gpus / (_WEIGHTS_SHARE * usable)
    raise DoesNotFit(
        f"{job.arch.name} does not fit: each of {apart.gpus} GPUs of experts would hold {bytes_of_experts / GIB:.1f} "
        f"GiB and has {_WEIGHTS_SHARE * usable / GIB:.1f} for them; give serve.experts_apart.gpus of at least "
        f"{int(needed) + 1}"
    )


def check_goes_with(job: ServeJob) -> None:
    """BadLayout for what experts apart cannot be combined with."""
    if job.apart is None:
        return
    others = {
        "layout.pp": job.layout.pp > 1,
        "serve.two_batch_overlap": job.two_batch,
        "serve.offload": job.offload is not None,
        "layout.ep": job.layout.ep > 1,
    }
    for name, given in others.items():
        if given:
            raise BadLayout(
                f"{name} does not go with serve.experts_apart: experts lie on {job.apart.gpus} GPUs of their own, and "
                "batches overlap already; leave it out"
            )


@dataclass(frozen=True, slots=True)
class LayerSeconds:
    """All layers of a pass but the attention cores: compute, what may overlap with it, and one batch's way around."""

    compute_s: float
    exchange_s: float  # of experts and wires, the longer of both, where experts are apart
    around_s: float = 0.0  # one batch through experts and wires, where experts are apart
