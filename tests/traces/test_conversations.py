"""Generators of conversations: what Mooncake's prompts share, and sessions of many turns with the means asked for."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest

from moesim.traces.requests import Chains, seen_before, uniform_lengths
from moesim.traces.reuse import MOONCAKE, reuse
from moesim.traces.sessions import Drawn, Talk, sessions

COUNT = 12_031  # as many as the trace has, from which these were measured
# blocks of one cache that drops what was used longest ago -> share of the trace's blocks found in it
HITS = {1_000: 0.045, 2_000: 0.054, 5_000: 0.110, 10_000: 0.211, 20_000: 0.288, 50_000: 0.355, 100_000: 0.364}


def hit_share(keys: tuple[tuple[int, ...], ...], room: int) -> float:
    """Of all blocks, block by block."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for chain in keys:
        for key in chain:
            if key not in cache:
                break
            hits += 1
        for key in chain:
            cache[key] = None
            cache.move_to_end(key)
        while len(cache) > room:
            cache.popitem(last=False)
    return hits / sum(map(len, keys))


def times_to_reuse(keys: tuple[tuple[int, ...], ...], arrival_s: tuple[float, ...]) -> list[float]:
    """Seconds from the request that had the longest repeated beginning last, beyond the common block."""
    last: dict[int, int] = {}
    found = []
    for i, chain in enumerate(keys):
        same = next((n for n, key in enumerate(chain) if key not in last), len(chain))
        if same > 1:
            found.append(arrival_s[i] - arrival_s[last[chain[same - 1]]])
        last.update(dict.fromkeys(chain, i))
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_caches_of_every_size_hit_as_often_as_in_the_trace(seed: int) -> None:
    r = reuse(COUNT, seed)
    assert r.chains is not None
    for room, share in HITS.items():
        assert hit_share(r.chains.keys, room) == pytest.approx(share, abs=0.035), room
    assert sum(r.prefix) / sum(r.input_tokens) == pytest.approx(0.374, abs=0.035)


def test_prompts_and_times_to_reuse_are_those_of_the_trace() -> None:
    r = reuse(COUNT, 2)
    assert r.chains is not None and len(r) == COUNT
    blocks = [len(chain) for chain in r.chains.keys]
    assert np.mean(blocks) == pytest.approx(24.0, rel=0.06)
    assert np.quantile(blocks, [0.25, 0.5, 0.75, 0.9]) == pytest.approx([5, 14, 31, 54], rel=0.12, abs=1)
    assert np.mean(r.output_tokens) == pytest.approx(343, rel=0.05)
    again = times_to_reuse(r.chains.keys, r.arrival_s)
    assert len(again) / COUNT == pytest.approx(0.387, abs=0.02)
    assert np.quantile(again, [0.5, 0.9]) == pytest.approx([123, 483], rel=0.1)
    assert {chain[0] for chain in r.chains.keys} == {0}
    assert all(ends[-1] == tokens for ends, tokens in zip(r.chains.ends, r.input_tokens, strict=True))
    assert r.prefix == seen_before(r.chains, r.input_tokens)


@pytest.mark.parametrize("rate", [None, 10.0])
def test_the_rate_is_steady_and_as_asked(rate: float | None) -> None:
    r = reuse(6000, 5, rate)
    asked = rate or MOONCAKE.rate_per_s
    assert len(r) == 6000 and r.arrival_s[0] == 0.0 and r.arrival_s == tuple(sorted(r.arrival_s))
    assert 5999 / r.arrival_s[-1] == pytest.approx(asked, rel=0.07)
    assert 2999 / r.arrival_s[2999] == pytest.approx(asked, rel=0.1)


def test_a_moment_at_a_huge_rate_is_drawn_in_a_moment() -> None:
    r = reuse(400, 5, 1e6)
    assert len(r) == 400 and 399 / r.arrival_s[-1] == pytest.approx(1e6, rel=0.02)
    assert len(reuse(1, 0, 1e7)) == 1


def test_more_requests_a_second_are_more_conversations_not_faster_ones() -> None:
    slow, fast = reuse(6000, 5, 3.4), reuse(6000, 5, 34.0)
    assert slow.chains is not None and fast.chains is not None
    # as many blocks come between two turns in a tenth of the time: a cache of one size finds less
    assert hit_share(fast.chains.keys, 10_000) < 0.6 * hit_share(slow.chains.keys, 10_000)


def talk(**changes: object) -> Talk:
    usual = {"mean_turns": 6.0, "think_s": 20.0, "first_tokens": 800, "added_tokens": 100, "answer_tokens": 200}
    return Talk(**{**usual, **changes})  # type: ignore[arg-type]  # kinds of values differ


def drawn(of: Talk, count: int = 6000, most: int = 10**9, **load: float) -> Drawn:
    def lengths(mean: int, count: int, name: str) -> tuple[int, ...]:
        return tuple(uniform_lengths(mean, 0.0, count, 1, name).tolist())

    return sessions(of, count, 1, lengths, most, **(load or {"rate_per_s": 2.0}))  # type: ignore[arg-type]  # as above


