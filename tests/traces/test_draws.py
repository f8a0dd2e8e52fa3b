"""Counts of a micro-batch: conserved, capped by the tokens, spread as choices without replacement are."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.traces.assignments import sample_picks
from moesim.traces.draws import Topics, apportioned, draw_counts, inclusion, largest_remainder
from moesim.traces.rng import stream
from moesim.traces.routing import BadTrace, Routing


def shares_of(experts: int, sigma: float, seed: int = 0, layers: int = 1) -> np.ndarray:
    return Routing(kind="lognormal", sigma=sigma, seed=seed).popularity(layers, experts)


@settings(max_examples=150, deadline=None)
@given(
    experts=st.integers(1, 300), top_k=st.integers(1, 12), sigma=st.floats(0.0, 5.0), seed=st.integers(0, 10**6),
    tokens=st.sampled_from([1, 2, 7, 64, 1000, 262_144]),
)  # fmt: skip
def test_every_micro_batch_keeps_its_pairs(experts: int, top_k: int, sigma: float, seed: int, tokens: int) -> None:
    top_k = min(top_k, experts)
    shares = np.broadcast_to(shares_of(experts, sigma, seed), (9, experts))
    counts = draw_counts(stream(seed, "test"), shares, tokens, top_k)
    assert (counts.sum(axis=1) == tokens * top_k).all()
    assert counts.min() >= 0 and counts.max() <= tokens  # a token picks an expert once


@given(sigma=st.floats(0.0, 5.0), seed=st.integers(0, 10**6), experts=st.integers(2, 64), top_k=st.integers(1, 8))
def test_tokens_pick_top_k_experts(sigma: float, seed: int, experts: int, top_k: int) -> None:
    top_k = min(top_k, experts)
    picked = inclusion(shares_of(experts, sigma, seed, layers=3), top_k)
    assert picked.max() <= 1.0 and np.allclose(picked.sum(axis=1), top_k, rtol=1e-9)


def test_what_a_full_expert_cannot_take_goes_to_the_others_in_proportion() -> None:
    assert np.allclose(inclusion(np.array([0.8, 0.1, 0.1]), 2), [1.0, 0.5, 0.5])
    with pytest.raises(BadTrace, match="pick 2 different experts"):
        inclusion(np.array([1.0, 0.0, 0.0]), 2)


@pytest.mark.parametrize(("tokens", "rounding"), [(48, 0.1), (65_536, 0.05)])
def test_counts_vary_as_picks_without_replacement_do(tokens: int, rounding: float) -> None:
    """Mean tokens x p, variance tokens x p (1 - p): 0.75 of independent picks where a quarter of all is picked."""
    shares = shares_of(16, 0.5, seed=3)
    counts = draw_counts(stream(0, "test"), np.broadcast_to(shares, (20_000, 16)), tokens, 4)
    picked = inclusion(shares, 4)[0]
    assert np.allclose(counts.mean(axis=0), tokens * picked, rtol=0.01)
    seen = counts.var(axis=0) / (tokens * picked * (1.0 - picked))
    # the fixed sum takes some of it: picks that take place of each other
    weight = picked * (1.0 - picked) / (picked * (1.0 - picked)).sum()
    assert np.allclose(seen, 1.0 - weight, rtol=rounding)


def test_counts_agree_with_tokens_that_pick_one_by_one() -> None:
    """Spread of counts over batches of 256 tokens: drawn at once, and from top-k sets of single tokens."""
    shares = shares_of(64, 0.5, seed=1)[0]
    picks = sample_picks(64, 6, 256 * 400, seed=2, popularity=shares)
    one_by_one = np.stack([np.bincount(batch.ravel(), minlength=64) for batch in picks.reshape(400, 256, 6)])
    measured = one_by_one.mean(axis=0) / one_by_one.mean(axis=0).sum()
    at_once = draw_counts(stream(4, "test"), np.broadcast_to(measured, (400, 64)), 256, 6)
    assert at_once.std(axis=0).mean() == pytest.approx(one_by_one.std(axis=0).mean(), rel=0.03)


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=50), st.integers(0, 10**9))
def test_parts_are_whole_and_sum_up(weights: list[float], total: int) -> None:
    for parts in (apportioned(np.array(weights) + 1e-3, total), largest_remainder(_even(weights), total)):
        assert parts.sum() == total and parts.min() >= 0


def _even(weights: list[float]) -> np.ndarray:
    raw = np.array(weights) + 1e-3
    return raw / raw.sum()


def test_topics_average_over_sequences_and_are_the_same_in_every_layer() -> None:
    shares = np.full(256, 1.0 / 256)
    spreads = {}
    routing = Routing(kind="lognormal", topic=0.69)
    for sequences in (1, 64):
        topics = Topics(routing, sequences, 256, 8, 0, (40, 2))
        moved = topics.on(shares, layer=3)
        assert moved.shape == (40, 2, 256) and np.allclose(moved.sum(axis=-1), 1.0)
        assert np.allclose(np.sort(topics.on(shares, layer=9)), np.sort(moved))  # other experts, as hot
        assert (topics.on(shares, layer=9) != moved).any()
        spreads[sequences] = np.log(moved).std()
    assert spreads[1] == pytest.approx(0.69, rel=0.02) and spreads[64] == pytest.approx(0.69 / 8, rel=0.02)


def test_topics_keep_router_groups_together() -> None:
    """Between groups the topics of a sequence differ by group_topic, in every layer, in whatever order."""
    topics = Topics(Routing(kind="lognormal", topic=0.6, group_topic=0.4), 1.0, 256, 8, 0, (500,))
    for layer in (0, 7):
        log = np.log(topics.on(np.full(256, 1.0 / 256), layer)).reshape(500, 8, 32)
        between = np.sqrt(log.mean(axis=2).var(axis=1, ddof=1).mean() - 0.6**2 / 32)
        assert between == pytest.approx(0.4, rel=0.05)
        assert log.std(axis=2, ddof=1).mean() == pytest.approx(0.6, rel=0.02)


def test_draws_do_not_depend_on_the_hash_seed() -> None:
    program = (
        "from moesim.traces.routing import Routing; from moesim.traces.rng import stream\n"
        "from moesim.traces.draws import draw_counts; import hashlib\n"
        "p = Routing(kind='lognormal', sigma=0.65, group_sigma=0.36, drift=0.999, seed=3).popularity(4, 64, 8, 77)\n"
        "print(hashlib.sha256(draw_counts(stream(3, 'x'), p, 4096, 8).tobytes() + p.tobytes()).hexdigest())"
    )
    seen = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        seen.add(
            subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True).stdout
        )
    assert len(seen) == 1
