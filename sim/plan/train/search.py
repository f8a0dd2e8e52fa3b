"""Search: judge every candidate by its bounds, simulate in the order of those until no bound can win any more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from heapq import nsmallest

from moesim.files.words import counted
from moesim.hwmodels.units import GIB
from moesim.sim.plan.train.judge import Finalist, Judge
from moesim.sim.plan.train.space import Candidate, candidates, default_space
from moesim.sim.question.paths import whole_paths
from moesim.sim.question.scenario import Scenario, ScenarioError
from moesim.sim.train.workers import crew

Progress = Callable[[str, int, int], None]  # what is being done, how much of it, of how much

Task = tuple[Candidate, float, bool]  # with its bound, and whether its ranks are drawn
Run = Callable[[Sequence[Task]], list[Finalist]]
_BATCH = 16  # candidates simulated before the best so far is looked at again, whatever the number of workers


@dataclass(frozen=True, slots=True)
class Effort:
    """How far a search of layouts goes: until the `top` best are certain, or `most` are simulated."""

    top: int = 10  # layouts that are answered
    most: int = 1000  # simulated at most, on each size of the cluster
    workers: int = 1  # processes
    dask: str = ""  # address of a scheduler to run on instead

    def __post_init__(self) -> None:
        for name in ("top", "most", "workers"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ScenarioError(f"effort: {name}={value!r} must be a whole number of at least 1")


@dataclass(frozen=True, slots=True)
class Search:
    """What a search on one number of GPUs looked at, and what it found, best first."""

    gpus: int
    looked_at: int  # candidates that the model, the GPUs and the batch allow
    may_fit: int  # of those, by the bound on memory
    simulated: int
    finalists: tuple[Finalist, ...]  # that fit, fastest first
    too_large: tuple[Finalist, ...]  # simulated ones that do not fit after all
    left_bound_s: float  # best bound of those not simulated; infinite when none is left
    judged: Mapping[Candidate, tuple[float, float]]  # bound on seconds (infinite: does not fit) and on bytes


def search(
    scenario: Scenario,
    given: Mapping[str, Iterable[object]],
    effort: Effort,
    progress: Progress | None = None,
) -> Search:
    """The fastest layouts of a training scenario on its own GPUs; `given` fixes axes of the search (see space.AXES).

    ScenarioError when nothing is left: the message says what would fit.
    """
    judge = Judge(scenario)
    space = default_space(judge.base, judge.open_stack.dispatcher, given)
    layouts = list(candidates(judge.base, space))
    if not layouts:
        raise ScenarioError(
            f"no layout of {judge.base.arch.name} divides {counted(judge.base.cluster.gpus, 'GPU')} and global_batch="
            f"{judge.base.global_batch}; change the GPUs, the batch or the axes that were fixed"
        )
    judged = _judge_all(judge, layouts, progress)
    ranked = sorted((c for c in layouts if judged[c][0] < float("inf")), key=lambda c: (judged[c][0], c.title))
    if not ranked:
        raise ScenarioError(_nothing_fits(judge, judged))
    simulated, left = _simulate(scenario, judge, [(c, judged[c][0]) for c in ranked], effort, progress)
    fitting = sorted((f for f in simulated if f.fits), key=lambda f: (f.step_time_s, f.candidate.title))
    if not fitting:
        raise ScenarioError(_nothing_fits(judge, judged))
    return Search(
        gpus=judge.base.cluster.gpus,
        looked_at=len(layouts),
        may_fit=len(ranked),
        simulated=len(simulated),
        finalists=tuple(fitting),
        too_large=tuple(f for f in simulated if not f.fits),
        left_bound_s=left,
        judged=judged,
    )


def _judge_all(
    judge: Judge, layouts: Sequence[Candidate], progress: Progress | None
) -> dict[Candidate, tuple[float, float]]:
    usable = judge.base.cluster.gpu.usable_bytes
    judged = {}
    for number, candidate in enumerate(layouts):
        if progress is not None and number % 250 == 0:
            progress("judging layouts", number, len(layouts))
        size = judge.memory_bytes(candidate)
        judged[candidate] = (judge.bound_s(candidate) if size <= usable else float("inf"), size)
    return judged


def _nothing_fits(judge: Judge, judged: Mapping[Candidate, tuple[float, float]]) -> str:
    least = min(judged, key=lambda c: (judged[c][1], c.title))
    usable = judge.base.cluster.gpu.usable_bytes
    return (
        f"none of {len(judged):,} layouts fits {judge.base.cluster.gpus} x {judge.base.cluster.gpu.name}: the "
        f"smallest, {least.title}, needs more than {judged[least][1] / GIB:.1f} of {usable / GIB:.1f} GiB; use more "
        "GPUs, a larger GPU or a smaller model"
    )


def _simulate(
    scenario: Scenario,
    judge: Judge,
    ranked: Sequence[tuple[Candidate, float]],
    effort: Effort,
    progress: Progress | None,
) -> tuple[list[Finalist], float]:
    """Finalists in the order of their bounds.

    Candidates are estimated: one rank, with the rows that the busiest is expected to have, stands for all, and a long
    step is continued from two shorter ones. Those that are answered run as they are; where that makes the best slower
    than what was left, it goes on. Returns the finalists and the best bound left.
    """
    done: list[Finalist] = []
    number, last = 0, min(effort.most, len(ranked))
    with _crew(scenario, judge, effort) as run:
        sure = effort.top
        while True:
            while number < last and _may_win(done, ranked[number][1], sure):
                if progress is not None:
                    progress(f"simulating layouts{_so_far(done)}", number, last)
                batch = ranked[number : min(last, number + _BATCH)]
                done += run([(candidate, bound, False) for candidate, bound in batch])
                number += len(batch)
            done = _as_they_are(done, run, effort.top, progress)
            sure = 1  # from here on only what may be the best of all
            if number >= last or not _may_win(done, ranked[number][1], sure):
                break
    return done, ranked[number][1] if number < len(ranked) else float("inf")


def _may_win(done: Sequence[Finalist], bound_s: float, top: int) -> bool:
    """Whether a candidate of that bound may be among the best."""
    best = nsmallest(top, (f.step_time_s for f in done if f.fits))
    return len(best) < top or bound_s < best[-1]


def _so_far(done: Sequence[Finalist]) -> str:
    best = min((f.step_time_s for f in done if f.fits), default=None)
    return "" if best is None else f", best so far {best:.3g} s"


def _as_they_are(done: list[Finalist], run: Run, top: int, progress: Progress | None) -> list[Finalist]:
    """The finalists, the best of them run as they are: every rank drawn, no step continued from shorter ones.

    As many as are answered, and on until the best of all is one of those.
    """
    finalists = {f.candidate: f for f in done}
    while True:
        fitting = sorted((f for f in finalists.values() if f.fits), key=lambda f: (f.step_time_s, f.candidate.title))
        missing = max(0, top - sum(f.drawn for f in fitting)) or (1 if fitting and not fitting[0].drawn else 0)
        estimated = [f for f in fitting if not f.drawn][:missing]
        if not estimated:
            return list(finalists.values())
        if progress is not None:
            progress(f"running answers as they are{_so_far(fitting)}", top - missing, top)
        finalists |= {f.candidate: f for f in run([(f.candidate, f.bound_s, True) for f in estimated])}


@lru_cache(maxsize=2)
def _judge_of(scenario: str) -> Judge:
    """The judge of a worker process, made when its first candidate arrives."""
    return Judge(Scenario.model_validate_json(scenario))


def _one(scenario: str, task: Task) -> Finalist:
    return _judge_of(scenario).simulate(*task)


@contextmanager
def _crew(scenario: Scenario, judge: Judge, effort: Effort) -> Iterator[Run]:
    """Simulates lists of candidates, here, in worker processes or on a Dask cluster."""
    if effort.workers == 1 and not effort.dask:
        yield lambda tasks: [judge.simulate(*task) for task in tasks]
        return
    asked = whole_paths(scenario.model_dump(mode="json", exclude_unset=True))
    one = partial(_one, json.dumps(asked))
    with crew(effort.workers, effort.dask) as those:
        yield lambda tasks: those.all(one, tasks)
