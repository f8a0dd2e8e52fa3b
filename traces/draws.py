"""How many tokens of one micro-batch each expert gets: whole numbers drawn around the shares of a routing process.

A token picks top_k different experts. So no expert gets more than one pair per token, and a count varies by
tokens x p (1 - p), with p the probability that a token picks the expert: less than independent picks would.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.traces.rng import Generator, stream
from moesim.traces.routing import BadTrace, Floats, Routing

Counts = npt.NDArray[np.int64]

_NORMAL = 64.0  # variance of a count from which a rounded normal stands for a binomial (skew under 1/8)


def inclusion(shares: Floats, top_k: int) -> Floats:
    """Probability that a token picks each expert, shape [..., experts]; sums to top_k. `shares` sum to 1.

    top_k x share, and at most 1: what the hottest experts cannot take goes to the others in proportion. BadTrace
    where fewer than top_k experts have a share.
    """
    picked = top_k * np.asarray(shares, dtype=np.float64)
    if (picked <= 1.0).all():
        return picked
    if ((picked > 0.0).sum(axis=-1) < top_k).any():
        raise BadTrace(f"tokens pick {top_k} different experts, and fewer than {top_k} have a share")
    full = np.zeros(picked.shape, dtype=bool)
    while (over := (picked > 1.0 + 1e-12) & ~full).any():
        full |= over
        rest = np.where(full, 0.0, picked)
        left = top_k - full.sum(axis=-1, keepdims=True)
        total = rest.sum(axis=-1, keepdims=True)
        scale = np.divide(left, total, out=np.zeros_like(total), where=total > 0.0)
        picked = np.where(full, 1.0, rest * scale)
    return np.minimum(picked, 1.0)


def draw_counts(rng: Generator, shares: Floats, tokens: int, top_k: int, size: tuple[int, ...] = ()) -> Counts:
    """Pairs per expert of micro-batches of `tokens` tokens each, [*size, *shape of shares]; `shares` [..., experts].

    Every row sums to tokens x top_k exactly, and no expert gets more than `tokens`. Counts are binomial, and what they
    miss of the sum is taken from or given to all in proportion to their variance (the law of counts given their sum).
    """
    picked = inclusion(shares, top_k)
    shape = (*size, *picked.shape)
    mean = tokens * picked
    variance = mean * (1.0 - picked)
    if variance.min() >= _NORMAL:
        counts = rng.standard_normal(shape)
        counts *= np.sqrt(variance)
        counts += mean
        np.rint(counts, out=counts)
        np.clip(counts, 0.0, tokens, out=counts)
    else:
        counts = rng.binomial(tokens, picked, shape).astype(np.float64)
    return _fixed(counts, picked > 0.0, tokens, tokens * top_k)


def _fixed(counts: Floats, able: npt.NDArray[np.bool_], tokens: int, pairs: int) -> Counts:
    """Whole counts whose rows sum to `pairs`, each between 0 and `tokens`; only experts that are `able` get more."""
    missing = pairs - counts.sum(axis=-1, keepdims=True)
    weights = counts * (1.0 - counts / tokens)
    short = np.abs(missing) > weights.sum(axis=-1, keepdims=True)  # a handful of tokens: then by room alone
    if short.any():
        weights = np.where(short, np.where(missing > 0.0, (tokens - counts) * able, counts), weights)
    counts += np.sign(missing) * apportioned(weights, np.abs(missing))
    return counts.astype(np.int64)


def apportioned(weights: Floats, totals: Floats | int) -> Floats:
    """Whole numbers in proportion to `weights` [..., n], each within one of its part; rows sum to `totals` [..., 1].

    Rounds running sums, which costs no sorting. A part never rounds above its next whole number.
    """
    marks = np.cumsum(weights, axis=-1)
    whole = marks[..., -1:]
    marks /= np.where(whole > 0.0, whole, 1.0)  # exactly 1 at the last place, whatever the sums rounded to
    marks *= totals
    marks += 0.5
    np.floor(marks, out=marks)
    return np.diff(marks, axis=-1, prepend=0.0)


def largest_remainder(shares: Floats, total: int) -> Counts:
    """Whole numbers in proportion to `shares` [..., n] that sum to `total`: rounded down, the largest remainders up."""
    exact = np.asarray(shares) * total
    floor = np.floor(exact).astype(np.int64)
    missing = total - floor.sum(axis=-1, keepdims=True)
    order = np.argsort(-(exact - floor), axis=-1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(exact.shape[-1]), order.shape), axis=-1)
    return np.asarray(floor + (rank < missing))


class Topics:
    """What the sequences of each micro-batch are about: noise on log shares, the same topics in every layer.

    One sequence's log shares differ by `topic` from the mean's (`group_topic` more between router groups); those of a
    micro-batch of n sequences by 1 / sqrt(n) of it. A layer gives its experts to topics in an order of its own, so that
    a topic that is hot warms other ranks in every layer.
    """

    def __init__(
        self, routing: Routing, sequences: float, experts: int, groups: int, step: int, shape: tuple[int, ...]
    ):
        """`shape`: of the micro-batches, for example (micro_batches, groups); `groups`: of the router."""
        rng = stream(routing.seed, f"routing.topics.{step}")
        noise = routing.topic * rng.standard_normal((*shape, experts))
        if groups > 1:
            shared = rng.standard_normal((*shape, groups))
            noise += routing.group_topic * np.repeat(shared, experts // groups, axis=-1)
        self._noise = noise / max(1.0, sequences) ** 0.5
        self._seed, self._groups = routing.seed, groups

    def on(self, shares: Floats, layer: int) -> Floats:
        """Shares of every micro-batch in this layer, [*shape, experts], from the layer's expected ones [experts]."""
        rng, experts = stream(self._seed, f"routing.topic_order.{layer}"), shares.shape[-1]
        groups = rng.permutation(self._groups)[:, None] * (experts // self._groups)
        order = groups + rng.permuted(np.tile(np.arange(experts // self._groups), (self._groups, 1)), axis=1)
        moved = shares * np.exp(self._noise[..., order.ravel()])
        return np.asarray(moved / moved.sum(axis=-1, keepdims=True))
