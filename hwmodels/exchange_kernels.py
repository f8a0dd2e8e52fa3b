"""How long expert dispatch and combine take: one closed form per kind of kernel, its stages pipelined.

normal        DeepEP: a token crosses the network once per destination node, NVLink fans it out; a few SMs copy
low_latency   DeepEP: every (token, expert) pair travels alone, RDMA between domains, NVLink inside
hybrid        Hybrid-EP: one copy per rank over NVLink, more bytes per SM
elastic       DeepEP V2: as normal, with hardly any SMs
one_sided     TensorRT-LLM over NVL72: every rank puts into its peers' memory
two_sided     TensorRT-LLM over NVL72 with a receive side; has a prepare stage
all_to_all    NCCL: top_k copies of every token, no de-duplication

Form and starting points: fits to DeepEP, Hybrid-EP and TensorRT-LLM measurements (calibrate/fit/comm.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from math import log2

from moesim.hwmodels.cluster import Cluster, link_bytes_per_s, slowdown
from moesim.hwmodels.facts import FactError, did_you_mean, load_constants
from moesim.hwmodels.torus import exchange_bytes_per_s
from moesim.hwmodels.work import ExpertExchange


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeFit:
    """Coefficients; efficiencies are shares of the link's or NIC's rate in the data sheet. See comm/exchange.yaml."""

    nic_efficiency: float
    normal_link_efficiency: float  # NVLink inside one domain
    normal_forward_efficiency: float  # NVLink while it forwards what the network brings
    normal_floor_dispatch_s: float
    normal_floor_combine_s: float
    normal_floor_far_dispatch_s: float
    normal_floor_far_combine_s: float
    normal_sm_dispatch_bytes_per_s: float  # copied by one SM
    normal_sm_combine_bytes_per_s: float
    normal_scale_sm_s: float  # SM-seconds per copied vector that has scales beside it
    normal_serial_bytes_per_s: float  # inside a domain, of each token once, however many SMs copy
    normal_far_dispatch_passes: float
    normal_far_combine_passes: float
    normal_remote_passes: float  # per copy that crosses the network
    low_dispatch_s: float
    low_combine_s: float
    low_hop_s: float
    low_dispatch_link_efficiency: float
    low_combine_link_efficiency: float
    low_overlap_power: float  # exponent of the p-norm of floor and bytes inside a domain
    low_expert_bytes_per_s: float  # one expert's receive side
    low_per_expert_s: float
    low_peer_s: float  # per rank of the own domain: its flags
    low_vector_bytes_per_s: float  # at which one warp moves one vector
    one_dispatch_s: float
    one_dispatch_copy_s: float
    one_combine_s: float
    one_combine_copy_s: float
    one_link_efficiency: float
    one_fall_exponent: float  # exponent by which the rate falls with the number of ranks over 8
    one_overlap_power: float
    two_floor_s: float
    two_copy_s: float  # per rank that a token can reach
    two_fall_exponent: float  # as one_fall_exponent
    two_dispatch_token_s: float
    two_combine_token_s: float
    two_low_precision_token_s: float
    two_link_efficiency: float
    prepare_floor_s: float
    prepare_token_s: float
    hybrid_floor_s: float
    hybrid_sm_dispatch_bytes_per_s: float
    hybrid_sm_combine_bytes_per_s: float
    hybrid_link_efficiency: float
    hybrid_overlap_power: float  # exponent of the p-norm of SMs and link
    hybrid_fall_exponent: float
    hybrid_scan_sm_s: float  # SM-seconds per (token, rank) that an 8-bit dispatch scans
    call_s: float  # of the framework around a kernel, where it is part of what was measured
    call_bytes_per_s: float
    elastic_floor_s: float
    elastic_link_efficiency: float


DEFAULT_SMS = 24  # DeepEP's own default


@cache
def load_exchange_fit(generation: str) -> ExchangeFit:
    """Coefficients for a GPU generation; where it has none of its own, those of Hopper."""
    return load_constants(ExchangeFit, "exchange", generation)


def exchange_s(work: ExpertExchange, cluster: Cluster, fit: ExchangeFit | None = None) -> float:
    """Seconds of one dispatch, combine or prepare on its own; 0 for one rank or no tokens.

    FactError for a kernel that we do not know, or several domains without NICs.
    """
    if work.group.ranks <= 1 or work.tokens <= 0:
        return 0.0
    kernel = _KERNELS.get(work.kernel)
    if kernel is None:
        raise FactError(f"unknown exchange kernel {work.kernel!r}; {did_you_mean(work.kernel, list(_KERNELS))}")
    return kernel(work, cluster, fit or load_exchange_fit(cluster.gpu.generation))


def sent_dtype(stage: str, kernel: str, dtype: str, low_precision: bool = False) -> str:
    """Format of what travels: results come back in 16 bits whatever was dispatched, unless the combine quantises.

    The normal kernels send what they are given.
    """
    return "bf16" if stage == "combine" and kernel != "normal" and not low_precision else dtype


def exchange_kernels() -> tuple[str, ...]:
    """Names of the kinds of kernel."""
    return tuple(_KERNELS)


def _nic_bytes_per_s(work: ExpertExchange, cluster: Cluster, fit: ExchangeFit) -> float:
    if cluster.nic_bytes_per_s <= 0:
        raise FactError(f"{cluster.name} has no NICs, but an expert exchange spans several scale-up domains")
    slower = slowdown(cluster, work.group, "everyone", on_rail=work.kernel != "low_latency")
    rate = cluster.nic_bytes_per_s * fit.nic_efficiency
    if not cluster.gpu.scale_up_bytes_per_s:  # what goes to the NIC and to neighbours shares the GPU's PCIe
        rate = min(rate, link_bytes_per_s(cluster) * fit.normal_link_efficiency)
    return min(rate * work.nic_share, rate / slower)  # what a library leaves idle of its NIC, uplinks need not carry


def _vectors(work: ExpertExchange) -> float:
    """Bytes of all token vectors of the busiest rank, once each."""
    return work.tokens * work.imbalance * work.payload_bytes


def remote_copies(work: ExpertExchange) -> float:
    """Copies of one token that leave its scale-up domain; of a token whose domain holds the fewest experts."""
    copies = work.node_copies if work.deduplicated else float(work.top_k)
    return copies * (1.0 - work.group.fewest / work.group.ranks)


def posted_s(work: ExpertExchange) -> float:
    """Seconds in which a CPU posts the messages of the busiest rank: 0 where the GPU does it itself."""
    if work.group.domains <= 1:
        return 0.0
    return work.tokens * work.imbalance * remote_copies(work) * work.copy_s


def _far_s(work: ExpertExchange, cluster: Cluster, fit: ExchangeFit) -> float:
    """The network's stage: bytes through the NIC, or messages through the CPU that posts them."""
    return max(_vectors(work) * remote_copies(work) / _nic_bytes_per_s(work, cluster, fit), posted_s(work))


