"""Sampled picks: distinct, in proportion, and counted as published."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.traces.assignments import hit_shares, sample_picks
from moesim.traces.routing import BadTrace


def test_picks_are_distinct_and_reproducible() -> None:
    picks = sample_picks(64, 6, 2000, seed=5)
    assert picks.shape == (2000, 6) and picks.min() >= 0 and picks.max() < 64
    assert all(len(set(row)) == 6 for row in picks.tolist())
    assert (picks == sample_picks(64, 6, 2000, seed=5)).all()
    assert (picks != sample_picks(64, 6, 2000, seed=6)).any()


@pytest.mark.parametrize(("holders", "published"), [(2, 1.99), (4, 3.61), (8, 5.30)])
def test_free_top_8_of_256_reaches_this_many_nodes(holders: int, published: float) -> None:
    picks = sample_picks(256, 8, 20_000)
    assert hit_shares(picks, 256, holders).sum() == pytest.approx(published, abs=0.03)


@pytest.mark.parametrize(("holders", "published"), [(2, 1.97), (4, 3.13), (8, 3.97), (16, 5.72)])
def test_deepseek_v3s_router_reaches_this_many_nodes(holders: int, published: float) -> None:
    """Eight groups of 32, the best four by the sum of their two best: beyond eight nodes the limit leaks."""
    picks = sample_picks(256, 8, 20_000, groups=8, top_groups=4)
    assert hit_shares(picks, 256, holders).sum() == pytest.approx(published, abs=0.06)


def test_popular_experts_are_picked_more() -> None:
    popularity = np.ones(16)
    popularity[3] = 8.0
    counts = np.bincount(sample_picks(16, 2, 20_000, popularity=popularity).reshape(-1), minlength=16)
    others = np.delete(counts, 3)
    assert counts[3] > 4 * others.mean()
    assert others.std() < 0.1 * others.mean()


@pytest.mark.parametrize(
    "arguments",
    [(8, 9, 1), (8, 0, 1)],
)
def test_impossible_numbers(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(BadTrace, match="cannot be"):
        sample_picks(*arguments)
    with pytest.raises(BadTrace, match="groups"):
        sample_picks(8, 2, 10, groups=3)
