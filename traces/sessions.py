"""Conversations of many turns, of people and of agents: prompts grow, answers are waited for, beginnings are shared.

A turn's prompt is the last prompt, its answer and some new tokens. Who waits for an answer is known here, how long the
answer takes is not: arrivals of later turns are seconds after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Literal

import numpy as np

from moesim.traces.requests import Chains, Floats, Requests, seen_before
from moesim.traces.rng import Generator, stream

SIGMA = 1.0  # assumed: of the logarithm of pauses that are lognormal
_SYSTEM = 0  # key of the system prompt
Lengths = Callable[[int, int, str], tuple[int, ...]]  # mean, how many, name of the stream -> tokens of each


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """What a mean session is like; lengths in tokens, pauses in seconds."""

    mean_turns: float  # of a session; their number is geometric
    think_s: float  # from an answer to the next prompt of a person
    think: Literal["exponential", "lognormal"] = "exponential"
    system_tokens: int = 0  # the same before every session's first prompt
    first_tokens: int  # of the first prompt, without those
    added_tokens: int  # of what a person or a tool adds to a later prompt
    answer_tokens: int
    tool_share: float = 0.0  # of the later turns, those that wait for a tool instead of a person
    tool_s: float = 0.0  # that a tool takes
    branch_share: float = 0.0  # of the turns from the third on, those that go on from an earlier turn than the last


@dataclass(frozen=True, slots=True)
class Drawn:
    """Requests of sessions, and how many were changed to fit into the model's context."""

    requests: Requests
    ended: int  # sessions whose next turn had no room
    cut: int  # first prompts made shorter
    mean_turns: float  # of a session: as asked, or fewer where the context ends some


def sessions(
    talk: Talk, count: int, seed: int, lengths: Lengths, most_tokens: int, *, rate_per_s: float = 0.0, users: int = 0
) -> Drawn:
    """`count` requests of sessions that begin at `rate_per_s`, or of `users` who begin one when their last one ends.

    They come as they would if answers took no time, the first `count` of them: the last sessions are under way when the
    load ends, as in any trace. A context of `most_tokens` ends a session.
    """
    draws = 2 * count
    while True:
        made = _Sessions(talk, draws, seed, lengths, most_tokens)
        if _fill(made, count, stream(seed, "requests.sessions.begin"), rate_per_s, users):
            return made.first(count)
        draws *= 2  # few sessions with very many turns


def _fill(made: _Sessions, count: int, begins: Generator, rate_per_s: float, users: int) -> bool:
    """Sessions until `count` requests come before whatever is added next; False when there are too few draws."""
    free = [(0.0, user, -1) for user in range(users)]  # when each user's last session ends, and with which request
    heapify(free)
    ahead: list[float] = []  # when requests come that the next session may precede
    begin_s, sure = 0.0, 0
    while True:
        time_s, user, last = heappop(free) if users else (begin_s, 0, -1)
        while ahead and ahead[0] <= time_s:
            heappop(ahead)
            sure += 1
        if sure >= count:
            return True
        before = len(made.turns)
        end_s = made.add(time_s, 0.0 if last >= 0 else time_s, last)
        if end_s is None:
            return False
        for turn in made.turns[before:]:
            heappush(ahead, turn.order_s)
        if users:
            heappush(free, (end_s, user, len(made.turns) - 1))
        else:
            begin_s += float(begins.standard_exponential()) / rate_per_s


@dataclass(frozen=True, slots=True)
class _Turn:
    """One request: seconds without answers' time, what it waits for, its pieces."""

    order_s: float
    arrival_s: float
    after: int
    keys: tuple[int, ...]  # the last one is its answer
    ends: tuple[int, ...]

    @property
    def input_tokens(self) -> int:
        return self.ends[-2]


