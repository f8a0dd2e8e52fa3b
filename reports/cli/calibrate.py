"""`moesim calibrate`: teach moesim a machine, or what others measured of one, and prove what it then knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moesim.reports.cli.outputs import check_outputs

if TYPE_CHECKING:
    from moesim.calibrate.measure.device import Machine
    from moesim.calibrate.measure.session import Progress

_QUICK_S = 20.0  # for measuring; processes start and fits run beside it


def calibrate(  # noqa: PLR0913  # one argument per option of the command
    inputs: Annotated[list[Path] | None, typer.Argument(help="Files for --from.", metavar="[FILES]...")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda:0; default: the best there is.")] = "",
    plan: Annotated[Path | None, typer.Option(help="Also measure the shapes of this scenario.")] = None,
    minutes: Annotated[float, typer.Option(help="Time budget for measuring.", min=0.05, max=600.0)] = 10.0,
    out: Annotated[Path, typer.Option(help="Profile to write; samples go beside it.")] = Path("my-machine.json"),
    ranks: Annotated[
        int, typer.Option(help="Processes at once; 0: one, and two on a CPU (not with --quick).", min=0, max=64)
    ] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A rough profile in half a minute.")] = False,
    source: Annotated[
        str, typer.Option("--from", help="aiconfigurator, nccl-tests, kineto, nsight, csv or rows: no measuring.")
    ] = "",
    system: Annotated[str, typer.Option(help="GPU of --from, such as h200-sxm; default: as the file names it.")] = "",
    per_host: Annotated[int, typer.Option(help="Ranks a host, where logs of --from do not say it.", min=0)] = 0,
    scenario: Annotated[Path | None, typer.Option(help="Scenario of the runs of --from rows, for logs.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A cell that logs of --from rows lack: gpu=H100.")
    ] = None,
    prove: Annotated[bool, typer.Option("--prove", help="Measure whole programs and compare.")] = False,
    profile: Annotated[Path | None, typer.Option(help="Profile to prove; default: --out.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw predicted against measured (.png, .svg or .pdf).")] = None,
    rows: Annotated[Path | None, typer.Option(help="Write proved training runs for `moesim validate`.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> int:
    """Measure this machine with torch, fit a profile, and prove it on programs that it never saw."""

    check_outputs([], [*(inputs or ()), plan, profile if prove else None], [None if prove else out, figure, rows])
    if source:
        if source == "rows":
            return _corrections(list(inputs or ()), scenario, settings or [], out, json)
        return _from(source, list(inputs or ()), system, per_host, out, json)
    if prove:
        return _prove(profile or out, device, max(1, ranks), quick, figure, rows, json)
    return _measure(device, plan, _QUICK_S if quick else minutes * 60.0, out, ranks, quick, json)


def _measure(device: str, plan: Path | None, budget_s: float, out: Path, ranks: int, quick: bool, json: bool) -> int:
    from dataclasses import asdict
    from json import dumps

    from moesim.calibrate.measure.device import find_machine
    from moesim.calibrate.measure.plan import CPU, CUDA, default_plan
    from moesim.calibrate.measure.samples import load_samples
    from moesim.calibrate.measure.scenario_plan import scenario_asks
    from moesim.calibrate.measure.session import measure
    from moesim.calibrate.own.profile import make_own_profile, write_profile
    from moesim.calibrate.own.sources import machine_file
    from moesim.files.whole import write_text, writing
    from moesim.reports.tables.calibrate import calibrate_report, profile_summary
    from moesim.reports.text import console, note, print_json

    machine = find_machine(device)
    _say_if_busy(machine)
    both = ranks == 0 and machine.device == "cpu" and not quick
    counts = [1, min(2, machine.cores)] if both else [1, max(1, ranks)]
    plans = {n: default_plan(machine.device, n, quick or plan is not None) for n in dict.fromkeys(counts)}
    if plan is not None:
        asks, large = scenario_asks(plan, (CPU if machine.device == "cpu" else CUDA).most_flops)
        plans = {n: [*planned, *asks] for n, planned in plans.items()}
        for line in large:
            note(f"skipped: {line}")
    table = out.with_suffix(".samples.csv")
    write_text(machine_file(table), dumps(asdict(machine), indent=1) + "\n")
    with writing(table), _bar("measuring") as progress:
        outcome = measure(machine, plans, budget_s, table, 1 if quick else 2, device, progress)
    for label, reason in sorted(outcome.skipped.items()):
        note(f"skipped: {label}: {reason}")
    for failure in outcome.failures:
        note(f"failed: {failure}")
    made = make_own_profile(load_samples(table), machine, table)
    write_profile(made, out)
    summary = profile_summary(made) | {
        "profile": str(out), "samples": len(outcome.samples), "resumed": outcome.resumed,
        "not_reached": outcome.not_reached, "skipped": outcome.skipped, "failures": outcome.failures,
    }  # fmt: skip
    if json:
        print_json(summary)
    else:
        console().print(calibrate_report(summary))
    note(f"profile: {out}; samples: {table}; next: moesim calibrate --prove --profile {out}")
    return 0


def _from(source: str, given: list[Path], system: str, per_host: int, out: Path, json: bool) -> int:
    import sys
    from contextlib import redirect_stdout

    from moesim.calibrate.own.bad_source import BadSource
    from moesim.calibrate.own.profile import write_profile
    from moesim.calibrate.own.sources import from_nccl_logs, from_samples, from_tables, from_trace
    from moesim.reports.tables.calibrate import calibrate_report, profile_summary
    from moesim.reports.text import console, note, print_json

    takes_files = ("nccl-tests", "rccl-tests", "kineto", "nsight", "csv", "rows")
    if source not in ("aiconfigurator", *takes_files):
        raise BadSource(f"--from {source[:40]!r} is not known; use aiconfigurator, {', '.join(takes_files)}")
    inputs = _spread(given)
    if source in takes_files and not inputs:
        raise BadSource(f"--from {source} reads files; name at least one")
    with redirect_stdout(sys.stderr):  # the fits tell of themselves; stdout is for the result
        made = {
            "aiconfigurator": lambda: from_tables(system),
            "nccl-tests": lambda: from_nccl_logs(inputs, system, per_host),
            "rccl-tests": lambda: from_nccl_logs(inputs, system, per_host),
            "kineto": lambda: from_trace(inputs, system, per_host, "kineto"),
            "nsight": lambda: from_trace(inputs, system, per_host, "nsight"),
            "csv": lambda: from_samples(inputs[0]),
        }[source]()
    write_profile(made.raw, out)
    summary = profile_summary(made.raw) | {"profile": str(out), "read": list(made.notes)}
    if json:
        print_json(summary)
    else:
        console().print(calibrate_report(summary))
    note(f"profile: {out}; use it as `profile: {out}` in a scenario")
    return 0


def _spread(given: list[Path]) -> list[Path]:
    """Files as given; a pattern that the shell did not spread (rank*.json) stands for all that fit it, in order."""
    found: list[Path] = []
    for path in given:
        fits = sorted(path.parent.glob(path.name)) if "*" in path.name and not path.exists() else []
        found += fits or [path]
    return found


def _corrections(given: list[Path], scenario: Path | None, settings: list[str], out: Path, json: bool) -> int:
    """How far the user's own measured runs are from their predictions, by deployment."""
    from moesim.calibrate.own.bad_source import BadSource
    from moesim.calibrate.own.deployments import learn
    from moesim.calibrate.rows.measured.read import load_measured, settings_asked
    from moesim.reports.tables.calibrate import corrections_report
    from moesim.reports.text import console, note, print_json
    from moesim.sim.train.own_runs import write_own_runs

    if not given:
        raise BadSource("--from rows reads files; name at least one: a CSV of runs or training logs")
    loaded = [load_measured(path, scenario, settings_asked(settings)) for path in _spread(given)]
    kept = learn([each.file for each in loaded])
    for each in loaded:
        for line in each.notes:
            note(f"{each.file.name}: {line}")
    write_own_runs(kept, out)
    if json:
        print_json({"own_runs": [each.to_dict() for each in kept], "file": str(out)})
    else:
        console().print(corrections_report(kept))
    note(f"corrections: {out}; use them as `corrections: {out}` in a scenario")
    return 0


