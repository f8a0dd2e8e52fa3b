"""An expert exchange of many ranks, drawn from the top down: bytes between leaves first, then split among their GPUs.

The dense form (exchange_traffic.py) draws every pair of ranks: 16,384 ranks would be 268 million numbers. Here leaves
draw what they send each other, and both sides split their totals: bytes in equal bytes out by construction, and memory
grows with ranks x (GPUs of a domain) and with the square of leaves, not of ranks. Both forms have the same mean and,
but for what neighbouring links share, the same spread (tests compare them). Ranks fill one domain after the other; the
ways to route are those of hwmodels/traffic.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.hwmodels.facts import FactError
from moesim.hwmodels.link_loads import NicTraffic
from moesim.hwmodels.topology import Topology
from moesim.traces.rng import Generator

Counts = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """What a dispatch is drawn from: per rank `tokens`, of which each reaches a rank or a domain with these shares."""

    tokens: int
    to_rank: Counts  # [rank]
    to_domain: Counts  # [domain]


@dataclass(frozen=True, slots=True)
class _Ranks:
    """Where every rank is, and who carries for a rail that a short domain lacks."""

    ranks: int
    domain: int  # GPUs of a full domain
    leaf: Index  # [rank], its leaf's number
    leaves: int

    @property
    def home(self) -> Index:
        """[rank]: its domain."""
        return np.arange(self.ranks) // self.domain

    @property
    def rail(self) -> Index:
        """[rank]: its position in the domain."""
        return np.arange(self.ranks) % self.domain

    @property
    def sizes(self) -> Index:
        """[domain]: its ranks."""
        return np.bincount(self.home)

    @property
    def carriers(self) -> Index:
        """[domain, rail]: the rank that serves it; those of a short last domain take turns."""
        sizes = self.sizes
        return np.arange(len(sizes))[:, None] * self.domain + np.arange(self.domain) % sizes[:, None]

    def by_leaf(self, other: Index, count: int, weights: Counts, at: Index | None = None) -> Counts:
        """Sums of `weights` as [leaf, other]."""
        leaf = self.leaf if at is None else self.leaf[at]
        return _sums(leaf * count + other, weights, self.leaves * count).reshape(self.leaves, count)


def _sums(index: Index, weights: Counts, count: int) -> Counts:
    """Sums of the weights with each index, [count]."""
    return np.asarray(np.bincount(index.reshape(-1), weights.reshape(-1), count), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class _Means:
    """Expected copies between NICs: from leaf to leaf with their variance, and how both sides split them."""

    mean: Counts  # [leaf, leaf]
    variance: Counts
    sent: Counts  # [rank]
    received: Counts


def drawn_exchange(shares: Shares, topology: Topology, mode: str, rng: Generator) -> NicTraffic:
    """Copies of tokens on every port and between leaves; the same generator state gives the same counts.

    `mode` is direct, pxn or forwarded. FactError for ranks that leave a plane without a GPU.
    """
    ranks = len(shares.to_rank)
    domain = topology.cluster.domain
    if topology.kind == "multi-plane" and ranks % domain:
        raise FactError(f"planes need a GPU in every domain: {ranks} ranks are not a multiple of {domain}")
    names, leaf = topology.leaves_of(ranks)
    at = _Ranks(ranks, domain, leaf, len(names))
    means = {"direct": _direct, "pxn": _pxn, "forwarded": _forwarded}[mode](at, shares)
    drawn = np.maximum(np.rint(means.mean + np.sqrt(means.variance) * rng.standard_normal(means.mean.shape)), 0.0)
    out = _split(drawn.sum(axis=1), means.sent, at, rng)
    into = _split(drawn.sum(axis=0), means.received, at, rng)
    near_out, near_into = _inside(at, shares, rng)
    if mode == "pxn":
        moved_out, moved_into = _gathered(at, out, rng)
    elif mode == "forwarded":
        moved_out, moved_into = _fanned(at, shares, into, rng)
    else:
        moved_out = moved_into = np.zeros(ranks)
    return NicTraffic(near_out + moved_out, near_into + moved_into, out, into, drawn)


def _direct(at: _Ranks, shares: Shares) -> _Means:
    """Every copy from NIC to NIC."""
    everywhere = np.zeros(at.ranks, dtype=np.intp)
    sources = at.by_leaf(everywhere, 1, np.ones(at.ranks))  # [leaf, 1]
    domains = len(at.sizes)
    at_home = at.by_leaf(at.home, domains, np.ones(at.ranks))  # [leaf, domain]: ranks of it

    def between(share: Counts) -> Counts:
        reached = at.by_leaf(everywhere, 1, share)
        return sources @ reached.T - at_home @ at.by_leaf(at.home, domains, share).T

    p = shares.to_rank
    home = _sums(at.home, p, len(at.sizes))
    away = (at.ranks - at.sizes[at.home]).astype(float)  # sources of what a rank receives
    return _means(shares, between, p, p.sum() - home[at.home], p * away)


def _pxn(at: _Ranks, shares: Shares) -> _Means:
    """Over NVLink to the GPU on the destination's rail, then from its NIC."""
    sizes, carriers, p = at.sizes, at.carriers, shares.to_rank
    rails = np.broadcast_to(np.arange(at.domain), carriers.shape)
    senders = at.by_leaf(rails, at.domain, np.broadcast_to(sizes[:, None], carriers.shape).astype(float), carriers)

    def between(share: Counts) -> Counts:
        reached = at.by_leaf(at.rail, at.domain, share)
        own = _sums(at.leaf, share * sizes[at.home], at.leaves)  # what stays at home passes no NIC
        return senders @ reached.T - np.diag(own)

    own = np.zeros(carriers.shape)
    own[at.home, at.rail] = p
    each = sizes[:, None] * (_sums(at.rail, p, at.domain) - own)  # [domain, rail]
    sent = _sums(carriers, each, at.ranks)
    away = (at.ranks - sizes[at.home]).astype(float)  # sources of what a rank receives
    return _means(shares, between, p, sent, p * away)


