"""Workload: the requests of one run, and how they come: by themselves, from clients that wait, or all at once."""

from __future__ import annotations

from array import array
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil, inf
from pathlib import Path

import numpy as np

from moesim.sim.model.arch import ModelArch
from moesim.sim.question.request_sections import MAX_REQUESTS, RequestsAsk, SessionsAsk
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.serve.prefix_runs import PrefixRuns, prefix_runs
from moesim.traces.generators import GENERATORS, generate
from moesim.traces.request_files import load_requests
from moesim.traces.requests import Requests, gamma_arrivals, lognormal_lengths, uniform_lengths
from moesim.traces.reuse import MOONCAKE, reuse
from moesim.traces.sessions import SIGMA as THINK_SIGMA
from moesim.traces.sessions import Talk, sessions

_PER_CLIENT = 10  # requests per client of a closed loop where the count is not given: as public benchmarks do
_DEFAULT_COUNT = 2000
STEADY = 0.85  # assumed: of the rate of conversations in the long run, from which a run is one of it
SIGMA = 1.0  # assumed: of the logarithms of ShareGPT's prompts and answers


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests and who sends them: `clients` of a closed loop, 0 of an open one."""

    requests: Requests
    clients: int = 0
    warmup: float | None = 0.0  # share of the first requests that latencies leave out; None: told by the run
    seed: int = 0  # of what is drawn beside the requests: their classes
    mean_turns: float = 0.0  # of a conversation, mean; 0 where there are none
    beginning: bool = False  # conversations that are too few to show more than how they begin

    contexts: tuple[int, int] = field(init=False)  # typical shortest and longest context of a running request
    longest: int = field(init=False)  # tokens of the longest request at its end
    mean_tokens: int = field(init=False)  # tokens of a mean request at its end
    rate_per_s: float = field(init=False)  # mean arrivals of an open loop; 0 when all come at once
    runs: PrefixRuns | None = field(init=False, repr=False, compare=False)  # what prompts share

    def __post_init__(self) -> None:
        r = self.requests
        prompt, output = float(np.mean(r.input_tokens)), float(np.mean(r.output_tokens))
        starts = r.starts_s  # of requests that wait for an answer nobody knows when they come
        span = max(starts) - min(starts)
        derived = {
            "contexts": (max(1, round(0.8 * prompt)), round(prompt + output) + 1),
            "longest": max(a + b for a, b in zip(r.input_tokens, r.output_tokens, strict=True)),
            "mean_tokens": max(1, round(prompt + output)),
            "rate_per_s": len(r) * (len(starts) - 1) / len(starts) / span if span > 0 else 0.0,
            "runs": prefix_runs(r.chains, r.input_tokens) if r.chains is not None else None,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def askers(self) -> int:
        """Who ask again once they are answered, and only then: clients of a loop, users of conversations; else 0."""
        conversing = bool(self.requests.after) and not self.rate_per_s
        return self.clients or (len(self.requests.starts_s) if conversing else 0)


def lengths(ask: RequestsAsk, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Input and output tokens of `count` requests."""
    return _spread(ask, ask.input_tokens, count, "input"), _spread(ask, ask.output_tokens, count, "output")


def _spread(ask: RequestsAsk, mean: int, count: int, name: str) -> tuple[int, ...]:
    """Tokens of `count` prompts or answers, spread as asked around `mean`."""
    if ask.lengths == "lognormal":
        drawn = lognormal_lengths(mean, SIGMA if ask.sigma is None else ask.sigma, count, ask.seed, name)
    else:
        drawn = uniform_lengths(mean, ask.jitter, count, ask.seed, name)
    return tuple(int(v) for v in drawn)


