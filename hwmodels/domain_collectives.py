"""How long one collective takes inside a scale-up domain: rings, messages, reductions in the switches. Closed forms.

Time = base + steps x hop + w/B + c sqrt(w/B): w bytes on the wire per GPU, B the achieved link rate, and the square
root a size ramp (protocols and pipelines that only large messages fill). With the same buffer more ranks never take
less time, but for reductions in the switches, whose bytes fall with the ranks and were measured to.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from moesim.hwmodels.work import CommKind

_FILL_POWER = 2.5  # how filling chunks and sending them overlap (fits of B200, GB200 and B300: 2.5 to 2.7)
_SWITCH_RANKS = 8  # assumed: in-switch reduction was measured with 5 to 8 ranks, and gains nothing more beyond


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
    a2a_chunk_bytes: float  # half the buffer, or one message, where half of that is paid
    a2a_ramp_sqrt_s: float
    nvls_fill_s: float  # what filling the pipeline of the switches costs a large buffer
    switch_bytes: float  # buffer per rank from which rings send chunks; 0: one formula for all sizes
    small_efficiency: float  # of the link rate below switch_bytes
    fill_hop_s: float  # per step of the ring, to fill its first chunk above switch_bytes
    nvls_base_s: float
    nvls_efficiency: float  # of the link rate on S (1 + 1/n) bytes; 0 = this GPU has no NVLS
    nvls_min_ranks: int  # NVLS is used from this many ranks on


def ring_steps(kind: CommKind, ranks: float) -> float:
    """Steps of the ring: 2(n-1) all-reduce, n-1 all-gather, reduce-scatter and broadcast, 1 otherwise."""
    if kind == "all_reduce":
        return 2 * (ranks - 1)
    return ranks - 1 if kind in ("all_gather", "reduce_scatter", "broadcast") else 1


def wire_bytes(kind: CommKind, ranks: float, size_bytes: float) -> float:
    """Bytes that one rank sends; `size_bytes` is the buffer of the whole operation, as in `work.Comm`.

    The factors of nccl-tests (doc/PERFORMANCE.md): 2 (n-1)/n for an all-reduce, (n-1)/n for gathers and all-to-all.
    """
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
    own = fit.own_share / (ranks - 1) if kind in ("all_gather", "reduce_scatter") else 0.0
    wire_s = wire_bytes(kind, ranks, size_bytes) * (1.0 + own) / (link_bytes_per_s * _ring_efficiency(kind, ranks, fit))
    steps = ring_steps(kind, ranks)
    floor_s, ramp_s = fit.base_s + steps * fit.hop_s, fit.ramp_sqrt_s * sqrt(wire_s)
    if fit.switch_bytes <= 0.0:
        return floor_s + wire_s + ramp_s
    largest_bytes = fit.switch_bytes * ranks
    if size_bytes <= largest_bytes:
        return _flagged_s(kind, ranks, size_bytes, link_bytes_per_s, fit)
    filled_s = float(((steps * fit.fill_hop_s) ** _FILL_POWER + wire_s**_FILL_POWER) ** (1.0 / _FILL_POWER))
    # never less than the largest buffer with flags takes, nor more than as many ranks as would still use flags
    least_s = _flagged_s(kind, ranks, largest_bytes, link_bytes_per_s, fit)
    most_s = _flagged_s(kind, size_bytes / fit.switch_bytes, size_bytes, link_bytes_per_s, fit)
    return max(least_s, min(most_s, floor_s + filled_s + ramp_s))


def _ring_efficiency(kind: CommKind, ranks: int, fit: CollectiveFit) -> float:
    """Share of the link; a broadcast sends the same bytes however many listen, so a third rank does not speed it up."""
    if kind == "broadcast":
        return min(fit.pair_efficiency, fit.link_efficiency)
    return fit.pair_efficiency if ranks == 2 else fit.link_efficiency


def _flagged_s(kind: CommKind, ranks: float, size_bytes: float, link_bytes_per_s: float, fit: CollectiveFit) -> float:
    """A ring whose data travel with flags beside them: no chunk to fill, but a share of the link only."""
    floor_s = fit.base_s + ring_steps(kind, ranks) * fit.hop_s
    return floor_s + wire_bytes(kind, ranks, size_bytes) / (link_bytes_per_s * fit.small_efficiency)


def _messages_s(kind: CommKind, ranks: int, size_bytes: float, link_bytes_per_s: float, fit: CollectiveFit) -> float:
    """Direct messages: all-to-all with the copy of the own part, or one message."""
    own = fit.a2a_own_share / (ranks - 1) if kind == "all_to_all" else 0.0
    wire_s = wire_bytes(kind, ranks, size_bytes) * (1.0 + own) / (link_bytes_per_s * fit.a2a_efficiency)
    # whether messages go in chunks: as between two ranks, for smaller messages to more ranks are no bargain
    each = size_bytes / 2.0 if kind == "all_to_all" else size_bytes
    chunked_s = fit.a2a_chunk_s * each**2 / (each**2 + fit.a2a_chunk_bytes**2)
    return fit.a2a_base_s + chunked_s + wire_s + fit.a2a_ramp_sqrt_s * sqrt(wire_s)


def switch_wire_bytes(ranks: int, size_bytes: float) -> float:
    """Bytes on every GPU's link when the switches add up: S (1 + 1/n); more than 8 ranks are not measured: as 8."""
    return size_bytes * (1.0 + 1.0 / min(ranks, _SWITCH_RANKS))


def domain_nvls_s(ranks: int, size_bytes: float, link_bytes_per_s: float, fit: CollectiveFit) -> float:
    """Seconds of an all-reduce in the switches (NVLink SHARP); 0 as the ring."""
    if ranks <= 1 or size_bytes <= 0.0:
        return 0.0
    wire_s = switch_wire_bytes(ranks, size_bytes) / (link_bytes_per_s * fit.nvls_efficiency)
    return fit.nvls_base_s + wire_s + fit.nvls_fill_s * wire_s / (wire_s + fit.nvls_fill_s / 2.0)


def domain_collective_s(
    kind: CommKind, ranks: int, size_bytes: float, link_bytes_per_s: float, fit: CollectiveFit
) -> float:
    """Seconds of one collective inside one domain as the library chooses: ring or switches."""
    ring_s = domain_ring_s(kind, ranks, size_bytes, link_bytes_per_s, fit)
    if kind != "all_reduce" or fit.nvls_efficiency <= 0.0 or ranks < fit.nvls_min_ranks:
        return ring_s
    return min(ring_s, domain_nvls_s(ranks, size_bytes, link_bytes_per_s, fit))
