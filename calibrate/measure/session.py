"""A calibration session: measure what is missing from the sample table within a time budget, crew after crew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from moesim.calibrate.measure.asks import Ask
from moesim.calibrate.measure.device import Machine
from moesim.calibrate.measure.plan import unmeasured
from moesim.calibrate.measure.samples import BadSamples, Measured, append, load_samples, mend
from moesim.calibrate.measure.workers import Answer, Crew, CrewFailed, measure_asks

ROUNDS = 2  # every question is asked so often, at times far apart: the calmest answer counts
Progress = Callable[[int, int, str], None]  # (measured, planned, what)


@dataclass(slots=True)
class Outcome:
    """What a session came to. `skipped` maps a question to why it has no sample."""

    samples: list[Measured]
    resumed: int = 0  # samples that were there before
    skipped: dict[str, str] = field(default_factory=dict)
    not_reached: int = 0  # questions that the budget left unasked
    failures: list[str] = field(default_factory=list)


def crew_of(machine: Machine, ranks: int, device: str = "") -> Crew:
    """So many ranks on this machine, sharing its cores."""
    return Crew(
        ranks=ranks, threads=machine.threads(ranks), device=device or machine.device, cache_bytes=machine.cache_bytes
    )


def known_samples(table: Path, machine: Machine) -> list[Measured]:
    """Samples that an earlier session left behind. BadSamples when they are another machine's."""
    mend(table)
    if not table.exists() or table.stat().st_size == 0:
        return []
    try:
        samples = load_samples(table)
    except BadSamples as error:
        if "holds a header and no samples" in str(error):
            return []
        raise
    others = {s.machine for s in samples} - {machine.name}
    if others:
        raise BadSamples(
            f"{table} holds samples of {', '.join(sorted(others))}, this machine is {machine.name}; give another --out"
        )
    return samples


def measure(
    machine: Machine,
    plans: Mapping[int, Sequence[Ask]],
    budget_s: float,
    table: Path,
    rounds: int = ROUNDS,
    device: str = "",
    progress: Progress | None = None,
) -> Outcome:
    """Measure the plan of every number of ranks; rows go to `table` as they come, and what it holds is not redone."""
    known = known_samples(table, machine)
    outcome = Outcome(known, resumed=len(known))
    turns = [(number, ranks) for number in range(1, rounds + 1) for ranks in plans]
    total = sum(len(_left(outcome, plans[ranks], ranks, number)) for number, ranks in turns[-len(plans) :])
    begin, seen = perf_counter(), 0
    for position, (number, ranks) in enumerate(turns):
        asks = _left(outcome, plans[ranks], ranks, number)
        left_s = budget_s - (perf_counter() - begin)
        crew, asked = crew_of(machine, ranks, device), 0
        try:
            for answer in measure_asks(asks, crew, left_s / (len(turns) - position)):
                asked, seen = asked + 1, seen + 1
                _keep(answer, crew, machine, table, outcome)
                if progress is not None:
                    progress(seen, total * rounds, answer.ask.key)
        except CrewFailed as error:
            outcome.failures.append(f"{ranks} ranks: {error}; calibrate again to go on")
        if number == 1:
            outcome.not_reached += len(asks) - asked
    return outcome


def _left(outcome: Outcome, plan: Sequence[Ask], ranks: int, rounds: int) -> list[Ask]:
    """What the plan still lacks; a question that was skipped is not asked again."""
    asks = unmeasured(plan, Counter(s.key for s in outcome.samples), ranks, rounds)
    return [a for a in asks if _label(a, ranks) not in outcome.skipped]


def _label(a: Ask, ranks: int) -> str:
    return f"{a.op}/{a.phase}/{a.dtype} with {ranks} ranks"


def _keep(answer: Answer, crew: Crew, machine: Machine, table: Path, outcome: Outcome) -> None:
    timing = answer.timing
    if timing is None:
        outcome.skipped[_label(answer.ask, crew.ranks)] = answer.reason
        return
    row = Measured(
        ask=answer.ask,
        seconds=timing.seconds,
        spread=timing.spread,
        repeats=timing.repeats,
        disturbed_share=timing.disturbed_share,
        ranks=crew.ranks,
        threads=crew.threads,
        backend=answer.backend,
        machine=machine.name,
        torch=machine.torch,
        measured_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    outcome.samples.append(row)
    append(table, [row])