def workload_of(ask: RequestsAsk, arch: ModelArch, trace: str | Path | None = None) -> tuple[Workload, list[str]]:
    """The requests that are asked for, or those of a trace; and what had to be assumed about them."""
    said: list[str] = []
    clients, turns = 0, 0.0
    if trace is not None or ask.kind == "trace":
        found = load_requests(trace if trace is not None else str(ask.file))
        said += found.said
        own = ask.kind == "trace"  # a trace that replaces another load is not cut to its count
        requests = found.requests.first(ask.count) if own and ask.count else found.requests
        said += [] if own else [f"requests: {len(requests):,} of the trace, in place of the scenario's kind {ask.kind}"]
    elif ask.kind in GENERATORS:
        requests = generate(ask.kind, ask.count or _DEFAULT_COUNT, ask.seed, ask.rate_per_s)
    elif ask.kind == "reuse":
        requests = reuse(ask.count or _DEFAULT_COUNT, ask.seed, ask.rate_per_s)
        said += _not_stated(ask, ("count", _DEFAULT_COUNT), ("rate_per_s", MOONCAKE.rate_per_s))
    elif ask.kind == "sessions":
        requests, said, turns = _sessions(ask, arch)
    else:
        clients = ask.concurrency or 0 if ask.kind == "closed" else 0
        count = ask.count or (_usual_count(clients) if clients else _DEFAULT_COUNT)
        said += _not_stated(ask, ("count", count))
        said += _sigma_said(ask)
        prompts, outputs = lengths(ask, count)
        arrivals = (0.0,) * count
        if ask.kind in ("poisson", "gamma") and ask.rate_per_s:
            cv = ask.cv if ask.kind == "gamma" else 1.0
            arrivals = tuple(float(t) for t in gamma_arrivals(ask.rate_per_s, cv, count, ask.seed))
        requests = Requests(arrivals, prompts, outputs, (0,) * count)
    warmup = None if ask.warmup == "auto" else ask.warmup
    beginning = len(requests) < enough_of(ask, turns)
    workload = Workload(requests, clients, warmup, mean_turns=turns, beginning=beginning)
    _check_context(workload, arch)
    return workload, said


def _usual_count(clients: int) -> int:
    """Requests of so many clients where nobody says how many. ScenarioError for more than are simulated."""
    count = _PER_CLIENT * clients
    if count > MAX_REQUESTS:
        raise ScenarioError(
            f"requests.concurrency={clients:,} makes {count:,} requests, {_PER_CLIENT} of each, where count is "
            f"not given; at most {MAX_REQUESTS:,} are simulated: give count"
        )
    return count


def _not_stated(ask: RequestsAsk, *values: tuple[str, float]) -> list[str]:
    return [f"requests.{key} = {value:g} (not stated)" for key, value in values if getattr(ask, key) is None]


def _sigma_said(ask: RequestsAsk) -> list[str]:
    unsaid = ask.lengths == "lognormal" and ask.sigma is None
    return [f"requests.sigma = {SIGMA:g} (not stated: as of ShareGPT)"] if unsaid else []


def _sessions(ask: RequestsAsk, arch: ModelArch) -> tuple[Requests, list[str], float]:
    """Requests of conversations, cut off at the model's context; what had to be assumed about them; their turns."""
    of = ask.sessions or SessionsAsk()
    least = of.system_tokens + of.first_tokens + of.answer_tokens
    if least > arch.max_context:
        raise ScenarioError(
            f"requests.sessions: system, first prompt and answer are {least:,} tokens, more than the context of "
            f"{arch.name}, {arch.max_context:,} tokens; make them shorter"
        )
    talk = Talk(
        mean_turns=of.turns, think_s=of.think_s, think=of.think, system_tokens=of.system_tokens,
        first_tokens=of.first_tokens, added_tokens=of.added_tokens, answer_tokens=of.answer_tokens,
        tool_share=of.tool_calls, tool_s=of.tool_s or 0.0, branch_share=of.branch,
    )  # fmt: skip
    users = ask.concurrency or 0
    count = ask.count or max(_DEFAULT_COUNT, _usual_count(users))
    drawn = sessions(
        talk, count, ask.seed, partial(_spread, ask), arch.max_context, rate_per_s=ask.rate_per_s or 0.0, users=users
    )
    unsaid = [key for key in SessionsAsk.model_fields if key not in of.model_fields_set and key != "tool_s"]
    said = [*_not_stated(ask, ("count", count)), *_sigma_said(ask)]
    said += [f"requests.sessions.{key} = {getattr(of, key)} (not stated)" for key in unsaid]
    said.append("sessions: the number of their turns is geometric, tools take exponential times")
    if users and count < enough_of(ask, drawn.mean_turns):
        said.append(
            f"requests.count = {count:,} is fewer than {users:,} clients x {drawn.mean_turns:.3g} turns: how they "
            f"begin, all at once, and no steady state; {enough_of(ask, drawn.mean_turns):,} or more would show one"
        )
    if of.think == "lognormal":
        said.append(f"sessions: the logarithm of thinking times spreads by {THINK_SIGMA:g} (assumed)")
    if drawn.ended:
        said.append(f"sessions that end at the context of {arch.max_context:,} tokens: {drawn.ended:,}")
    if drawn.cut:
        said.append(f"sessions whose first prompt is cut to the context of {arch.max_context:,} tokens: {drawn.cut:,}")
    return drawn.requests, said, drawn.mean_turns


