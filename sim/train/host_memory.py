"""Memory of hosts: what a training step keeps there instead of on its GPUs, and whether one host has room for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moesim.hwmodels.gpu import bytes_per_element
from moesim.hwmodels.units import GIB
from moesim.sim.train.memory import RankMemory
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.updates import owned_params


@dataclass(frozen=True, slots=True, kw_only=True)
class HostUse:
    """Bytes that the fullest host keeps for its GPUs, what it may keep, what it has; the source of the latter."""

    needed_bytes: float
    limit_bytes: float | None  # None where nobody knows the host: not checked
    installed_bytes: float | None
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "needed": self.needed_bytes, "limit": self.limit_bytes, "installed": self.installed_bytes,
            "source": self.source,
        }  # fmt: skip


def host_use(prices: StepPrices, memory: Sequence[RankMemory]) -> HostUse | None:
    """What the fullest host keeps; None where the step keeps nothing on hosts."""
    if not prices.job.offloads:
        return None
    cluster, limit = prices.job.cluster, host_limit_bytes(prices)
    return HostUse(
        needed_bytes=fullest_host_bytes(prices, memory),
        limit_bytes=limit if cluster.host_memory_bytes else None,
        installed_bytes=cluster.host_memory_bytes or None,
        source=cluster.host_memory_source or "not known: not checked",
    )


def host_bytes(prices: StepPrices, memory: RankMemory) -> float:
    """Bytes that one GPU of a pipeline rank keeps in its host's memory: optimizer with gradients, activations."""
    job = prices.job
    kept = 0.0
    if job.offload_optimizer:
        each = job.stack.master_dtype_bytes + bytes_per_element(job.stack.grad_dtype)
        kept = each * owned_params(prices, job.layout.chunks_of(memory.rank))
    return kept + memory.offloaded


def fullest_host_bytes(prices: StepPrices, memory: Sequence[RankMemory]) -> float:
    """Bytes that the fullest host keeps: its GPUs lie next to each other in rank order, pipeline ranks outermost."""
    job = prices.job
    if not job.offloads:
        return 0.0
    of_stage, on_host = job.cluster.gpus // job.layout.pp, min(job.cluster.gpus, job.cluster.gpus_per_host)
    together = max(1, on_host // of_stage)  # pipeline ranks that share a host
    each = [host_bytes(prices, m) for m in memory]
    return max(sum(each[i : i + together]) for i in range(0, len(each), together)) * on_host / together


def host_limit_bytes(prices: StepPrices) -> float:
    """Bytes of one host that a step may fill; endless where nobody knows the host."""
    known = prices.job.cluster.host_memory_bytes
    return known * prices.tuning.get("host_memory_share") if known else float("inf")


def host_shortage(prices: StepPrices, memory: Sequence[RankMemory]) -> str:
    """Why a host has no room for what the step keeps there; empty where it has."""
    if not prices.job.offloads:
        return ""
    cluster, needed = prices.job.cluster, fullest_host_bytes(prices, memory)
    if needed <= host_limit_bytes(prices):
        return ""
    has, gpus = cluster.host_memory_bytes / GIB, min(cluster.gpus, cluster.gpus_per_host)
    return (
        f"a host of {gpus} {cluster.gpu.name} would keep {needed / GIB:,.0f} GiB in its memory, and has "
        f"{host_limit_bytes(prices) / GIB:,.0f} of {has:,.0f} GiB for it ({cluster.host_memory_source}); offload less, "
        "use more hosts, or say what a host has in cluster.host_memory_bytes"
    )
