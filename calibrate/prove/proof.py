"""Measure the programs, predict them with a profile, and compare."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from moesim.calibrate.measure.clock import Timing, time_cpu, time_cuda
from moesim.calibrate.measure.session import Progress
from moesim.calibrate.measure.workers import Crew, run_crew, start_rank
from moesim.calibrate.prove.cases import Case
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.decode_step import decode_step
from moesim.sim.train.job import resolve
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prices import StepPrices

ROUNDS = 3
_EACH_S = 0.5  # of one program and round
_WARM = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """One program: seconds measured and predicted, error and the noise between rounds in percent."""

    name: str
    kind: str
    mode: str
    ranks: int
    measured_s: float
    predicted_s: float
    error_pct: float
    noise_pct: float
    breakdown_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class Proof:
    """All programs of a proof."""

    programs: tuple[Proved, ...]

    @property
    def median_error_pct(self) -> float:
        """Median of the absolute errors."""
        return median(abs(p.error_pct) for p in self.programs)

    @property
    def worst_error_pct(self) -> float:
        """The largest of them."""
        return max(abs(p.error_pct) for p in self.programs)

    @property
    def noise_pct(self) -> float:
        """Median noise between rounds."""
        return median(p.noise_pct for p in self.programs)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "programs": [asdict(p) for p in self.programs],
            "median_error_pct": self.median_error_pct,
            "worst_error_pct": self.worst_error_pct,
            "noise_pct": self.noise_pct,
        }


def _work(rank: int, crew: Crew, rendezvous: str, cases: Sequence[Case], rounds: int, out: Any) -> None:
    """Body of a worker: every program in every round, all ranks together."""
    from moesim.calibrate.measure.collectives import time_together
    from moesim.calibrate.prove.programs import Program

    bench = start_rank(rank, crew, rendezvous)
    for _ in range(rounds):
        for number, case in enumerate(cases):
            program = Program(case, rank, bench.device)
            for i in range(_WARM):
                program.step(i)
            if crew.ranks > 1:
                timing = time_together(program.step, _EACH_S, bench.cuda)
            else:
                timing = (time_cuda if bench.cuda else time_cpu)(program.step, _EACH_S)
            if rank == 0:
                out.put((number, timing))
    if rank == 0:
        out.put(None)
    if crew.ranks > 1:
        import torch.distributed as dist

        dist.barrier()
        dist.destroy_process_group()


def run_programs(
    cases: Sequence[Case], crew: Crew, rounds: int, progress: Progress | None = None
) -> list[list[Timing]]:
    """Timings of every case, one a round."""
    timings: list[list[Timing]] = [[] for _ in cases]
    answers: Iterator[tuple[int, Timing]] = run_crew(_work, crew, list(cases), rounds)
    for done, (number, timing) in enumerate(answers, start=1):
        timings[number].append(timing)
        if progress is not None:
            progress(done, rounds * len(cases), cases[number].name)
    return timings


def predict_case(case: Case, profile: str) -> tuple[float, dict[str, float]]:
    """Seconds and what they are spent on, by the ordinary simulator."""
    with tempfile.TemporaryDirectory() as folder:
        scenario = case.scenario(profile, Path(folder))
        if case.mode == "train":
            answer = predict_train(scenario, check_memory=False)
            return answer.step_time_s, dict(answer.breakdown_s)
        resolved = resolve(parse_scenario(scenario))
        time = decode_step(StepPrices(resolved.job, resolved.kernels, resolved.tuning()), case.kv_len)
        return time.duration_s, dict(time.by_category)


def prove(
    cases: Sequence[Case],
    crew: Crew,
    profile: str,
    rounds: int = ROUNDS,
    progress: Progress | None = None,
    run: Callable[..., list[list[Timing]]] = run_programs,
) -> Proof:
    """Predict first, then measure: what was measured cannot reach the prediction."""
    predictions = [predict_case(case, profile) for case in cases]
    timings = run(cases, crew, rounds, progress)
    return Proof(tuple(_compare(c, p, t) for c, p, t in zip(cases, predictions, timings, strict=True)))


def _compare(case: Case, prediction: tuple[float, dict[str, float]], timings: Sequence[Timing]) -> Proved:
    predicted_s, breakdown_s = prediction
    seconds = [t.seconds for t in timings]
    measured_s = min(seconds)  # the calmest round, as for samples
    return Proved(
        name=case.name,
        kind=case.kind,
        mode=case.mode,
        ranks=case.ranks,
        measured_s=measured_s,
        predicted_s=predicted_s,
        error_pct=100.0 * (predicted_s / measured_s - 1.0),
        noise_pct=100.0 * (median(seconds) / measured_s - 1.0),
        breakdown_s=breakdown_s,
    )
