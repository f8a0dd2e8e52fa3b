"""What a step still has to do when its last micro-batch is done: reductions, optimizer, host traffic, overheads."""

from __future__ import annotations

from math import log2

from moesim.hwmodels.gpu import bytes_per_element
from moesim.hwmodels.work import Comm, CommKind
from moesim.sim.train.memory import layer_bytes, rank_params
from moesim.sim.train.prices import StepPrices


def end_of_step_s(prices: StepPrices, body_s: float) -> dict[str, float]:
    """Seconds by category that follow the pipeline, on the slowest rank each; `body_s` is the pipeline's own time."""
    job, ranks = prices.job, range(prices.job.layout.pp)
    tail = {
        "dp_comm": max(serial_gradients_s(prices, r) for r in ranks),
        "optimizer": 0.0 if job.offload_optimizer else max(optimizer_s(prices, r) for r in ranks),
        "offload": max(optimizer_offload_s(prices, r) for r in ranks) + activation_offload_excess_s(prices, body_s),
        "step_constant": prices.tuning.get("step_constant_s", job.stack.constants_of),
    }
    doublings = max(0.0, log2(job.cluster.gpus / 8.0))
    per_doubling = prices.tuning.get("straggler_per_doubling", job.stack.constants_of)
    tail["straggler"] = (body_s + sum(tail.values())) * per_doubling * doublings
    return tail


def _owned_params(prices: StepPrices, rank: int) -> float:
    """Parameters whose optimizer state one GPU keeps."""
    dense, expert = rank_params(prices, rank)
    lay = prices.job.layout
    if lay.zero >= 1:
        dense, expert = dense / lay.dense_shards, expert / lay.expert_shards
    return dense + expert


def optimizer_seconds_per_param(prices: StepPrices) -> float:
    """The update of one parameter, bound by HBM."""
    name = prices.job.stack.constants_of
    per_param = prices.tuning.get("optimizer_bytes_per_param", name)
    return per_param / (prices.job.cluster.gpu.hbm_bytes_per_s * prices.tuning.get("optimizer_bandwidth", name))


def optimizer_s(prices: StepPrices, rank: int) -> float:
    """Optimizer step: every GPU updates the parameters it owns."""
    return _owned_params(prices, rank) * optimizer_seconds_per_param(prices)


def optimizer_offload_s(prices: StepPrices, rank: int) -> float:
    """An optimizer in host memory: gradients down, the update at host bandwidth, weights up."""
    job = prices.job
    if not job.offload_optimizer:
        return 0.0
    own = _owned_params(prices, rank)
    link = job.cluster.gpu.host_link_bytes_per_s * prices.tuning.get("host_link_share")
    update = prices.tuning.get("host_optimizer_bytes_per_param") / prices.tuning.get("host_bytes_per_s")
    return own * ((bytes_per_element(job.stack.grad_dtype) + 2.0) / link + update)


def activation_offload_excess_s(prices: StepPrices, body_s: float) -> float:
    """Seconds by which moving activations out and back outlasts the step's own compute on the host link."""
    job = prices.job
    if job.offload_activations <= 0.0:
        return 0.0
    kept = max(_kept_activation_bytes(prices, r) for r in range(job.layout.pp))
    link = job.cluster.gpu.host_link_bytes_per_s * prices.tuning.get("host_link_share")
    return max(0.0, 2.0 * kept * job.offload_activations * job.micro_batches / link - body_s)


def _kept_activation_bytes(prices: StepPrices, rank: int) -> float:
    """Bytes that one micro-batch leaves behind for its backward on one rank."""
    chunks = prices.job.layout.chunks_of(rank)
    return sum(layer_bytes(prices.job, prices.loads, i) for c in chunks for i in prices.chunks[c].layers)


def serial_gradients_s(prices: StepPrices, rank: int) -> float:
    """Gradient reduction and parameter gather when nothing overlaps them."""
    job = prices.job
    if job.stack.dp_overlap or job.layout.zero >= 3:
        return 0.0
    width = bytes_per_element(job.stack.grad_dtype)
    kinds: tuple[tuple[CommKind, float], ...] = (("reduce_scatter", width), ("all_gather", job.width_bytes))
    if job.layout.zero == 0:
        kinds = (("all_reduce", width),)
    total = 0.0
    groups = (job.layout.group("dp", job.cluster), job.layout.group("edp", job.cluster))
    for params, group in zip(rank_params(prices, rank), groups, strict=True):
        for kind, size in kinds:
            total += prices.model.cost(Comm(kind, params * size, group)).time_s
    return total
