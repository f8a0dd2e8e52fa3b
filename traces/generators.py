"""Generators of requests fitted to published traces: their rates, burstiness and lengths, without their rows.

Lengths and gaps follow quantiles of the trace (straight lines between them on a logarithmic scale). The rate changes
from window to window where the trace's counts vary more over minutes than its gaps explain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.traces.requests import Floats, Requests
from moesim.traces.rng import Generator, stream

LEVELS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
Quantiles = tuple[float, ...]  # at LEVELS


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceLike:
    """Parameters of one stream of requests."""

    rate_per_s: float
    inputs: Quantiles  # tokens
    outputs: Quantiles  # tokens
    gaps: Quantiles | None  # seconds between arrivals; None: exponential
    rate_sigma: float = 0.0  # spread of the rate's logarithm between windows
    window_s: float = 60.0  # how long one rate lasts
    grid_s: float = 0.0  # arrivals are known to this resolution
    prefix_shares: Quantiles | None = None  # share of a prompt that an earlier request shared, infinite cache
    source: str


GENERATORS: dict[str, TraceLike] = {
    "azure-conversation": TraceLike(
        rate_per_s=5.53,
        inputs=(2, 29, 181, 207, 396, 1020, 1189, 2734, 4083, 4098, 4142, 6179, 14050),
        outputs=(7, 16, 41, 54, 85, 129, 395, 424, 451, 540, 601, 954, 1000),
        gaps=None,
        rate_sigma=0.24,
        window_s=120.0,
        source="Azure LLM inference trace 2023, conversation (AzurePublicDataset, CC-BY 4.0; Splitwise, ISCA 2024)",
    ),
    "azure-code": TraceLike(
        rate_per_s=2.57,
        inputs=(3, 17, 75, 147, 578, 1469, 2744, 5188, 7303, 7436, 7436, 7437, 7437),
        outputs=(6, 6, 6, 7, 9, 13, 24, 55, 90, 171, 251, 825, 1899),
        gaps=(0.000, 0.000, 0.000, 0.000, 0.002, 0.064, 0.104, 0.273, 0.401, 0.799, 2.205, 79.232, 217.169),
        source="Azure LLM inference trace 2023, code (AzurePublicDataset, CC-BY 4.0; Splitwise, ISCA 2024)",
    ),
    "mooncake-conversation": TraceLike(
        rate_per_s=3.40,
        inputs=(891, 894, 901, 964, 2306, 6909, 15367, 27367, 39550, 66449, 85400, 121301, 126195),
        outputs=(1, 3, 10, 24, 156, 350, 472, 597, 698, 892, 1119, 2000, 2000),
        gaps=None,
        rate_sigma=0.08,
        window_s=120.0,
        grid_s=3.0,
        prefix_shares=(0.000, 0.007, 0.018, 0.028, 0.069, 0.363, 0.712, 0.948, 0.976, 0.990, 0.999, 1.000, 1.000),
        source="Mooncake conversation trace (kvcache-ai/Mooncake, FAST 2025, Apache-2.0)",
    ),
}


def generate(name: str, count: int, seed: int, rate_per_s: float | None = None) -> Requests:
    """`count` requests like those of the trace `name`, at its own mean rate unless another is given."""
    like = GENERATORS[name]
    inputs = _tokens(like.inputs, stream(seed, f"requests.{name}.input"), count)
    outputs = _tokens(like.outputs, stream(seed, f"requests.{name}.output"), count)
    arrivals = _arrivals(like, stream(seed, f"requests.{name}.arrivals"), count)
    arrivals *= like.rate_per_s / (rate_per_s or like.rate_per_s)
    prefix = [0] * count
    if like.prefix_shares is not None:
        shares = drawn(like.prefix_shares, stream(seed, f"requests.{name}.prefix"), count)
        prefix = [int(v) for v in np.floor(shares * np.array(inputs))]
    return Requests(tuple(arrivals.tolist()), inputs, outputs, tuple(prefix))


def drawn(quantiles: Quantiles, draws: Generator, count: int) -> Floats:
    """Draws whose quantiles are these."""
    logs = np.log(np.maximum(quantiles, 1e-4))
    return np.asarray(np.exp(np.interp(draws.random(count), LEVELS, logs)))


def _tokens(quantiles: Quantiles, draws: Generator, count: int) -> tuple[int, ...]:
    return tuple(int(v) for v in np.maximum(1.0, np.rint(drawn(quantiles, draws, count))))


def _arrivals(like: TraceLike, draws: Generator, count: int) -> Floats:
    """Arrival times from zero: gaps of mean 1 / rate, stretched in every window by that window's rate."""
    gaps = draws.standard_exponential(count) if like.gaps is None else drawn(like.gaps, draws, count)
    even = np.cumsum(gaps / gaps.mean()) / like.rate_per_s
    if like.rate_sigma > 0.0:
        windows = int(even[-1] / like.window_s) + 2
        pace = np.exp(like.rate_sigma * draws.standard_normal(windows))
        # a window of the even clock lasts window_s / pace on the real one
        real = np.concatenate(([0.0], np.cumsum(like.window_s / pace)))
        stretched = np.interp(even, np.arange(windows + 1) * like.window_s, real)
        even = stretched * (even[-1] / stretched[-1])
    if like.grid_s > 0.0:
        even = np.floor(even / like.grid_s) * like.grid_s
    return np.asarray(even - even[0])
