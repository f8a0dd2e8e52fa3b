"""A whole training run as a table: days, money, energy, failures, and where its assumptions come from."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moesim.files.words import counted
from moesim.reports.tables.train import LOST_TITLES
from moesim.reports.text import binary, count, seconds, three
from moesim.sim.train.whole_run import TrainingRun, sources


def run_report(run: TrainingRun) -> RenderableType:
    """Everything a person asks about a run."""
    title = f"the whole run: {count(run.tokens)} tokens, {counted(run.steps, 'step')} on {counted(run.gpus, 'GPU')}"
    table = Table(box=box.ROUNDED, show_header=False, title=title, title_justify="left")
    days, compute = run.wall_s / 86400.0, run.compute_s / 86400.0
    table.add_row("time", f"{three(days)} days ({three(compute)} of them compute: goodput {run.goodput:.1%})")
    table.add_row("", f"{between(run, 'days')} days")
    table.add_row("GPU-hours", f"{run.gpu_hours:,.0f}, with {run.spare_gpus:,} spare GPUs; {between(run, 'gpu_hours')}")
    if run.usd is not None:
        rent = f"${run.usd:,.0f} at ${three(run.usd_per_gpu_hour or 0.0)} per GPU-hour"
        table.add_row("rent", f"{rent}; {between(run, 'usd', '$')}")
    for name in run.lost:
        table.add_row(LOST_TITLES[name], lost_text(run, name))
    table.add_row("energy", energy_text(run))
    table.add_row("failures", f"{three(run.failures)} expected, one every {seconds_or_hours(run.mtbf_s)}")
    table.add_row("checkpoints", f"{binary(run.checkpoint_bytes)}, {seconds(run.checkpoint_s)} each, every "
                                 f"{seconds_or_hours(run.checkpoint_interval_s)} (Daly)")  # fmt: skip
    return Group(table, *(Text(f"- {name}: {text}") for name, text in sources().items()))


def energy_text(run: TrainingRun) -> str:
    """What the GPUs draw, and what the building's meter sees."""
    return (
        f"{three(run.energy_mwh)} MWh of the GPUs; {three(run.facility_energy_mwh)} MWh with hosts and cooling "
        f"({between(run, 'facility_energy_mwh')}), {three(run.co2_tonnes)} t CO2"
    )


def lost_text(run: TrainingRun, name: str) -> str:
    """'costs 4.1 days, $132,000': what the run would be shorter without it; negative where it would be longer."""
    lost = run.lost[name]
    verb = "costs" if lost["days"] >= 0.0 else "saves"
    money = f", ${abs(lost['usd']):,.0f}" if "usd" in lost else ""
    return f"{verb} {three(abs(lost['days']))} days{money}"


def between(run: TrainingRun, name: str, unit: str = "") -> str:
    """'p10 47.1, p90 66.0': what one run in ten stays below, and one in ten goes beyond."""
    values = run.intervals[name]
    return f"p10 {unit}{three(values['p10'])}, p90 {unit}{three(values['p90'])}"


def seconds_or_hours(value: float) -> str:
    """'25 minutes', '7.2 hours'."""
    return f"{three(value / 3600.0)} hours" if value >= 3600.0 else f"{three(value / 60.0)} minutes"