def _fan_out(work: ExpertExchange) -> float:
    """Copies of one token that cross NVLink: distinct ranks, the forwarding GPU's own excluded."""
    local = min(work.group.per_domain, work.group.ranks)
    copies = work.rank_copies if work.deduplicated else float(work.top_k)
    return copies * (1.0 - 1.0 / local)


def _pipelined(work: ExpertExchange, cluster: Cluster, fit: ExchangeFit) -> float:
    """The slower of the network's stage and the NVLink stage."""
    near_share = fit.normal_link_efficiency if work.group.domains == 1 else fit.normal_forward_efficiency
    rate = exchange_bytes_per_s(cluster, min(work.group.per_domain, work.group.ranks))
    near = _vectors(work) * _fan_out(work) / (rate * near_share)
    if work.group.domains == 1:
        return near
    return max(near, _far_s(work, cluster, fit))


def _normal_floor(work: ExpertExchange, fit: ExchangeFit) -> float:
    if work.group.domains == 1:
        return fit.normal_floor_dispatch_s if work.stage == "dispatch" else fit.normal_floor_combine_s
    return fit.normal_floor_far_dispatch_s if work.stage == "dispatch" else fit.normal_floor_far_combine_s


def _copied_s(work: ExpertExchange, fit: ExchangeFit) -> float:
    """What the SMs of a normal kernel need to copy every vector that arrives, leaves or passes through."""
    dispatch = work.stage == "dispatch"
    vectors = work.rank_copies
    if work.group.domains > 1:
        passes = fit.normal_far_dispatch_passes if dispatch else fit.normal_far_combine_passes
        vectors += fit.normal_remote_passes * remote_copies(work) + passes
    rate = fit.normal_sm_dispatch_bytes_per_s if dispatch else fit.normal_sm_combine_bytes_per_s
    each = work.payload_bytes / rate + (fit.normal_scale_sm_s if work.scaled else 0.0)
    seconds = work.tokens * work.imbalance * vectors * each / work.sms
    return seconds + (_vectors(work) / fit.normal_serial_bytes_per_s if work.group.domains == 1 else 0.0)


def _normal(work: ExpertExchange, cluster: Cluster, fit: ExchangeFit) -> float:
    seconds = _pipelined(work, cluster, fit)
    if work.sms > 0:
        seconds = max(seconds, _copied_s(work, fit))
    return _normal_floor(work, fit) + seconds


def _all_to_all(work: ExpertExchange, cluster: Cluster, fit: ExchangeFit) -> float:
    return _normal_floor(work, fit) + _pipelined(replace(work, deduplicated=False), cluster, fit)