@dataclass(slots=True)
class _Sessions:
    """All draws are made beforehand, one a request; a session takes those of its turns."""

    talk: Talk
    draws: int
    seed: int
    lengths: Lengths
    most_tokens: int
    turns: list[_Turn] = field(default_factory=list)
    ended_s: list[float] = field(default_factory=list)  # of sessions whose next turn has no room: when it would come
    cut_s: list[float] = field(default_factory=list)  # of first prompts made shorter: when they come
    begun: int = 0  # sessions
    _tokens: dict[str, tuple[int, ...]] = field(init=False)
    _pauses: Floats = field(init=False)
    _even: dict[str, Floats] = field(init=False)

    def __post_init__(self) -> None:
        means = {"first": self.talk.first_tokens, "added": self.talk.added_tokens, "answer": self.talk.answer_tokens}
        self._tokens = {name: self.lengths(mean, self.draws, f"sessions.{name}") for name, mean in means.items()}
        names = ("ends", "branch", "from")
        self._even = {name: stream(self.seed, f"requests.sessions.{name}").random(self.draws) for name in names}
        self._pauses = _pauses_s(self.talk, self.seed, self.draws)

    def add(self, order_s: float, arrival_s: float, after: int) -> float | None:
        """One session; returns when it ends if answers take no time, None when there are too few draws for it."""
        begin = len(self.turns)
        self.begun += 1
        n = begin
        while n < self.draws:
            turn = self._first(n, order_s, arrival_s, after) if n == begin else self._next(n, begin, order_s, arrival_s)
            if turn is None:
                self.ended_s.append(order_s)
                return order_s
            self.turns.append(turn)
            # the session ends with the share that makes its turns geometric
            if self._even["ends"][n] * self.talk.mean_turns < 1.0:
                return order_s
            arrival_s = float(self._pauses[n])
            order_s += arrival_s
            n += 1
        return None

    def _first(self, n: int, order_s: float, arrival_s: float, after: int) -> _Turn:
        system, prompt, answer = self.talk.system_tokens, self._tokens["first"][n], self._tokens["answer"][n]
        over = system + prompt + answer - self.most_tokens
        if over > 0:
            self.cut_s.append(order_s)
            prompt = max(1, prompt - over)
            answer = max(1, min(answer, self.most_tokens - system - prompt))
        shared = ((_SYSTEM,), (system,)) if system else ((), ())
        keys, ends = (*shared[0], 2 * n + 1, 2 * n + 2), (*shared[1], system + prompt, system + prompt + answer)
        return _Turn(order_s, arrival_s, after, keys, ends)

    def _next(self, n: int, begin: int, order_s: float, arrival_s: float) -> _Turn | None:
        base = n - 1
        if base > begin and self._even["branch"][n] < self.talk.branch_share:
            base = begin + int(self._even["from"][n] * (base - begin))
        before = self.turns[base]
        prompt = before.ends[-1] + self._tokens["added"][n]
        end = prompt + self._tokens["answer"][n]
        if end > self.most_tokens:
            return None
        return _Turn(order_s, arrival_s, n - 1, (*before.keys, 2 * n + 1, 2 * n + 2), (*before.ends, prompt, end))

    def first(self, count: int) -> Drawn:
        """The first requests in order; one comes behind the one that it waits for."""
        order = sorted(range(len(self.turns)), key=lambda n: (self.turns[n].order_s, n))[:count]
        place = {n: i for i, n in enumerate(order)} | {-1: -1}
        turns = [self.turns[n] for n in order]
        chains = Chains(tuple(t.keys for t in turns), tuple(t.ends for t in turns))
        inputs = tuple(t.input_tokens for t in turns)
        requests = Requests(
            arrival_s=tuple(t.arrival_s for t in turns),
            input_tokens=inputs,
            output_tokens=tuple(t.ends[-1] - t.input_tokens for t in turns),
            prefix=seen_before(chains, inputs),
            chains=chains,
            after=tuple(place[t.after] for t in turns),
        )
        end_s = turns[-1].order_s
        ended, cut = (sum(t <= end_s for t in times) for times in (self.ended_s, self.cut_s))
        return Drawn(requests, ended, cut, len(self.turns) / self.begun if ended else self.talk.mean_turns)


def _pauses_s(talk: Talk, seed: int, count: int) -> Floats:
    """Seconds from an answer to the next turn's prompt: a person's, or a tool's, which are exponential."""
    people = stream(seed, "requests.sessions.think")
    if talk.think == "lognormal":
        pauses = talk.think_s * np.exp(SIGMA * people.standard_normal(count) - SIGMA**2 / 2.0)
    else:
        pauses = talk.think_s * people.standard_exponential(count)
    tools = talk.tool_s * stream(seed, "requests.sessions.tool").standard_exponential(count)
    by_tool = stream(seed, "requests.sessions.by_tool").random(count) < talk.tool_share
    return np.asarray(np.where(by_tool, tools, pauses))
