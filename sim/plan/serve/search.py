"""Search of deployments: memory and bounds prune, what may win is simulated in the order of its bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

from moesim.sim.plan.serve.bound import LoadBounds
from moesim.sim.plan.serve.judge import Served, ServeJudge, too_large
from moesim.sim.plan.serve.space import Given, ServeCandidate, Shape, deployments, shapes
from moesim.sim.plan.train.search import Progress
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import Scenario, ScenarioError
from moesim.sim.serve.slo import Slo

SERVE_OBJECTIVES = ("goodput", "cost", "tokens_per_dollar", "tokens_per_s_per_gpu", "ttft", "tpot")


@dataclass(frozen=True, slots=True)
class ServeEffort:
    """How far a search of deployments goes: until the `top` best are certain, or `most` are simulated. One process."""

    top: int = 5  # deployments that are answered
    most: int = 100  # simulated at most, on each size of the cluster

    def __post_init__(self) -> None:
        for name in ("top", "most"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ScenarioError(f"effort: {name}={value!r} must be a whole number of at least 1")


@dataclass(frozen=True, slots=True)
class ServeSearch:
    """What a search on one number of GPUs looked at and found."""

    gpus: int
    judge: ServeJudge
    looked_at: int
    too_large: Mapping[Shape, DoesNotFit]
    hopeless: tuple[ServeCandidate, ...]  # bounds alone break the limits
    served: tuple[Served, ...]  # simulated
    left: int  # candidates whose bound could not win any more


def tokens_per_s(bounds: LoadBounds, judge: ServeJudge) -> float:
    """Output tokens per second that a load yields at most."""
    r = judge.load.requests
    span = max(bounds.span_s, r.arrival_s[-1] - r.arrival_s[0])
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
    """Deployments on the scenario's own GPUs.

    ScenarioError when no layout is possible or none fits.
    """
    slo, must, objective = wanted.slo, wanted.must, wanted.objective
    judge = ServeJudge(scenario, slo)
    arch, gpus = judge.base.arch, judge.base.cluster.gpus
    every = shapes(arch, gpus, judge.base.cluster.domain, wanted.given, judge.base.placement)
    if not every:
        raise ScenarioError(f"no layout of {arch.name} divides {gpus} GPUs with the axes that were fixed; free one")
    refused = {s: why for s in every if (why := judge.fits(s)) is not None}
    fitting = [s for s in every if s not in refused]
    if not fitting:
        raise ScenarioError(too_large(judge, refused))
    candidates = list(deployments(judge.base, gpus, fitting, wanted.given))
    if not candidates:
        raise ScenarioError(
            f"no deployment of {arch.name} uses all {gpus} GPUs with the axes that were fixed; free one"
        )
    bounds = {c: judge.bounds(c) for c in candidates}
    hopeless = [c for c in candidates if must and bounds[c].attainable_share < slo.share]
    ranked = [(best_score(objective, c, bounds[c], judge), c) for c in candidates if c not in set(hopeless)]
    ranked.sort(key=lambda pair: (-pair[0], _promise(bounds[pair[1]], slo, judge), pair[1].title, -pair[1].max_batch))
    served: list[Served] = []
    score = score_of(objective)
    for number, (bound, c) in enumerate(ranked):
        best = sorted((score(s) for s in served if s.meets(slo) or not must), reverse=True)[: effort.top]
        beaten = len(best) == effort.top and bound < best[-1]
        if beaten or number >= effort.most:
            break
        if progress is not None:
            progress(f"simulating deployments of {gpus} GPUs", number, min(len(ranked), effort.most))
        served.append(judge.simulate(c, bounds[c]))
    if not served:  # nothing can meet the limits: the nearest ones say by how much
        nearest = sorted(hopeless, key=lambda c: (_excess(bounds[c], slo), c.title))[: effort.top]
        served = [judge.simulate(c, bounds[c]) for c in nearest]
    return ServeSearch(gpus, judge, len(candidates), refused, tuple(hopeless), tuple(served), len(ranked) - len(served))


def _promise(b: LoadBounds, slo: Slo, judge: ServeJudge) -> float:
    """Which of equal bounds comes first: what is nearer to none of the limits, nor to the end of its capacity."""
    stream = judge.load.requests.arrival_s[-1] - judge.load.requests.arrival_s[0]
    return _excess(b, slo) + (b.span_s / stream if stream > 0 else 0.0)


def _excess(b: LoadBounds, slo: Slo) -> float:
    return max(b.ttft_s / slo.ttft_s, b.tpot_s / slo.tpot_s)
