"""CollectiveFit: coefficients of collectives inside one scale-up (NVLink) domain, and their closed form.

t = base + steps x hop + w/B + c sqrt(w/B): a floor that grows with the steps of the ring, the bytes on the
wire at the achieved link rate, and a ramp between the two. In-switch reduction (NVLS) is an alternative for
all-reduce.
Form and starting points: fits to nccl-tests tables of NVIDIA's aiconfigurator-core.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from hwmodels.work import CommKind


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveFit:
    """Rates are shares of the scale-up link's spec rate in one direction."""

    base_s: float  # launch and synchronisation of a ring collective
    hop_s: float  # one step of the ring
    a2a_base_s: float  # all-to-all has no ring: one floor whatever the number of ranks
    link_efficiency: float  # ring collectives, three ranks or more
    a2a_efficiency: float  # all-to-all, three ranks or more
    pair_efficiency: float  # any collective of two ranks
    ramp_sqrt_s: float  # c, in seconds^0.5
    nvls_base_s: float
    nvls_efficiency: float  # of the link rate on S (1 + 1/n) bytes; 0 = this GPU has no NVLS
    nvls_min_ranks: int  # NVLS is used from this many ranks on


def ring_steps(kind: CommKind, ranks: int) -> int:
    """Steps of the ring: 2(n-1) all-reduce, n-1 all-gather, reduce-scatter and broadcast, 1 otherwise."""
    if kind == "all_reduce":
        return 2 * (ranks - 1)
    return ranks - 1 if kind in ("all_gather", "reduce_scatter", "broadcast") else 1


def wire_bytes(kind: CommKind, ranks: int, size_bytes: float) -> float:
    """Bytes that one rank sends; `size_bytes` is the buffer of the whole operation, as in `work.Comm`."""
    if kind in ("send", "broadcast"):
        return size_bytes
    share = (ranks - 1) / ranks
    return size_bytes * share * (2.0 if kind == "all_reduce" else 1.0)


def domain_ring_s(kind: CommKind, ranks: int, size_bytes: float, link_bytes_per_s: float, fit: CollectiveFit) -> float:
    """Seconds of a ring (or, for all-to-all, of direct messages) among `ranks` GPUs; 0 for one rank or no bytes."""
    if ranks <= 1 or size_bytes <= 0.0:
        return 0.0
    a2a = kind in ("all_to_all", "send")
    many = fit.a2a_efficiency if a2a else fit.link_efficiency
    share = fit.pair_efficiency if ranks == 2 else many
    floor_s = fit.a2a_base_s if a2a else fit.base_s + ring_steps(kind, ranks) * fit.hop_s
    wire_s = wire_bytes(kind, ranks, size_bytes) / (link_bytes_per_s * share)
    return floor_s + wire_s + fit.ramp_sqrt_s * sqrt(wire_s)


def domain_nvls_s(ranks: int, size_bytes: float, link_bytes_per_s: float, fit: CollectiveFit) -> float:
    """Seconds of an all-reduce in the switches: S (1 + 1/n) bytes on every GPU's link."""
    if ranks <= 1 or size_bytes <= 0.0:
        return 0.0
    wire_s = size_bytes * (1.0 + 1.0 / ranks) / (link_bytes_per_s * fit.nvls_efficiency)
    return fit.nvls_base_s + wire_s + fit.ramp_sqrt_s * sqrt(wire_s)


def domain_collective_s(
    kind: CommKind, ranks: int, size_bytes: float, link_bytes_per_s: float, fit: CollectiveFit
) -> float:
    """Seconds of one collective inside one domain as the library chooses: ring or switches."""
    ring_s = domain_ring_s(kind, ranks, size_bytes, link_bytes_per_s, fit)
    if kind != "all_reduce" or fit.nvls_efficiency <= 0.0 or ranks < fit.nvls_min_ranks:
        return ring_s
    return min(ring_s, domain_nvls_s(ranks, size_bytes, link_bytes_per_s, fit))
