"""Memory of hosts in serving: experts that live there, whether a host has room for them, and a way to reach them."""

from __future__ import annotations

from moesim.hwmodels.units import GIB
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.serve.job import ServeJob
from moesim.sim.serve.memory import expert_bytes
from moesim.sim.software.stack import Tuning


def check_host_link(job: ServeJob) -> None:
    """ScenarioError where something would move to the host's memory and nobody knows the link there."""
    moves = ["serve.offload"] if job.offload is not None else []
    moves += ["serve.engine.preemption=swap"] if job.engine.preemption == "swap" else []
    if moves and job.cluster.gpu.host_link_bytes_per_s <= 0.0:
        raise ScenarioError(
            f"{moves[0]} cannot be timed: the data sheet of {job.cluster.gpu.name} says nothing of a link to the "
            "host's memory; leave it out, or take a GPU with PCIe"
        )


def on_host_bytes(job: ServeJob) -> float:
    """Bytes of experts that one host keeps for its GPUs: every GPU's own, replicas share none."""
    if job.offload is None:
        return 0.0
    gpus = min(job.cluster.gpus, job.cluster.gpus_per_host)
    return expert_bytes(job) * (1.0 - job.offload.resident) * gpus


def check_host_memory(job: ServeJob, tuning: Tuning) -> None:
    """DoesNotFit where a host has no room for its experts; one whose memory nobody knows is not checked."""
    has, needed = job.cluster.host_memory_bytes, on_host_bytes(job)
    if not needed or not has:
        return
    limit = has * tuning.get("host_memory_share")
    if needed <= limit:
        return
    gpus = min(job.cluster.gpus, job.cluster.gpus_per_host)
    raise DoesNotFit(
        f"{job.arch.name} does not fit: a host of {gpus} {job.cluster.gpu.name} would keep {needed / GIB:,.0f} GiB of "
        f"experts in its memory, and has {limit / GIB:,.0f} of {has / GIB:,.0f} GiB for them "
        f"({job.cluster.host_memory_source}); offload less (serve.offload.resident), use a smaller format or more "
        "hosts, or say what a host has in cluster.host_memory_bytes"
    )
