"""Experts in host memory: how many bytes a step has to fetch over the host link."""

from __future__ import annotations

from moesim.hwmodels.dtypes import bytes_per_element
from moesim.sim.model.params import expert_params, experts_in
from moesim.sim.serve.job import ServeJob
from moesim.sim.serve.touched import expert_rows


def expert_bytes(job: ServeJob) -> float:
    """Bytes of one routed expert on one rank."""
    return expert_params(job.arch) * bytes_per_element(job.formats.experts) / job.layout.etp


def offload_bytes(job: ServeJob, tokens: int) -> float:
    """Bytes of experts that one rank fetches in a step of `tokens` tokens: touched, and not found on the GPU."""
    if job.offload is None or job.arch.moe is None:
        return 0.0
    touched = 0.0
    for kind in job.arch.layers:
        experts = experts_in(job.arch, kind)
        if experts:
            touched += len(expert_rows(job, experts, job.arch.moe.top_k, tokens)[0])
    return touched * expert_bytes(job) * (1.0 - job.offload.hit_rate)