def _low_latency(work: ExpertExchange, cluster: Cluster, fit: ExchangeFit) -> float:
    dispatch = work.stage == "dispatch"
    n, local = work.group.ranks, min(work.group.per_domain, work.group.ranks)
    pairs = _vectors(work) * work.top_k
    link = link_bytes_per_s(cluster) * (
        fit.low_dispatch_link_efficiency if dispatch else fit.low_combine_link_efficiency
    )
    near = pairs * (local - 1) / n / link
    floor = fit.low_dispatch_s + fit.low_per_expert_s * work.experts if dispatch else fit.low_combine_s
    floor += fit.low_peer_s * local + work.payload_bytes / fit.low_vector_bytes_per_s
    if dispatch and work.experts:  # the receive side of one expert handles its rows one after the other
        rows = work.tokens * work.top_k * n / work.experts
        near = max(near, rows * work.payload_bytes / fit.low_expert_bytes_per_s)
    if work.group.domains == 1:
        p = fit.low_overlap_power
        return float((floor**p + near**p) ** (1.0 / p))
    outside = 1.0 - work.group.fewest / n
    far = pairs * outside / _nic_bytes_per_s(work, cluster, fit)
    far = max(far, work.tokens * work.imbalance * work.top_k * outside * work.copy_s)  # every pair is a message
    return floor + fit.low_hop_s * (1.0 + log2(work.group.domains) / 2.0) + max(near, far)


def _within_one_domain(work: ExpertExchange, what: str) -> None:
    if work.group.domains > 1:
        raise FactError(f"{what} kernels need all {work.group.ranks} ranks in one scale-up domain")


def _one_sided(work: ExpertExchange, cluster: Cluster, fit: ExchangeFit) -> float:
    _within_one_domain(work, "one-sided")
    n, copies = work.group.ranks, min(work.group.ranks, work.top_k)
    rate = link_bytes_per_s(cluster) * fit.one_link_efficiency * float((n / 8.0) ** -fit.one_fall_exponent)
    wire = _vectors(work) * copies * (1.0 - 1.0 / n) / rate
    if work.stage == "dispatch":
        floor = fit.one_dispatch_s + fit.one_dispatch_copy_s * copies
    else:
        floor = fit.one_combine_s + fit.one_combine_copy_s * copies
    p = fit.one_overlap_power
    return float((floor**p + wire**p) ** (1.0 / p))


def _two_sided(work: ExpertExchange, cluster: Cluster, fit: ExchangeFit) -> float:
    _within_one_domain(work, "two-sided")
    n = work.group.ranks
    copies = min(n, work.top_k)
    if work.stage == "prepare":
        return fit.prepare_floor_s + fit.two_copy_s * copies + fit.prepare_token_s * work.tokens
    rate = link_bytes_per_s(cluster) * fit.two_link_efficiency * float((n / 8.0) ** -fit.two_fall_exponent)
    wire = _vectors(work) * copies * (1.0 - 1.0 / n) / rate
    if work.stage == "dispatch":
        each = fit.two_dispatch_token_s
    else:
        each = fit.two_low_precision_token_s if work.low_precision else fit.two_combine_token_s
    return fit.two_floor_s + fit.two_copy_s * copies + each * work.tokens + wire


def _hybrid(work: ExpertExchange, cluster: Cluster, fit: ExchangeFit) -> float:
    n, sms = work.group.ranks, work.sms or DEFAULT_SMS
    dispatch = work.stage == "dispatch"
    per_sm = fit.hybrid_sm_dispatch_bytes_per_s if dispatch else fit.hybrid_sm_combine_bytes_per_s
    fall = float((n / 8.0) ** -fit.hybrid_fall_exponent)
    link, p = link_bytes_per_s(cluster) * fit.hybrid_link_efficiency * fall, fit.hybrid_overlap_power
    rate = float(((per_sm * sms) ** -p + link**-p) ** (-1.0 / p))
    seconds = _vectors(work) * work.rank_copies * (1.0 - 1.0 / n) / rate
    if work.group.domains > 1:
        seconds = max(seconds, _far_s(work, cluster, fit))
    if dispatch and work.scaled:
        seconds = max(seconds, work.tokens * n * fit.hybrid_scan_sm_s / sms)
    return fit.hybrid_floor_s + seconds + _call(work, fit)


def _elastic(work: ExpertExchange, cluster: Cluster, fit: ExchangeFit) -> float:
    seconds = _vectors(work) * _fan_out(work) / (link_bytes_per_s(cluster) * fit.elastic_link_efficiency)
    if work.group.domains > 1:
        seconds = max(seconds, _far_s(work, cluster, fit))
    return fit.elastic_floor_s + seconds


def _call(work: ExpertExchange, fit: ExchangeFit) -> float:
    """The framework's call around the kernel, with its copy of the buffers."""
    if not work.host_call:
        return 0.0
    return fit.call_s + _vectors(work) * work.rank_copies / fit.call_bytes_per_s


_KERNELS: dict[str, Callable[[ExpertExchange, Cluster, ExchangeFit], float]] = {
    "normal": _normal,
    "low_latency": _low_latency,
    "hybrid": _hybrid,
    "elastic": _elastic,
    "one_sided": _one_sided,
    "two_sided": _two_sided,
    "all_to_all": _all_to_all,
}


def exchange_lower_bound_s(work: ExpertExchange, cluster: Cluster) -> float:
    """NIC bytes at the NIC's own rate: no schedule beats it."""
    if work.group.domains <= 1:
        return 0.0
    return work.tokens * work.payload_bytes * remote_copies(work) / cluster.nic_bytes_per_s
