"""Who sends how many token vectors where: an expert exchange from routing, hot experts included.

Up to MOST_DENSE ranks every pair of ranks is drawn; beyond, the shares of tokens that reach each rank and domain, from
which drawn_exchange.py draws what links carry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.hwmodels.facts import FactError
from moesim.hwmodels.link_loads import NicTraffic
from moesim.hwmodels.topology import Topology
from moesim.sim.transfer.drawn_exchange import Shares, drawn_exchange
from moesim.traces.assignments import sample_picks
from moesim.traces.rng import Generator, stream

MOST_DENSE = 512  # ranks; matrices beyond are shown by domain
_MOST_BLOCKS = 1024  # rows of a matrix that is shown
_POOL = 8192  # sampled tokens for up to 512 experts; the hottest rank is within 5 % of a pool eight times as large
_PER_EXPERT = 16
Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One dispatch: what every rank sends, before it is laid on links."""

    ranks: int
    domain: int
    experts: int
    top_k: int
    tokens: int  # per rank
    payload_bytes: float
    groups: int = 1
    top_groups: int = 1
    sigma: float = 0.0  # of the lognormal popularity of experts; 0: all alike
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ExchangeTraffic:
    """Bytes by source and destination, how many copies a token has, and how uneven the receivers are."""

    to_ranks: npt.NDArray[np.float64] | None  # [source, destination rank], drawn; None for more than MOST_DENSE
    to_domains: npt.NDArray[np.float64] | None  # [source, domain], once to every domain; None as above
    between: npt.NDArray[np.float64]  # [source, destination block of `block` ranks], distinct ranks; expected if many
    block: int  # ranks: 1, or those of a domain, or of several
    sent_bytes: float  # to distinct ranks, by all, expected
    rank_copies: float
    node_copies: float
    imbalance: float  # rows of the busiest rank over the mean


def exchange_traffic(ask: Exchange) -> ExchangeTraffic:
    """Sampled traffic; the same question and seed give the same bytes. FactError for sizes that cannot be."""
    by_rank, by_domain, imbalance = exchange_shares(ask)
    sent = float(by_rank.sum()) * ask.tokens * ask.ranks * ask.payload_bytes
    copies = (float(by_rank.sum()), float(by_domain.sum()), imbalance)
    if ask.ranks > MOST_DENSE:
        between, block = _blocks(by_rank, ask)
        return ExchangeTraffic(None, None, between, block, sent, *copies)
    rng = stream(ask.seed, "sim.exchange.tokens")
    to_ranks, to_domains = _draw(by_rank, ask, rng), _draw(by_domain, ask, rng)
    return ExchangeTraffic(to_ranks, to_domains, to_ranks, 1, float(to_ranks.sum()), *copies)


def drawn_traffic(ask: Exchange, topology: Topology, mode: str) -> NicTraffic:
    """Bytes on every port of an exchange that is too large for a matrix; `mode` as in hwmodels/traffic.py."""
    by_rank, by_domain, _ = exchange_shares(ask)
    shares = Shares(tokens=ask.tokens, to_rank=by_rank, to_domain=by_domain)
    rng = stream(ask.seed, "sim.exchange.leaves")
    return drawn_exchange(shares, topology, mode, rng).times(ask.payload_bytes)


def exchange_shares(ask: Exchange) -> tuple[Vector, Vector, float]:
    """Shares of tokens that reach each rank and each domain at least once; rows of the busiest rank over the mean."""
    if ask.experts % ask.ranks:
        raise FactError(f"{ask.ranks} ranks do not divide {ask.experts} experts")
    popularity = None
    if ask.sigma > 0.0:
        draws = stream(ask.seed, "sim.exchange.popularity").standard_normal(ask.experts)
        popularity = np.exp(ask.sigma * draws)
    if ask.ranks > MOST_DENSE and (ask.groups == 1 or ask.top_groups >= ask.groups):
        return _closed_shares(ask, popularity)
    return _pooled_shares(ask, popularity)