def _prove(
    profile: Path, device: str, ranks: int, quick: bool, figure: Path | None, rows: Path | None, json: bool
) -> int:
    from moesim.calibrate.measure.device import find_machine
    from moesim.calibrate.measure.session import crew_of
    from moesim.calibrate.prove.cases import Scale, cases
    from moesim.calibrate.prove.proof import prove
    from moesim.calibrate.prove.proved_rows import write_proved_rows
    from moesim.hwmodels.machine import load_machine
    from moesim.hwmodels.profile import NoFit
    from moesim.reports.tables.calibrate import proof_report
    from moesim.reports.text import console, note, print_json

    if figure is not None:
        from moesim.reports.figures.files import check_format

        check_format(figure)
    machine = find_machine(device)
    known = load_machine(str(profile), ranks)
    if known.gpu != machine.name:
        raise NoFit(f"profile {profile} is of {known.gpu}, this machine is {machine.name}; calibrate here first")
    _say_if_busy(machine)
    scale = Scale(ranks) if machine.device == "cpu" else Scale(ranks, "bf16", 4)
    programs = cases(scale, quick)
    with _bar("proving") as progress:
        proof = prove(programs, crew_of(machine, ranks, device), str(profile), 1 if quick else 3, progress)
    if rows is not None:
        write_proved_rows(programs, proof, str(profile), rows)
        note(f"rows: {rows}; read them with moesim validate {rows}")
    if json:
        print_json(proof.to_dict())
    else:
        console().print(proof_report(proof))
    if figure is not None:
        from moesim.reports.figures.calibrate import write_proof_figure

        write_proof_figure(proof, figure)
        note(f"figure: {figure}")
    return 0


def _say_if_busy(machine: Machine) -> None:
    from moesim.calibrate.measure.device import others_load
    from moesim.reports.text import note

    load = others_load(machine)
    if load > 0.5 * machine.cores:
        note(f"note: other processes use this machine (load {load:.1f} on {machine.cores} cores): times will be noisy")


class _Bar:
    """A progress bar on stderr where a person looks at it."""

    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import Progress as RichProgress

        screen = Console(stderr=True)
        self._bar = RichProgress(console=screen, transient=True, disable=not screen.is_terminal)
        self._task = self._bar.add_task(label, total=None)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _show(self, done: int, total: int, what: str) -> None:
        self._bar.update(self._task, completed=done, total=total, description=what[:40])


def _bar(label: str) -> _Bar:
    return _Bar(label)
