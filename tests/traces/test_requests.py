"""Requests: generators keep the statistics of the traces they stand for; arrivals and lengths are what was asked."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.traces.generators import GENERATORS, generate
from moesim.traces.requests import gamma_arrivals, lognormal_lengths, uniform_lengths

# measured on the traces: rate 1/s, mean input, mean output, CV of gaps, index of dispersion of counts in 10 s
MEASURED = {
    "azure-conversation": (5.53, 1155, 211, 1.09, 4.0),
    "azure-code": (2.57, 2048, 28, 13.2, 71.0),
    "mooncake-conversation": (3.40, 12035, 343, 3.03, 2.1),
}


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_generators_keep_rate_lengths_and_burstiness(name: str) -> None:
    rate, tokens, outputs, cv, dispersion = MEASURED[name]
    r = generate(name, 20_000, 0)
    arrivals = np.array(r.arrival_s)
    gaps = np.diff(arrivals)
    counts = np.bincount((arrivals // 10).astype(int))
    assert (gaps >= 0).all() and arrivals[0] == 0.0
    assert len(r) / arrivals[-1] == pytest.approx(rate, rel=0.02)
    assert np.mean(r.input_tokens) == pytest.approx(tokens, rel=0.05)
    assert np.mean(r.output_tokens) == pytest.approx(outputs, rel=0.12)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.15)
    assert counts.var() / counts.mean() == pytest.approx(dispersion, rel=0.3)
    assert min(r.input_tokens) >= 1 and min(r.output_tokens) >= 1


def test_prefixes_are_shared_as_in_the_trace() -> None:
    r = generate("mooncake-conversation", 20_000, 0)
    assert sum(r.prefix) / sum(r.input_tokens) == pytest.approx(0.39, abs=0.05)
    assert all(p <= t for p, t in zip(r.prefix, r.input_tokens, strict=True))


def test_another_rate_keeps_the_pattern() -> None:
    slow, fast = generate("azure-code", 500, 3), generate("azure-code", 500, 3, 25.7)
    np.testing.assert_allclose(np.array(slow.arrival_s) / 10.0, fast.arrival_s, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_gamma_arrivals_have_rate_and_variation(cv: float) -> None:
    gaps = np.diff(gamma_arrivals(4.0, cv, 200_000, 1))
    assert gaps.mean() == pytest.approx(0.25, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03)


def test_lengths_lie_in_their_range_and_depend_on_the_seed_only() -> None:
    drawn = uniform_lengths(1000, 0.2, 5000, 7, "input")
    assert drawn.min() >= 800 and drawn.max() <= 1000
    assert drawn.mean() == pytest.approx(900, rel=0.01)
    assert (drawn == uniform_lengths(1000, 0.2, 5000, 7, "input")).all()
    assert (uniform_lengths(1000, 0.0, 5, 7, "input") == 1000).all()


@pytest.mark.parametrize(("mean", "sigma"), [(215, 1.0), (4, 1.0), (3000, 0.5), (200, 2.0)])
def test_lognormal_lengths_keep_their_mean_and_are_cut(mean: int, sigma: float) -> None:
    drawn = lognormal_lengths(mean, sigma, 4000, 3, "input")
    assert drawn.mean() == pytest.approx(mean, rel=0.01)
    assert drawn.min() >= 1 and drawn.max() <= 5 * mean
    assert (drawn == lognormal_lengths(mean, sigma, 4000, 3, "input")).all()
    assert np.log(drawn).std() == pytest.approx(sigma, rel=0.35)
