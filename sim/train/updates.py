"""What a step does with gradients once they are there: sums that nothing overlapped, and the update of parameters."""

from __future__ import annotations

from collections.abc import Sequence

from moesim.hwmodels.gpu import bytes_per_element
from moesim.hwmodels.work import Comm, CommKind
from moesim.sim.train.memory import rank_params, stage_params
from moesim.sim.train.prices import StepPrices


def owned_params(prices: StepPrices, stages: Sequence[int]) -> float:
    """Parameters of these virtual stages whose optimizer state one GPU keeps."""
    dense, expert = stage_params(prices, stages)
    lay = prices.job.layout
    if lay.zero >= 1:
        dense, expert = dense / lay.dense_shards, expert / lay.expert_shards
    return dense + expert


def optimizer_seconds_per_param(prices: StepPrices) -> float:
    """The update of one parameter on the GPU, bound by HBM."""
    name = prices.job.stack.constants_of
    per_param = prices.tuning.get("optimizer_bytes_per_param", name)
    return per_param / (prices.job.cluster.gpu.hbm_bytes_per_s * prices.tuning.get("optimizer_bandwidth", name))


def optimizer_s(prices: StepPrices, rank: int) -> float:
    """Optimizer step: every GPU updates the parameters it owns; 0 where the CPU does."""
    if prices.job.offload_optimizer:
        return 0.0
    return owned_params(prices, prices.job.layout.chunks_of(rank)) * optimizer_seconds_per_param(prices)


def serial_gradients(prices: StepPrices, rank: int) -> list[Comm]:
    """Gradient reduction and parameter gather of one pipeline rank, one after the other; none where they overlap."""
    job = prices.job
    if job.stack.dp_overlap or job.layout.zero >= 3:
        return []
    width = bytes_per_element(job.stack.grad_dtype)
    kinds: tuple[tuple[CommKind, float], ...] = (("reduce_scatter", width), ("all_gather", job.width_bytes))
    if job.layout.zero == 0:
        kinds = (("all_reduce", width),)
    groups = (job.layout.group("dp", job.cluster), job.layout.group("edp", job.cluster))
    each = zip(rank_params(prices, rank), groups, strict=True)
    return [Comm(kind, params * size, group) for params, group in each for kind, size in kinds]
