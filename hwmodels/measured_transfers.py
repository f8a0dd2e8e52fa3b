"""A collective that a user measured on his own machines: factors on what the shipped constants say of it.

    t = a f(0) + b (f(S) - f(0)) + c w/B + d sqrt(w/B)

f is the closed form of collectives.py with shipped constants, w/B the time of the bytes at the spec rate of the link
that bounds them (scale-up link, or NICs). No factor is negative, so that larger buffers never take less time. Each
kind and reach (inside a domain, across domains) has factors of its own and moves no other. Buffers beyond the largest
measured one grow at least half as the shipped constants say: small sizes tell nothing of rates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt

from moesim.hwmodels.cluster import Cluster, link_bytes_per_s
from moesim.hwmodels.collectives import FabricFit, by_library, collective_s
from moesim.hwmodels.domain_collectives import CollectiveFit, wire_bytes
from moesim.hwmodels.work import Comm, ExpertExchange, Group

_LEAST_GROWTH = 0.5  # assumed: beyond what was measured, bytes take at least half of what the shipped constants say
_TINY_BYTES = 1e-3  # stands for no bytes: the closed forms know no transfer of none


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTransfer:
    """Factors of one kind and reach, and what they were measured on."""

    floor_factor: float  # a: of what the smallest buffer takes
    size_factor: float  # b: of what its size adds
    wire_factor: float  # c: of the bytes at the link's spec rate
    ramp_sqrt_s: float  # d
    ranks: tuple[int, ...]  # groups that were measured
    domains: tuple[int, ...]  # scale-up domains that those spanned
    least_bytes: float  # buffers that were measured
    most_bytes: float

    @property
    def factors(self) -> tuple[float, float, float, float]:
        """The four, in the order of `terms_s`."""
        return self.floor_factor, self.size_factor, self.wire_factor, self.ramp_sqrt_s


def transfer_key(kind: str, group: Group) -> str:
    """Under which name a profile keeps it: 'all_reduce across'."""
    return f"{kind} {'across' if group.domains > 1 else 'inside'}"


def terms_s(work: Comm, cluster: Cluster, fit: CollectiveFit, fabric: FabricFit) -> tuple[float, float, float, float]:
    """What the four factors multiply: seconds, the last the root of seconds."""
    whole_s = collective_s(work, cluster, fit, fabric)
    floor_s = collective_s(replace(work, bytes=min(_TINY_BYTES, work.bytes)), cluster, fit, fabric)
    wire_s = _wire_s(work, cluster)
    return floor_s, whole_s - floor_s, wire_s, sqrt(wire_s)


def measured_s(
    work: Comm, cluster: Cluster, fit: CollectiveFit, fabric: FabricFit, own: Mapping[str, MeasuredTransfer]
) -> float:
    """Seconds of one collective as measured; as shipped where it was not, or where another algorithm is asked for."""
    measured = own.get(transfer_key(work.kind, work.group))
    if measured is None or not by_library(work) or work.bytes <= 0.0:
        return collective_s(work, cluster, fit, fabric)
    work = replace(work, algorithm="auto")
    most = replace(work, bytes=min(work.bytes, measured.most_bytes))
    known_s, shipped_s = _pair_s(most, cluster, fit, fabric, measured)
    if work.bytes <= measured.most_bytes:
        return known_s
    own_s, there_s = _pair_s(work, cluster, fit, fabric, measured)
    return known_s + max(own_s - known_s, _LEAST_GROWTH * (there_s - shipped_s))


def as_all_to_all(work: ExpertExchange) -> Comm:
    """The collective that a library without kernels of its own makes of an exchange."""
    return Comm("all_to_all", work.tokens * work.top_k * work.imbalance * work.payload_bytes, work.group)


def exchange_ratio(
    work: ExpertExchange, cluster: Cluster, fit: CollectiveFit, fabric: FabricFit, own: Mapping[str, MeasuredTransfer]
) -> float:
    """How the user's own all-to-all of the same bytes differs from the shipped one; 1 where the exchange is none."""
    rests = work.kernel == "all_to_all" and work.group.ranks > 1 and work.tokens > 0
    if not rests or transfer_key("all_to_all", work.group) not in own:
        return 1.0
    sent = as_all_to_all(work)
    shipped_s = collective_s(sent, cluster, fit, fabric)
    return measured_s(sent, cluster, fit, fabric, own) / shipped_s if shipped_s > 0.0 else 1.0


def _pair_s(
    work: Comm, cluster: Cluster, fit: CollectiveFit, fabric: FabricFit, measured: MeasuredTransfer
) -> tuple[float, float]:
    """Seconds by the factors, and as shipped."""
    terms = terms_s(work, cluster, fit, fabric)
    return sum(x * t for x, t in zip(measured.factors, terms, strict=True)), terms[0] + terms[1]


def _wire_s(work: Comm, cluster: Cluster) -> float:
    """The bytes on the busiest wire over its spec rate: the scale-up link inside a domain, the NICs across."""
    group = work.group
    if group.domains == 1:
        return wire_bytes(work.kind, group.ranks, work.bytes) / link_bytes_per_s(cluster)
    if work.kind == "all_to_all":
        return work.bytes * (1.0 - group.fewest / group.ranks) / cluster.nic_bytes_per_s
    rails = 1 if work.kind == "send" else group.fewest
    return wire_bytes(work.kind, group.ranks, work.bytes) / (rails * cluster.nic_bytes_per_s)


def describe(transfers: Mapping[str, MeasuredTransfer]) -> str:
    """What was measured, in words: 'all_reduce across 2 domains, 16 ranks, 1e+06 to 8.6e+09 bytes'."""
    said = []
    for key, own in sorted(transfers.items()):
        domains = f" {_numbers(own.domains)} domains" if key.endswith("across") else " a domain"
        said.append(f"{key}{domains}, {_numbers(own.ranks)} ranks, {own.least_bytes:.3g} to {own.most_bytes:.3g} bytes")
    return "; ".join(said)


def _numbers(counts: tuple[int, ...]) -> str:
    return ", ".join(map(str, counts))
