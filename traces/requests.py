"""Requests of the outside world: what is known of each, and draws of arrivals and lengths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.traces.rng import stream

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Chains:
    """What each prompt consists of, as keys of its pieces from the start; leading pieces with equal keys are equal.

    The last pieces of a request may lie beyond its prompt: they are its answer, which a later prompt may repeat.
    """

    keys: tuple[tuple[int, ...], ...]
    ends: tuple[tuple[int, ...], ...]  # tokens from the start of the prompt at which each piece ends


@dataclass(frozen=True, slots=True)
class Requests:
    """Columns by request, in order of arrival; `prefix` leading input tokens were seen before, whatever was kept.

    With `after`, a request that waits for an answer has its time to think in `arrival_s`: seconds after it.
    """

    arrival_s: tuple[float, ...]
    input_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    prefix: tuple[int, ...]
    chains: Chains | None = None  # None: the trace does not say what prompts share
    after: tuple[int, ...] = ()  # the request whose answer each one waits for, -1 for none; empty: none waits

    def __len__(self) -> int:
        return len(self.arrival_s)

    def first(self, count: int) -> Requests:
        """The first `count` of them, or all."""
        if count >= len(self):
            return self
        chains = self.chains and Chains(self.chains.keys[:count], self.chains.ends[:count])
        return Requests(
            self.arrival_s[:count], self.input_tokens[:count], self.output_tokens[:count], self.prefix[:count],
            chains, self.after[:count],
        )  # fmt: skip

    @property
    def starts_s(self) -> tuple[float, ...]:
        """Arrivals of those that wait for no answer: the only ones known before anything is served."""
        if not self.after:
            return self.arrival_s
        return tuple(t for t, before in zip(self.arrival_s, self.after, strict=True) if before < 0)


def seen_before(chains: Chains, input_tokens: tuple[int, ...]) -> tuple[int, ...]:
    """Leading tokens of each prompt that an earlier request went through: what a cache without limit would hold."""
    children: dict[tuple[int, int], int] = {}  # (node, key) -> node: equal keys count only behind equal beginnings
    prefix = []
    for keys, ends, tokens in zip(chains.keys, chains.ends, input_tokens, strict=True):
        node, matched = 0, 0
        for key in keys:
            after = children.get((node, key))
            if after is None:
                break
            node, matched = after, matched + 1
        for key in keys[matched:]:
            children[node, key] = node = len(children) + 1
        prefix.append(min(ends[matched - 1], tokens) if matched else 0)
    return tuple(prefix)


def gamma_arrivals(rate_per_s: float, cv: float, count: int, seed: int) -> Floats:
    """Arrival times with gamma gaps of this coefficient of variation; 1 is a Poisson process."""
    draws = stream(seed, "requests.arrivals")
    shape = 1.0 / cv**2
    return np.cumsum(draws.gamma(shape, 1.0 / (shape * rate_per_s), count))


def uniform_lengths(nominal: int, jitter: float, count: int, seed: int, name: str) -> Ints:
    """Lengths uniform in [(1 - jitter) nominal, nominal], at least one."""
    if jitter == 0.0:
        return np.full(count, nominal, dtype=np.int64)
    low = max(1, round(nominal * (1.0 - jitter)))
    return stream(seed, f"requests.{name}").integers(low, nominal + 1, count)


_LONGEST = 5.0  # means that a length has at most; ShareGPT prompts of 215 tokens are cut at 1,024 by the harnesses


def lognormal_lengths(mean: int, sigma: float, count: int, seed: int, name: str) -> Ints:
    """Lengths with a lognormal spread, at least one and at most five means long; they average `mean`."""
    drawn = np.exp(sigma * stream(seed, f"requests.{name}.lognormal").standard_normal(count))
    low, high = 0.0, mean * _LONGEST
    for _ in range(60):  # the factor that gives the mean once the longest are cut
        middle = (low + high) / 2.0
        below = float(np.minimum(np.maximum(middle * drawn, 1.0), mean * _LONGEST).mean()) < mean
        low, high = (middle, high) if below else (low, middle)
    return np.maximum(1, np.rint(np.minimum(high * drawn, mean * _LONGEST))).astype(np.int64)