def _forwarded(at: _Ranks, shares: Shares) -> _Means:
    """One copy per destination domain over the own rail."""
    carriers, p = at.carriers, shares.to_domain
    rails = np.broadcast_to(np.arange(at.domain), carriers.shape)
    senders = at.by_leaf(at.rail, at.domain, np.ones(at.ranks))

    def between(share: Counts) -> Counts:
        each = np.broadcast_to(share[:, None], carriers.shape)
        own = _sums(at.leaf, share[at.home], at.leaves)
        return senders @ at.by_leaf(rails, at.domain, each, carriers).T - np.diag(own)

    elsewhere = np.bincount(at.rail, minlength=at.domain) - (
        rails < at.sizes[:, None]
    )  # sources of a rail, not at home
    received = _sums(carriers, p[:, None] * elsewhere, at.ranks)
    return _means(shares, between, p, p.sum() - p[at.home], received)


def _means(shares: Shares, between: Callable[[Counts], Counts], p: Counts, sent: Counts, received: Counts) -> _Means:
    """Tokens are binomial: each reaches its destination or not."""
    spread = np.maximum(shares.tokens * between(p * (1.0 - p)), 0.0)
    return _Means(np.maximum(shares.tokens * between(p), 0.0), spread, sent, received)


def _split(totals: Counts, weights: Counts, at: _Ranks, rng: Generator) -> Counts:
    """What each rank has of its leaf's total: one multinomial per leaf, so that nothing is lost."""
    parts = np.zeros(at.ranks)
    order = np.argsort(at.leaf, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(at.leaf, minlength=at.leaves))[:-1])
    for total, ranks in zip(totals.tolist(), members, strict=True):
        weight = weights[ranks]
        if total > 0.0 and weight.sum() > 0.0:
            parts[ranks] = rng.multinomial(int(total), weight / weight.sum())
    return parts


def _inside(at: _Ranks, shares: Shares, rng: Generator) -> tuple[Counts, Counts]:
    """Copies for ranks of the own domain, straight over its links: sent and received by every rank."""
    out, into = np.zeros(at.ranks), np.zeros(at.ranks)
    for first, size in _stretches(at):
        p = np.minimum(shares.to_rank[first].reshape(-1, 1, size), 1.0)
        sent = rng.binomial(shares.tokens, np.broadcast_to(p, (len(p), size, size))).astype(np.float64)
        _add(out, into, first, sent)
    return out, into


def _gathered(at: _Ranks, carried: Counts, rng: Generator) -> tuple[Counts, Counts]:
    """What the GPUs of a domain hand to the one that sends it."""
    out, into = np.zeros(at.ranks), np.zeros(at.ranks)
    for first, size in _stretches(at):
        given = rng.multinomial(carried[first].astype(np.int64), np.full(size, 1.0 / size))  # [carrier, source]
        sent = given.reshape(-1, size, size).transpose(0, 2, 1).astype(np.float64)
        _add(out, into, first, sent)
    return out, into


def _fanned(at: _Ranks, shares: Shares, received: Counts, rng: Generator) -> tuple[Counts, Counts]:
    """What the GPU that received a copy hands to the ranks of its domain that the token is for."""
    out, into = np.zeros(at.ranks), np.zeros(at.ranks)
    for first, size in _stretches(at):
        p = shares.to_rank[first].reshape(-1, 1, size)
        whole = shares.to_domain[at.home[first[::size]]].reshape(-1, 1, 1)
        reached = np.clip(np.divide(p, whole, out=np.zeros_like(p), where=whole > 0.0), 0.0, 1.0)
        copies = received[first].astype(np.int64).reshape(-1, size, 1)
        _add(out, into, first, rng.binomial(copies, reached).astype(np.float64))
    return out, into


def _stretches(at: _Ranks) -> list[tuple[Index, int]]:
    """Ranks of all full domains, and of a shorter last one, each with the GPUs of one domain."""
    full = at.ranks // at.domain * at.domain
    parts = [(np.arange(full), at.domain), (np.arange(full, at.ranks), at.ranks - full)]
    return [(ranks, size) for ranks, size in parts if size and len(ranks)]


def _add(out: Counts, into: Counts, ranks: Index, sent: Counts) -> None:
    """Count [domain, source, destination] on both ends; what a rank has for itself passes no link."""
    own = np.arange(sent.shape[1])
    sent[:, own, own] = 0.0
    out[ranks] += sent.sum(axis=2).reshape(-1)
    into[ranks] += sent.sum(axis=1).reshape(-1)
