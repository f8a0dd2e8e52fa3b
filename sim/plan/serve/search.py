"""Search of deployments, coarse to fine: bounds judge all layouts, the likeliest are simulated, features come last.

1. Every layout of replicas and pools, with as many workers as the load needs by estimate (need.py) and neighbours of
   that, is judged by bounds (bound.py). What cannot meet the limits, or cannot beat the best found, is never simulated.
   The rest is, likeliest first by estimate, replicas and pools in turn.
2. From the best few layouts one thing at a time is changed (moves.py: features, batch limit, workers), simulated, and
   kept where it is better, until nothing is better.
3. All layouts once more with the features of the best, with and without two batches overlapped: wide expert
   parallelism pays only with spare slots. The likeliest by estimate are judged by bounds and simulated; then 2 again.

Each step has a share of `most`. This is greedy: a change that pays only with another one may be missed. With all
features fixed (`--set`) and `most` large enough, 1 alone is certain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from math import ceil, inf
from time import perf_counter

from moesim.files.words import counted
from moesim.sim.layout.layout import BadLayout
from moesim.sim.layout.slots import BLOCKS
from moesim.sim.plan.serve.bound import LoadBounds
from moesim.sim.plan.serve.judge import Served, ServeJudge, too_large
from moesim.sim.plan.serve.moves import Moves
from moesim.sim.plan.serve.need import Needs, deployments
from moesim.sim.plan.serve.space import Given, ServeCandidate, Shape, shapes
from moesim.sim.plan.train.search import Progress
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import Scenario, ScenarioError
from moesim.sim.serve.block_split import split_blocks
from moesim.sim.serve.slo import Slo

_SHARES = (0.3, 0.5, 0.8, 1.0)  # of `most`, until which each step may go
_FIXED = (0.8, 0.9, 0.9, 1.0)  # where no feature is open
_AGAIN = 60  # likeliest layouts with other features that are judged by bounds
_STARTS = 3  # layouts whose features are tried
_BETTER = 0.002  # by which share a score must be better to count; within it, headroom by _ROOMIER decides
_ROOMIER = 0.05
_ONLY_IF_IT_PAYS = ("kv_dtype",)  # what may change answers: has to be better by _PAYS
_PAYS = 0.02
_PARTIAL = ("goodput", "cost", "tokens_per_dollar")  # objectives for which GPUs may be left out

SERVE_OBJECTIVES = ("goodput", "cost", "tokens_per_dollar", "tokens_per_s_per_gpu", "ttft", "tpot")


@dataclass(frozen=True, slots=True)
class ServeEffort:
    """How far a search of deployments goes: until the `top` best are certain, or `most` are simulated. One process."""

    top: int = 5  # deployments that are answered
    most: int = 100  # simulated at most, on each size of the cluster
    minutes: float | None = None  # after which it answers what it has

    def __post_init__(self) -> None:
        for name in ("top", "most"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ScenarioError(f"effort: {name}={value!r} must be a whole number of at least 1")
        if self.minutes is not None and not 0 < self.minutes <= 100_000:
            raise ScenarioError(f"effort: minutes={self.minutes!r} must be above 0, for example 5")


@dataclass(frozen=True, slots=True)
class ServeSearch:
    """What a search on one number of GPUs looked at and found."""

    gpus: int
    judge: ServeJudge
    looked_at: int
    too_large: Mapping[Shape, DoesNotFit]
    hopeless: tuple[ServeCandidate, ...]  # bounds alone break the limits
    served: tuple[Served, ...]  # simulated
    left: int  # candidates that may meet the limits and were not simulated: most of them cannot beat the best
    open: int = 0  # of those: what could, by its bound, be as good as the best
    stopped: str = ""  # why it ended early: "" or what ended it
    cut: Mapping[Shape, str] = field(default_factory=dict)  # layouts that the engine could not load, and why


def tokens_per_s(bounds: LoadBounds, judge: ServeJudge) -> float:
    """Output tokens per second that a load yields at most."""
    r = judge.load.requests
    span = max(bounds.span_s, r.starts_s[-1] - r.starts_s[0])
    return sum(r.output_tokens) / span if span > 0 else inf


def score_of(objective: str) -> Callable[[Served], float]:
    """What is to be as large as possible."""
    return {
        "goodput": lambda s: s.goodput_per_s / s.candidate.gpus,
        "cost": lambda s: s.output_tokens_per_s / s.candidate.gpus,
        "tokens_per_dollar": lambda s: s.output_tokens_per_s / s.candidate.gpus,
        "tokens_per_s_per_gpu": lambda s: s.output_tokens_per_s / s.candidate.gpus,
        "ttft": lambda s: -s.ttft_s,
        "tpot": lambda s: -s.tpot_s,
    }[objective]


def best_score(objective: str, c: ServeCandidate, b: LoadBounds, judge: ServeJudge) -> float:
    """What the score of a candidate cannot exceed."""
    if objective == "ttft":
        return -b.ttft_s
    if objective == "tpot":
        return -b.tpot_s
    rate = tokens_per_s(b, judge)
    if objective == "goodput":
        rate *= len(judge.load.requests) / sum(judge.load.requests.output_tokens)
    return rate / c.gpus


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for; `must`: deployments that break the limits are no answer. `given` fixes axes."""

    slo: Slo
    must: bool
    objective: str
    given: Given