def enough_of(ask: RequestsAsk, turns: float) -> int:
    """Requests of conversations, of so many turns on average, that show more than how they begin; 0 of other loads.

    Users begin all at once, and have to come to their end once. At a rate, turns come up to (turns - 1) thinking times
    after their session began: until then, and for a good while after, fewer requests come than will.
    """
    if not turns:
        return 0
    if ask.rate_per_s is None:
        return ceil((ask.concurrency or 0) * turns)
    of = ask.sessions or SessionsAsk()
    pause_s = of.think_s + of.tool_calls * ((of.tool_s or 0.0) - of.think_s)
    return ceil(ask.rate_per_s * turns * (turns - 1.0) * pause_s / (1.0 - STEADY) * STEADY)


def _check_context(workload: Workload, arch: ModelArch) -> None:
    if workload.longest > arch.max_context:
        raise ScenarioError(
            f"a request of {workload.longest:,} tokens (input and output) is longer than the context of {arch.name}, "
            f"{arch.max_context:,} tokens; shorten it or leave it out of the trace"
        )


SERVED, REJECTED, TIMED_OUT = 0, 1, 2  # what became of a request


@dataclass(slots=True)
class RequestLog:
    """Columns by request number. Seconds are absolute; 0 stands where nothing has happened yet."""

    arrival_s: list[float]
    prompt: list[int]  # input tokens
    output: list[int]  # output tokens
    prefix: list[int]  # leading input tokens that an earlier request shared
    patience_s: float = inf  # after which a request that waits in a queue is given up
    again_s: float = 0.0  # from a rejection to what an answer would have caused
    after: Sequence[int] = ()  # as in `Requests`
    priority: Sequence[int] = ()  # class of each, 0 the most urgent; empty: all are alike
    first_s: MutableSequence[float] = field(default_factory=lambda: array("d"))  # first token leaves
    finish_s: MutableSequence[float] = field(default_factory=lambda: array("d"))  # last token leaves
    hit: MutableSequence[int] = field(default_factory=lambda: array("q"))  # input tokens that were not computed
    status: bytearray = field(default_factory=bytearray)  # SERVED, REJECTED or TIMED_OUT
    preemptions: int = 0

    def __post_init__(self) -> None:
        count = len(self.prompt)
        self.first_s, self.finish_s = array("d", bytes(8 * count)), array("d", bytes(8 * count))
        self.hit, self.status = array("q", bytes(8 * count)), bytearray(count)

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def served(self) -> int:
        """Requests that were answered."""
        return self.status.count(SERVED)

    @property
    def prompt_total(self) -> int:
        """Input tokens of the requests that were answered."""
        return self._total(self.prompt)

    @property
    def output_total(self) -> int:
        """Output tokens of the requests that were answered."""
        return self._total(self.output)

    def _total(self, tokens: list[int]) -> int:
        if self.served == len(self):
            return sum(tokens)
        return sum(n for n, status in zip(tokens, self.status, strict=True) if status == SERVED)


def request_log(
    arrival_s: Sequence[float], prompt: Sequence[int], output: Sequence[int], prefix: Sequence[int] | None = None
) -> RequestLog:
    """A fresh log of these requests, in order of arrival."""
    return RequestLog(list(arrival_s), list(prompt), list(output), list(prefix) if prefix else [0] * len(prompt))
