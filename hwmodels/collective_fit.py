"""CollectiveFit: coefficients of collectives inside one scale-up (NVLink) domain, and their closed form.

t = base + steps x hop + w/B + c sqrt(w/B): a floor that grows with the steps of the ring, the bytes on the
wire at the achieved link rate, and a ramp between the two.

- All-gather, reduce-scatter and all-to-all also copy their own part: in the first two a quarter of the cost of
  sending it, on every GPU that was measured.
- On Blackwell rings have two protocols: small buffers travel with flags beside the data (LL128) at a fraction of
  the rate and without a ramp; above so many bytes per rank whole chunks travel (Simple), every step of the ring
  first fills one, and the library switches too early: the time jumps there.
- Messages of an all-to-all pay a second floor once they are sent in chunks.
- In-switch reduction (NVLS) is an alternative for all-reduce.

Form and starting points: fits to nccl-tests tables of NVIDIA's aiconfigurator-core.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from moesim.hwmodels.work import CommKind

_FILL_POWER = 2.5  # how filling chunks and sending them overlap (fits of B200, GB200 and B300: 2.5 to 2.7)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveFit:
    """Rates are shares of the scale-up link's spec rate in one direction."""

    base_s: float  # launch and synchronisation of a ring collective
    hop_s: float  # one step of the ring
    a2a_base_s: float  # all-to-all has no ring: one floor whatever the number of ranks
    link_efficiency: float  # ring collectives, three ranks or more
    a2a_efficiency: float  # all-to-all
    pair_efficiency: float  # rings of two ranks
    ramp_sqrt_s: float  # c of rings, in seconds^0.5
    own_share: float  # cost of copying the own part in all-gather and reduce-scatter, per byte, over that of the wire
    a2a_own_share: float  # the same in an all-to-all
    a2a_chunk_s: float  # what an all-to-all pays more once its messages are sent in chunks
    a2a_chunk_bytes: float  # per peer, where half of that is paid
    a2a_ramp_sqrt_s: float
    nvls_fill_s: float  # what filling the pipeline of the switches costs a large buffer
    switch_bytes: float  # buffer per rank from which rings send chunks; 0: one formula for all sizes
    small_efficiency: float  # of the link rate below switch_bytes
    fill_hop_s: float  # per step of the ring, to fill its first chunk above switch_bytes
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
    if kind in ("all_to_all", "send"):
        return _messages_s(kind, ranks, size_bytes, link_bytes_per_s, fit)
    share = fit.pair_efficiency if ranks == 2 else fit.link_efficiency
    own = fit.own_share / (ranks - 1) if kind in ("all_gather", "reduce_scatter") else 0.0
    wire_s = wire_bytes(kind, ranks, size_bytes) * (1.0 + own) / (link_bytes_per_s * share)
    steps = ring_steps(kind, ranks)
    floor_s, ramp_s = fit.base_s + steps * fit.hop_s, fit.ramp_sqrt_s * sqrt(wire_s)
    if fit.switch_bytes <= 0.0:
        return floor_s + wire_s + ramp_s
    flagged = wire_bytes(kind, ranks, min(size_bytes, fit.switch_bytes * ranks))
    small_s = floor_s + flagged / (link_bytes_per_s * fit.small_efficiency)
    if size_bytes <= fit.switch_bytes * ranks:
        return small_s
    filled_s = float(((steps * fit.fill_hop_s) ** _FILL_POWER + wire_s**_FILL_POWER) ** (1.0 / _FILL_POWER))
    return max(small_s, floor_s + filled_s + ramp_s)  # never less than the largest small buffer takes


def _messages_s(kind: CommKind, ranks: int, size_bytes: float, link_bytes_per_s: float, fit: CollectiveFit) -> float:
    """Direct messages: all-to-all with the copy of the own part, or one message."""
    own = fit.a2a_own_share / (ranks - 1) if kind == "all_to_all" else 0.0
    wire_s = wire_bytes(kind, ranks, size_bytes) * (1.0 + own) / (link_bytes_per_s * fit.a2a_efficiency)
    each = size_bytes / ranks if kind == "all_to_all" else size_bytes
    chunked_s = fit.a2a_chunk_s * each**2 / (each**2 + fit.a2a_chunk_bytes**2)
    return fit.a2a_base_s + chunked_s + wire_s + fit.a2a_ramp_sqrt_s * sqrt(wire_s)


def domain_nvls_s(ranks: int, size_bytes: float, link_bytes_per_s: float, fit: CollectiveFit) -> float:
    """Seconds of an all-reduce in the switches: S (1 + 1/n) bytes on every GPU's link."""
    if ranks <= 1 or size_bytes <= 0.0:
        return 0.0
    wire_s = size_bytes * (1.0 + 1.0 / ranks) / (link_bytes_per_s * fit.nvls_efficiency)
    return fit.nvls_base_s + wire_s + fit.nvls_fill_s * wire_s / (wire_s + fit.nvls_fill_s / 2.0)


def domain_collective_s(
    kind: CommKind, ranks: int, size_bytes: float, link_bytes_per_s: float, fit: CollectiveFit
) -> float:
    """Seconds of one collective inside one domain as the library chooses: ring or switches."""
    ring_s = domain_ring_s(kind, ranks, size_bytes, link_bytes_per_s, fit)
    if kind != "all_reduce" or fit.nvls_efficiency <= 0.0 or ranks < fit.nvls_min_ranks:
        return ring_s
    return min(ring_s, domain_nvls_s(ranks, size_bytes, link_bytes_per_s, fit))