def search_serving(
    scenario: Scenario, wanted: Wanted, effort: ServeEffort, progress: Progress | None = None
) -> ServeSearch:
    """Deployments on at most the scenario's own GPUs.

    ScenarioError when no layout is possible or none fits.
    """
    slo, must, objective = wanted.slo, wanted.must, wanted.objective
    judge = ServeJudge(scenario, slo)
    arch, gpus = judge.base.arch, judge.base.cluster.gpus
    on = f"{arch.name} on {counted(gpus, 'GPU')}"
    placement = judge.base.placement if scenario.placement is not None else BLOCKS
    every = shapes(arch, gpus, judge.base.cluster.domain, wanted.given, placement)
    if not every:
        raise ScenarioError(f"no layout of {on} divides its GPUs with the axes that were fixed; free one")
    cut = {s: why for s in every if (why := split_blocks(judge.job(s, judge.base.engine.max_batch))) is not None}
    if len(cut) == len(every):
        raise ScenarioError(f"no layout of {on} can be loaded: {next(iter(cut.values()))}")
    refused = {s: full for s in every if s not in cut and (full := judge.fits(s)) is not None}
    fitting = [s for s in every if s not in refused and s not in cut]
    if not fitting:
        raise ScenarioError(too_large(judge, refused))
    needs, moves = Needs(judge), Moves(judge, wanted.given)
    goes_on = bool(judge.load.rate_per_s or judge.load.askers)  # a queued load ends: all GPUs work on it
    whole = not (must and objective in _PARTIAL and goes_on) or set(wanted.given.get("idle", ())) == {"no"}
    found = [moves.start(c) for c in deployments(judge, fitting, wanted.given, whole, needs)]
    bounds: dict[ServeCandidate, LoadBounds] = {}
    for c in found:
        with suppress(DoesNotFit):  # with the features that are fixed
            bounds[c] = judge.bounds(c)
    if not bounds:
        raise ScenarioError(
            f"no deployment of {arch.name} uses all {gpus} GPUs with the axes that were fixed; free one"
        )
    hopeless = {c for c in bounds if must and bounds[c].attainable_share < slo.share}
    ranked = sorted((c for c in bounds if c not in hopeless), key=lambda c: _likely(objective, c, needs, judge, must))
    run = _Run(judge, wanted, effort, progress, spare=min(s.gpus for s in fitting) - 1)
    until = [ceil(effort.most * share) for share in (_SHARES if moves.open else _FIXED)]
    try:
        run.layouts(_in_turn(ranked), bounds, until[0])
        if not run.served:  # nothing can meet the limits as it is: features of the nearest, which say by how much
            nearest = sorted(hopeless, key=lambda c: (_excess(bounds[c], slo), c.title))[: effort.top]
            run.layouts(nearest, bounds, until[0], even_beaten=True)
        run.features(moves, until[1])
        if moves.open:
            for halves in (True, False):
                again = _again(run, moves, fitting, whole, halves)
                run.layouts(_in_turn(list(again)), again, until[1] + (until[2] - until[1]) * (2 - halves) // 2)
            run.features(moves, until[3])
    except KeyboardInterrupt:
        if not run.served:
            raise
        run.stopped = "interrupted"
    left = [c for c in ranked if c not in run.served]
    may = sum(not run.beaten(best_score(objective, c, bounds[c], judge)) for c in left)
    return ServeSearch(
        gpus, judge, len(bounds), refused, tuple(c for c in bounds if c in hopeless), tuple(run.served.values()),
        len(left), may, run.stopped, cut,
    )  # fmt: skip


@dataclass(slots=True)
class _Run:
    """The part of a search that simulates."""

    judge: ServeJudge
    wanted: Wanted
    effort: ServeEffort
    progress: Progress | None
    served: dict[ServeCandidate, Served] = field(default_factory=dict)
    spare: int = 0  # GPUs that no worker could use: leaving them out is no choice
    stopped: str = ""
    begun_s: float = field(default_factory=perf_counter)
    scores: list[float] = field(default_factory=list)  # of what is an answer, best first, at most `top`

    def layouts(
        self,
        candidates: Sequence[ServeCandidate],
        bounds: Mapping[ServeCandidate, LoadBounds],
        most: int,
        even_beaten: bool = False,
    ) -> None:
        """Simulate candidates in this order until there are `most`, without those that cannot beat the best."""
        for c in candidates:
            score = best_score(self.wanted.objective, c, bounds[c], self.judge)
            if len(self.served) >= most or self._late():
                break
            if c not in self.served and (even_beaten or not self.beaten(score)):
                self.simulate(c, bounds[c], "layouts")

    def beaten(self, score: float) -> bool:
        """Whether as many as are answered are better than a score."""
        return len(self.scores) == self.effort.top and score < self.scores[-1]

    def features(self, moves: Moves, most: int) -> None:
        """Change one thing at a time of the best few layouts, and keep what is better, until `most` are simulated."""
        starts: dict[str, Served] = {}
        for s in sorted(self.served.values(), key=self.rank, reverse=True):
            starts.setdefault(s.candidate.pair, s)
        for best in list(starts.values())[:_STARTS]:
            while (better := self._step(best, moves, most)) is not best:
                best = better

    def _step(self, best: Served, moves: Moves, most: int) -> Served:
        """The best after one round of all moves; `best` itself where none is better."""
        at = best
        for axis in moves.axes:
            for c in moves.of(at.candidate, axis):
                if len(self.served) >= most or self._late():
                    return best
                s = self.served.get(c) or self._tried(c, at)
                if s is not None and self.better(s, at, axis not in _ONLY_IF_IT_PAYS):
                    at = s
        return at

    def _tried(self, c: ServeCandidate, at: Served) -> Served | None:
        """A candidate simulated, unless it has no room or its bounds say that it cannot be better."""
        try:
            bounds = self.judge.bounds(c)
            hopeless = self.wanted.must and bounds.attainable_share < self.wanted.slo.share
            if hopeless or (
                self.meets(at) and best_score(self.wanted.objective, c, bounds, self.judge) < self.score(at)
            ):
                return None
            return self.simulate(c, bounds, "features")
        except (DoesNotFit, BadLayout):
            return None

    def _late(self) -> bool:
        minutes = self.effort.minutes
        late = minutes is not None and perf_counter() - self.begun_s > 60.0 * minutes and bool(self.served)
        self.stopped = self.stopped or (f"stopped after {minutes:g} minutes" if late else "")
        return late

    def simulate(self, c: ServeCandidate, bounds: LoadBounds, what: str) -> Served:
        """The asked load on a candidate."""
        s = self.judge.simulate(c, bounds)
        fewer = c.gpus < self.judge.base.cluster.gpus - self.spare
        best = max((self.score(one) for one in self.served.values() if self.meets(one)), default=-inf)
        if fewer and self.meets(s) and self.score(s) > best and not self.judge.steady(s):
            s = replace(s, lasts=False)
        self.served[c] = s
        if self.meets(s):
            self.scores = sorted([*self.scores, self.score(s)], reverse=True)[: self.effort.top]
        if self.progress is not None:
            self.progress(
                f"{what} on {counted(self.judge.base.cluster.gpus, 'GPU')}; {self._best()}",
                len(self.served),
                self.effort.most,
            )
        return s

    def _best(self) -> str:
        s = max(self.served.values(), key=self.rank)
        per_gpu = s.output_tokens_per_s / s.candidate.gpus
        return f"best {s.candidate.title}: {s.attained_share:.0%} within limits, {per_gpu:,.0f} tokens/s/GPU"

    def meets(self, s: Served) -> bool:
        """Whether it is an answer."""
        return not self.wanted.must or s.meets(self.wanted.slo)

    def score(self, s: Served) -> float:
        """By the objective."""
        return score_of(self.wanted.objective)(s)

    def rank(self, s: Served) -> tuple[bool, float, float]:
        """Larger is better: answers by score, others by the share within the limits."""
        room = headroom(s, self.wanted.slo)
        return (True, self.score(s), room) if self.meets(s) else (False, s.attained_share, room)

    def better(self, s: Served, at: Served, roomier: bool) -> bool:
        """Whether by more than a hair, or of equals with clearly more room; without `roomier` by a good deal."""
        (good, score, room), (was_good, was, was_room) = self.rank(s), self.rank(at)
        if good != was_good:
            return good
        hair = (_BETTER if roomier else _PAYS) * abs(was)
        return score > was + hair or (roomier and score > was - hair and room > was_room * (1.0 + _ROOMIER))


def headroom(s: Served, slo: Slo) -> float:
    """How many times over the tighter of both limits is kept at p90."""
    return min(slo.ttft_s / max(s.ttft_p90_s, 1e-9), slo.tpot_s / max(s.tpot_p90_s, 1e-9))


def _again(
    run: _Run, moves: Moves, fitting: Sequence[Shape], whole: bool, halves: bool
) -> dict[ServeCandidate, LoadBounds]:
    """Bounds of the likeliest layouts with the features of the best one found, likeliest first."""
    judge, wanted = run.judge, run.wanted
    best = max(run.served.values(), key=run.rank).candidate
    needs = Needs(judge, lambda s: moves.dressed(ServeCandidate(s, 1, best.max_batch), best, halves).features)
    found = deployments(judge, list(fitting), wanted.given, whole, needs, best.max_batch)
    found.sort(key=lambda c: _likely(wanted.objective, c, needs, judge, wanted.must))
    one = [c for c in found if c.prefill is None][: _AGAIN // 3]
    two = [c for c in found if c.prefill is not None][:_AGAIN]
    bounds: dict[ServeCandidate, LoadBounds] = {}
    for c in (moves.dressed(c, best, halves) for c in (*one, *two)):
        with suppress(DoesNotFit, BadLayout):
            b = judge.bounds(c)
            if not wanted.must or b.attainable_share >= wanted.slo.share:
                bounds[c] = b
    return bounds


def _in_turn(ranked: Sequence[ServeCandidate]) -> list[ServeCandidate]:
    """Replicas and pools in turn: an estimate may be wrong about one of them."""
    one = [c for c in ranked if c.prefill is None]
    two = [c for c in ranked if c.prefill is not None]
    return [c for c in chain.from_iterable(zip_longest(one, two)) if c is not None]


def _likely(objective: str, c: ServeCandidate, needs: Needs, judge: ServeJudge, must: bool) -> tuple[float, str, int]:
    """Smaller is likelier to win: by its estimate, what breaks a limit further behind."""
    pace = needs.of(c)
    over = max(
        1.0,
        pace.over(judge.slo.ttft_s, judge.slo.tpot_s) if must else pace.used_share if judge.load.rate_per_s else 1.0,
    )
    if objective in ("ttft", "tpot"):
        return (pace.ttft_s if objective == "ttft" else pace.tpot_s) * over**3, c.title, -c.max_batch
    rate = judge.load.rate_per_s if judge.load.rate_per_s and not judge.load.askers else pace.per_s
    return -rate / c.gpus / over**3, c.title, -c.max_batch


def _excess(b: LoadBounds, slo: Slo) -> float:
    return max(b.ttft_s / slo.ttft_s, b.tpot_s / slo.tpot_s)
