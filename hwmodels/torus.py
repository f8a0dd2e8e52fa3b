"""Transfers on a torus of chips, as TPU pods are wired: rings per dimension, and all-to-alls that pass through others.

A chip has two links per dimension and no switch: what goes to a chip that is no neighbour takes links of those between.
The axes of a job are laid along the dimensions of its slice, whose edges are taken as equal and closed (assumed; slices
of early pods are open): a group of n chips in a slice of edge s spans log(n)/log(s) dimensions, at least one. An axis
as long as the edge is a ring; a shorter one is a line.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt

from moesim.hwmodels.cluster import Cluster, link_bytes_per_s
from moesim.hwmodels.domain_collectives import CollectiveFit, wire_bytes
from moesim.hwmodels.work import CommKind


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a torus that a group of chips has to itself."""

    dimensions: float  # at least 1
    side: float  # chips along each of them
    rings: bool  # whether the last chip of a side is joined to the first
    link_bytes_per_s: float  # of one link, in one direction

    @property
    def injected_bytes_per_s(self) -> float:
        """What a chip can send at once along the dimensions of the group: both ways round a ring, one way on a line
        whose two halves of a ring run there and back."""
        return self.dimensions * self.link_bytes_per_s * (2.0 if self.rings else 1.0)

    @property
    def hops(self) -> float:
        """Links between the farthest two chips."""
        return self.dimensions * (self.side / 2.0 if self.rings else self.side - 1.0)

    def crossing_s(self, size_bytes: float) -> float:
        """Seconds in which every chip sends `size_bytes` to all alike: half of a side's bytes cross to its other half,
        over two links of a ring (side/8 of the bytes of a chip on each, in each direction) or over one of a line."""
        return size_bytes * self.side / (8.0 if self.rings else 4.0) / self.link_bytes_per_s


def torus_note(cluster: Cluster) -> str:
    """For an answer's assumptions: how a job is taken to lie on a torus; empty where there is none."""
    axes = cluster.torus_dimensions
    if not axes or cluster.gpus == 1:
        return ""
    return f"torus of {axes} dimensions: a slice of equal edges, closed to rings, groups along whole dimensions"


def span_of(cluster: Cluster, ranks: int) -> Span | None:
    """What a group of so many chips spans; None where the domain is no torus, or for one chip."""
    axes = cluster.torus_dimensions
    if not axes or ranks <= 1:
        return None
    edge = min(cluster.gpus, cluster.domain) ** (1.0 / axes)
    dimensions = max(1.0, log(ranks) / log(edge)) if edge > 1.0 else 1.0
    each = link_bytes_per_s(cluster) / (2.0 * axes)
    return Span(dimensions, float(ranks ** (1.0 / dimensions)), ranks >= edge * (1.0 - 1e-9), each)


def torus_collective_s(kind: CommKind, ranks: int, size_bytes: float, span: Span, fit: CollectiveFit) -> float:
    """Seconds of one collective of `ranks` chips with the dimensions of its span to itself.

    Rings run along all dimensions at once, each on its part of the buffer (Jain and Sabharwal, ICS 2010); launches,
    hops and shares of the links are those of the rings that `fit` was measured on.
    """
    if ranks <= 1 or size_bytes <= 0.0:
        return 0.0
    wire = wire_bytes(kind, ranks, size_bytes)
    if kind == "all_to_all":
        wire_s = max(span.crossing_s(size_bytes), wire / span.injected_bytes_per_s) / fit.a2a_efficiency
        return fit.a2a_base_s + span.hops * fit.hop_s + wire_s + fit.a2a_ramp_sqrt_s * sqrt(wire_s)
    if kind == "send":  # to a neighbour
        wire_s = wire / (span.link_bytes_per_s * fit.a2a_efficiency)
        return fit.a2a_base_s + wire_s + fit.a2a_ramp_sqrt_s * sqrt(wire_s)
    wire_s = wire / (span.injected_bytes_per_s * fit.link_efficiency)
    steps = span.dimensions * (span.side - 1.0) * (2.0 if kind == "all_reduce" else 1.0)
    return fit.base_s + steps * fit.hop_s + wire_s + fit.ramp_sqrt_s * sqrt(wire_s)


def exchange_bytes_per_s(cluster: Cluster, ranks: int) -> float:
    """The rate at which one GPU sends what leaves it in an exchange among `ranks` of its domain: that of its scale-up
    link; on a torus what the links in the middle leave of it."""
    span = span_of(cluster, ranks)
    if span is None:
        return link_bytes_per_s(cluster)
    leaves = (ranks - 1) / ranks
    return min(leaves / span.crossing_s(1.0), span.injected_bytes_per_s)