def test_sessions_have_the_means_that_are_asked_for() -> None:
    r = drawn(talk(system_tokens=50), 20_000).requests
    after, arrival = np.array(r.after), np.array(r.arrival_s)
    begins = after < 0
    session = np.arange(len(r))
    for i in range(len(r)):
        session[i] = i if after[i] < 0 else session[after[i]]
    whole = begins & (arrival < 0.5 * arrival[begins].max())  # long over when the load ends
    assert np.bincount(session, minlength=len(r))[whole].mean() == pytest.approx(6.0, rel=0.06)
    assert arrival[~begins].mean() == pytest.approx(20.0, rel=0.05)
    assert (begins.sum() - 1) / arrival[begins].max() == pytest.approx(2.0, rel=0.08)
    assert r.starts_s == tuple(arrival[begins]) and r.starts_s == tuple(sorted(r.starts_s))
    assert (after < np.arange(len(r))).all()


def test_a_load_does_not_end_in_a_few_long_sessions() -> None:
    r = drawn(talk(mean_turns=50.0), 3000, users=20).requests
    ends = [0.0] * len(r)  # if answers took no time
    for i, before in enumerate(r.after):
        ends[i] = r.arrival_s[i] + (ends[before] if before >= 0 else 0.0)
    assert ends == sorted(ends) and len(r) == 3000
    assert ends[-1] == pytest.approx(3000 * 20.0 * 49 / 50 / 20, rel=0.1)  # twenty users ask all the time


def test_a_prompt_is_the_last_one_its_answer_and_some_more() -> None:
    r = drawn(talk(system_tokens=50)).requests
    assert r.chains is not None
    for i, before in enumerate(r.after):
        ends, keys = r.chains.ends[i], r.chains.keys[i]
        assert ends[-2] == r.input_tokens[i] and ends[-1] == r.input_tokens[i] + r.output_tokens[i]
        if before < 0:
            assert r.input_tokens[i] == 850 and keys[0] == 0 and ends[0] == 50
            assert r.prefix[i] == (50 if i else 0)
        else:
            assert r.input_tokens[i] == r.input_tokens[before] + 200 + 100
            assert keys[:-2] == r.chains.keys[before] and r.prefix[i] == r.input_tokens[before] + 200


def test_tools_answer_faster_than_people() -> None:
    r = drawn(talk(tool_share=0.75, tool_s=0.5)).requests
    waits = np.array([t for t, before in zip(r.arrival_s, r.after, strict=True) if before >= 0])
    assert waits.mean() == pytest.approx(0.75 * 0.5 + 0.25 * 20.0, rel=0.1)
    assert (waits < 2.5).mean() == pytest.approx(0.75 * (1 - np.exp(-5)) + 0.25 * (1 - np.exp(-0.125)), abs=0.03)


def test_lognormal_thinking_keeps_its_mean() -> None:
    r = drawn(talk(think="lognormal"), 30_000).requests
    waits = np.array([t for t, before in zip(r.arrival_s, r.after, strict=True) if before >= 0])
    assert waits.mean() == pytest.approx(20.0, rel=0.05) and np.log(waits).std() == pytest.approx(1.0, rel=0.03)


def test_branches_go_on_from_an_earlier_turn() -> None:
    r = drawn(talk(branch_share=0.3)).requests
    assert r.chains is not None
    third = [i for i, b in enumerate(r.after) if b >= 0 and r.after[b] >= 0]
    back = [i for i in third if r.chains.keys[i][:-2] != r.chains.keys[r.after[i]]]
    assert len(back) / len(third) == pytest.approx(0.3, abs=0.03)
    known = {keys: i for i, keys in enumerate(r.chains.keys)}
    for i in back:
        base = known[r.chains.keys[i][:-2]]
        assert base < r.after[i] and r.prefix[i] == r.chains.ends[base][-1]


def test_users_begin_a_session_when_their_last_one_ends() -> None:
    r = drawn(talk(), 2000, users=7).requests
    assert r.after.count(-1) == 7 and all(t == 0.0 for t in r.starts_s)
    followed = [before for before in r.after if before >= 0]
    assert len(set(followed)) == len(followed)  # an answer has one who waits for it: nobody sends two at once
    new = [i for i, before in enumerate(r.after) if before >= 0 and r.input_tokens[i] == 800]
    assert len(new) > 200 and all(r.arrival_s[i] == 0.0 for i in new)


def test_the_context_ends_sessions_and_cuts_first_prompts() -> None:
    short = drawn(talk(), most=2000)
    r = short.requests
    assert max(a + b for a, b in zip(r.input_tokens, r.output_tokens, strict=True)) <= 2000
    assert short.ended > 100 and short.cut == 0 and len(r) == 6000
    tight = drawn(talk(first_tokens=900), most=1000)
    assert tight.cut > 1000 and set(tight.requests.input_tokens) == {800}


def test_the_same_seed_is_the_same_load() -> None:
    assert reuse(500, 3) == reuse(500, 3) != reuse(500, 4)
    assert drawn(talk(), 300) == drawn(talk(), 300)
    assert isinstance(reuse(10, 0).chains, Chains)