def _closed_shares(ask: Exchange, popularity: Vector | None) -> tuple[Vector, Vector, float]:
    """Without a pool: each expert is picked with 1 - exp(-p t), t such that top_k are (the exponential race behind
    sampling without replacement); a holder is missed where all of its experts are."""
    picked = _inclusion(np.ones(ask.experts) if popularity is None else popularity, ask.top_k)
    per = ask.experts // ask.ranks
    rows = picked.reshape(ask.ranks, per).sum(axis=1)
    by_rank, by_domain = (_reached(picked, size) for size in (per, per * ask.domain))
    return by_rank, by_domain, float(rows.max() / rows.mean())


def _reached(picked: Vector, size: int) -> Vector:
    """Chance to reach holders of `size` experts each; exact for experts that are alike: once one is not among the
    picks, they fall on fewer."""
    experts = np.arange(len(picked))
    chance = np.minimum(picked / (1.0 - (experts % size) / len(picked)), 1.0 - 1e-12)
    return np.asarray(1.0 - np.exp(np.add.reduceat(np.log1p(-chance), experts[::size])))


def _inclusion(popularity: Vector, top_k: int) -> Vector:
    """Chance of each expert to be among the top_k of a token; they add up to top_k."""
    if top_k >= len(popularity):
        return np.ones(len(popularity))
    p, low, high = popularity / popularity.sum(), 0.0, 1.0
    while (1.0 - np.exp(-p * high)).sum() < top_k:
        high *= 2.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if (1.0 - np.exp(-p * middle)).sum() < top_k else (low, middle)
    return np.asarray(1.0 - np.exp(-p * high))


def _pooled_shares(ask: Exchange, popularity: Vector | None) -> tuple[Vector, Vector, float]:
    """Counted on a pool of sampled tokens."""
    pool = _POOL if popularity is None else max(_POOL, _PER_EXPERT * ask.experts)
    if popularity is None and ask.ranks > MOST_DENSE:
        pool = _POOL // 8  # all ranks are alike: their mean is what counts
    picks = sample_picks(
        ask.experts, ask.top_k, pool, ask.seed, popularity, groups=ask.groups, top_groups=ask.top_groups
    )
    per = ask.experts // ask.ranks
    by_rank = _distinct_shares(picks // per, ask.ranks)
    by_domain = _distinct_shares(picks // (per * ask.domain), -(-ask.ranks // ask.domain))
    if popularity is None:  # experts are alike: what differs between them is only the sample
        return np.full_like(by_rank, by_rank.mean()), np.full_like(by_domain, by_domain.mean()), 1.0
    rows = np.bincount((picks // per).reshape(-1), minlength=ask.ranks)
    return by_rank, by_domain, float(rows.max() / rows.mean())


def _distinct_shares(holders: npt.NDArray[np.int32], count: int) -> Vector:
    """Share of tokens that reach each of `count` holders at least once."""
    ordered = np.sort(holders, axis=1)
    first = np.ones(ordered.shape, dtype=bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return np.asarray(np.bincount(ordered[first], minlength=count) / len(holders))


def _blocks(by_rank: Vector, ask: Exchange) -> tuple[npt.NDArray[np.float64], int]:
    """Expected bytes between blocks of whole domains, at most _MOST_BLOCKS of them, and the ranks of one."""
    domains = -(-ask.ranks // ask.domain)
    block = ask.domain * -(-domains // _MOST_BLOCKS)
    starts = np.arange(0, ask.ranks, block)
    senders = np.minimum(block, ask.ranks - starts) * (ask.tokens * ask.payload_bytes)
    return np.outer(senders, np.add.reduceat(by_rank, starts)), block


def _draw(share: npt.NDArray[np.float64], ask: Exchange, rng: Generator) -> npt.NDArray[np.float64]:
    """Bytes per source and destination; tokens are binomial (normal approximation), from zero to all."""
    mean = share * ask.tokens
    drawn = rng.standard_normal(
        (ask.ranks, len(share)), dtype=np.float32
    )  # in place: matrices of 2,048 ranks are large
    drawn *= np.sqrt(np.maximum(mean * (1.0 - share), 0.0)).astype(np.float32)
    drawn += mean.astype(np.float32)
    np.clip(np.rint(drawn, out=drawn), 0.0, ask.tokens, out=drawn)
    sent = drawn.astype(np.float64)
    sent *= ask.payload_bytes
    return sent
