"""Who sends how many token vectors where: traffic matrices of an expert exchange from routing, hot experts included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.hwmodels.facts import FactError
from moesim.traces.assignments import hit_shares, sample_picks
from moesim.traces.rng import Generator, stream

_POOL = 8192  # sampled tokens for up to 512 experts; the hottest rank is within 5 % of a pool eight times as large
_PER_EXPERT = 16


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
    """Bytes by source rank: to every rank (distinct), once to every domain; and how uneven the receivers are."""

    to_ranks: npt.NDArray[np.float64]
    to_domains: npt.NDArray[np.float64]
    rank_copies: float
    node_copies: float
    imbalance: float  # rows of the busiest rank over the mean


def exchange_traffic(ask: Exchange) -> ExchangeTraffic:
    """Sampled traffic; the same question and seed give the same bytes. FactError for sizes that cannot be."""
    if ask.experts % ask.ranks:
        raise FactError(f"{ask.ranks} ranks do not divide {ask.experts} experts")
    popularity, pool = None, _POOL
    if ask.sigma > 0.0:
        draws = stream(ask.seed, "sim.exchange.popularity").standard_normal(ask.experts)
        popularity, pool = np.exp(ask.sigma * draws), max(_POOL, _PER_EXPERT * ask.experts)
    picks = sample_picks(
        ask.experts, ask.top_k, pool, ask.seed, popularity, groups=ask.groups, top_groups=ask.top_groups
    )
    domains = -(-ask.ranks // ask.domain)
    by_rank = hit_shares(picks, ask.experts, ask.ranks)
    by_domain = _domain_shares(picks, ask, domains)
    if popularity is None:  # experts are alike: what differs between them is only the sample
        by_rank, by_domain = np.full_like(by_rank, by_rank.mean()), np.full_like(by_domain, by_domain.mean())
    rng = stream(ask.seed, "sim.exchange.tokens")
    rows = np.bincount((picks // (ask.experts // ask.ranks)).reshape(-1), minlength=ask.ranks)
    if popularity is None:
        rows = np.full_like(rows, 1)
    return ExchangeTraffic(
        _draw(by_rank, ask, rng),
        _draw(by_domain, ask, rng),
        float(by_rank.sum()),
        float(by_domain.sum()),
        float(rows.max() / rows.mean()),
    )


def _domain_shares(picks: npt.NDArray[np.int32], ask: Exchange, domains: int) -> npt.NDArray[np.float64]:
    """Share of tokens that reach each domain at least once."""
    per = (ask.experts // ask.ranks) * ask.domain
    hit = np.zeros((len(picks), domains), dtype=bool)
    np.put_along_axis(hit, (picks // per).astype(np.int64), True, axis=1)
    return np.asarray(hit.mean(axis=0))


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
