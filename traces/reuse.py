"""Requests whose prompts share beginnings as in Mooncake's conversation trace, without its rows.

Conversations begin at random times, each with a prompt of its own behind one block that all share. After a turn the
conversation goes on or ends; what comes next repeats the last prompt but for its unfinished block and adds some, or
goes back to an earlier point of it. Conversations under way at time zero began before: the rate is steady.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from moesim.traces.generators import LEVELS, Quantiles, drawn
from moesim.traces.requests import Chains, Requests, seen_before
from moesim.traces.rng import stream

BLOCK_TOKENS = 512
_BEFORE_S = 1200.0  # conversations that began earlier are over: nine of ten turns follow within ten minutes
_MOST_BEFORE = 20.0  # and at most as many loads are drawn before the load itself
_LONG_BLOCKS = 20  # a prompt below hardly ever goes back
_ALIKE = 0  # key of the block that all prompts begin with

_Turn = tuple[float, tuple[int, ...], int]  # arrival, keys of blocks, tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversations:
    """Statistics of conversations: prompts in blocks, seconds between turns, shares of turns; quantiles at LEVELS."""

    rate_per_s: float  # requests
    first: Quantiles  # blocks of a prompt that repeats no earlier one
    gaps: Quantiles  # seconds from a prompt to the one that repeats it
    second: Quantiles  # blocks of a second turn that goes on, beyond the repeated ones
    later: Quantiles  # the same of later turns
    back_share: float  # of the turns after a prompt of twenty blocks or more, those that go back
    kept: Quantiles  # share of the last prompt's blocks that a turn that goes back repeats
    changed: Quantiles  # its blocks over those of the last prompt
    first_followed: tuple[tuple[int, float], ...]  # (blocks from which on, share of first turns that another follows)
    followed: tuple[float, ...]  # the same share of turns 2, 3, ...; the last stands for all later ones
    outputs: Quantiles  # tokens
    source: str


MOONCAKE = Conversations(
    rate_per_s=3.40,
    first=(2, 2, 2, 2, 3, 10, 24, 49, 73, 123, 167, 237, 247),
    gaps=(0.1, 15.0, 30.0, 45.0, 72.0, 135.0, 300.0, 534.0, 668.0, 1265.0, 1742.0, 2676.0, 3030.0),
    second=(0, 0, 1, 1, 2, 2, 4, 12, 18, 29, 42, 97, 181),
    later=(0, 0, 1, 1, 1, 2, 2, 6, 12, 19, 27, 50, 77),
    back_share=0.28,
    kept=(0.01, 0.03, 0.05, 0.07, 0.11, 0.21, 0.45, 0.83, 0.91, 0.93, 0.96, 0.98, 0.99),
    changed=(0.18, 0.3, 0.51, 0.62, 0.79, 1.0, 1.11, 1.37, 1.63, 2.33, 2.67, 5.46, 7.56),
    first_followed=((1, 0.01), (3, 0.41), (100, 0.24)),
    followed=(0.44, 0.56, 0.64, 0.69, 0.70),
    outputs=(1, 3, 10, 24, 156, 350, 472, 597, 698, 892, 1119, 2000, 2000),
    source="Mooncake conversation trace with its block hashes (kvcache-ai/Mooncake, FAST 2025, Apache-2.0)",
)


def reuse(count: int, seed: int, rate_per_s: float | None = None, like: Conversations = MOONCAKE) -> Requests:
    """`count` requests of conversations. At another rate there are more or fewer at once; pauses stay as they are."""
    rate = rate_per_s or like.rate_per_s
    talk = _Talk(like, seed)
    pauses = stream(seed, "requests.reuse.begin")
    turns: list[_Turn] = []
    pause_s = _turns_of(like) / rate  # mean, between the beginnings of two conversations
    before_s = min(_BEFORE_S, _MOST_BEFORE * count / rate)
    begin_s, end_s = -before_s, count / rate
    while True:
        while begin_s < end_s:
            begin_s += float(pauses.standard_exponential()) * pause_s
            turns += talk.conversation(begin_s)
        turns = [turn for turn in turns if turn[0] >= 0.0]
        if sum(turn[0] < begin_s for turn in turns) >= count:  # whatever begins later comes later
            break
        end_s = begin_s + 0.1 * count / rate
    turns.sort(key=lambda turn: turn[0])
    # a load too short to be repeated in lacks turns of conversations that began before: its own come faster
    squeezed = 1.0 if before_s == _BEFORE_S else count / rate / max(turns[count - 1][0], 1e-12)
    return _requests([(time_s * squeezed, keys, tokens) for time_s, keys, tokens in turns[:count]], like, seed)


def _turns_of(like: Conversations) -> float:
    """Turns of a mean conversation."""
    later = 1.0 / (1.0 - like.followed[-1])
    for share in reversed(like.followed[:-1]):
        later = 1.0 + share * later
    edges = np.log([blocks - 0.5 for blocks, _ in like.first_followed[1:]])
    below = np.concatenate(([0.0], np.interp(edges, np.log(like.first), LEVELS), [1.0]))
    return 1.0 + later * float(np.dot(np.diff(below), [share for _, share in like.first_followed]))


@dataclass(slots=True)
class _Talk:
    """Draws conversations one after the other; keys of blocks are never used twice."""

    like: Conversations
    seed: int
    key: int = _ALIKE + 1
    draws: dict[str, Iterator[float]] = field(init=False)

    def __post_init__(self) -> None:
        quantiles = {name: getattr(self.like, name) for name in ("first", "gaps", "second", "later", "kept", "changed")}
        even: dict[str, Quantiles | None] = dict.fromkeys(("follows", "back", "rest"))
        self.draws = {name: _endless(of, self.seed, name) for name, of in {**quantiles, **even}.items()}

    def conversation(self, begin_s: float) -> Iterator[_Turn]:
        """Arrival, keys of blocks and tokens of every turn."""
        like, draw = self.like, self.draws
        time_s, keys = begin_s, self._grown((_ALIKE,), max(1, round(next(draw["first"])) - 1))
        tokens = self._tokens(keys)
        followed = next(share for blocks, share in reversed(like.first_followed) if len(keys) >= blocks)
        turn = 1
        while True:
            yield time_s, keys, tokens
            if next(draw["follows"]) >= followed:
                return
            followed = like.followed[min(turn, len(like.followed)) - 1]
            turn += 1
            time_s += next(draw["gaps"])
            if len(keys) >= _LONG_BLOCKS and next(draw["back"]) < like.back_share:
                keep = max(1, int(next(draw["kept"]) * len(keys)))
                keys = self._grown(keys[:keep], max(1, round(next(draw["changed"]) * len(keys)) - keep))
            else:
                added = round(next(draw["second" if turn == 2 else "later"]))
                if not added:
                    continue  # the same prompt once more
                keys = self._grown(keys[:-1], added)
            if len(keys) > like.first[-1]:
                return  # longer than any that was seen
            tokens = self._tokens(keys)

    def _grown(self, kept: tuple[int, ...], blocks: int) -> tuple[int, ...]:
        begin, self.key = self.key, self.key + blocks
        return (*kept, *range(begin, self.key))

    def _tokens(self, keys: tuple[int, ...]) -> int:
        """The last block is full to any part."""
        return (len(keys) - 1) * BLOCK_TOKENS + 1 + int(next(self.draws["rest"]) * BLOCK_TOKENS)


def _endless(quantiles: Quantiles | None, seed: int, name: str) -> Iterator[float]:
    """Draws with these quantiles, or even ones between 0 and 1."""
    draws = stream(seed, f"requests.reuse.{name}")
    while True:
        yield from (draws.random(4096) if quantiles is None else drawn(quantiles, draws, 4096)).tolist()


def _requests(turns: list[_Turn], like: Conversations, seed: int) -> Requests:
    blocks = tuple(range(BLOCK_TOKENS, (max(len(keys) for _, keys, _ in turns) + 1) * BLOCK_TOKENS, BLOCK_TOKENS))
    ends = tuple((*blocks[: len(keys) - 1], tokens) for _, keys, tokens in turns)
    chains = Chains(tuple(keys for _, keys, _ in turns), ends)
    inputs = tuple(tokens for _, _, tokens in turns)
    outputs = np.rint(drawn(like.outputs, stream(seed, "requests.reuse.output"), len(turns)))
    return Requests(
        arrival_s=tuple(time_s - turns[0][0] for time_s, _, _ in turns),
        input_tokens=inputs,
        output_tokens=tuple(max(1, int(v)) for v in outputs),
        prefix=seen_before(chains, inputs),
        chains=chains,
    )
