"""A calibration session: measure what is missing from the sample table within a time budget, one crew after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from calibrate.measure.asks import Ask
from calibrate.measure.device import Machine
from calibrate.measure.plan import unmeasured
from calibrate.measure.samples import BadSamples, Measured, append, load_samples, mend
from calibrate.measure.workers import Answer, Crew, CrewFailed, measure_asks

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
        found = load_samples(table)
    except BadSamples as error:
        if "holds a header and no samples" in str(error):
            return []
        raise
    others = {s.machine for s in found} - {machine.name}
    if others:
        raise BadSamples(
            f"{table} holds samples of {', '.join(sorted(others))}, this machine is {machine.name}; give another --out"
        )
    return found


def measure(
    machine: Machine,
    plans: dict[int, Sequence[Ask]],
    budget_s: float,
    table: Path,
    device: str = "",
    progress: Progress | None = None,
) -> Outcome:
    """Measure the plan of every number of ranks; rows go to `table` as they come, and what it holds is not redone."""
    found = known_samples(table, machine)
    outcome = Outcome(found, resumed=len(found))
    done = {s.key for s in found}
    todo = {ranks: unmeasured(plan, done, ranks) for ranks, plan in plans.items()}
    total = sum(map(len, todo.values()))
    begin, seen = perf_counter(), 0
    for number, (ranks, asks) in enumerate(todo.items()):
        left_s = budget_s - (perf_counter() - begin)
        own_s = left_s / (len(todo) - number)
        asked = 0
        crew = crew_of(machine, ranks, device)
        try:
            for answer in measure_asks(asks, crew, own_s):
                asked, seen = asked + 1, seen + 1
                _keep(answer, crew, machine, table, outcome)
                if progress is not None:
                    progress(seen, total, answer.ask.key)
        except CrewFailed as error:
            outcome.failures.append(f"{ranks} ranks: {error}; calibrate again to go on")
        outcome.not_reached += len(asks) - asked
    return outcome


def _keep(answer: Answer, crew: Crew, machine: Machine, table: Path, outcome: Outcome) -> None:
    timing = answer.timing
    if timing is None:
        outcome.skipped[f"{answer.ask.op}/{answer.ask.phase}/{answer.ask.dtype} with {crew.ranks} ranks"] = (
            answer.reason
        )
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
