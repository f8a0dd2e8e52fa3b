"""The whole training run behind the step: days, money, energy, failures."""

from __future__ import annotations

from moesim.reports.page.section import Section
from moesim.reports.tables.run import between, energy_text, lost_text, seconds_or_hours
from moesim.reports.tables.train import LOST_TITLES
from moesim.reports.text import binary, count, seconds, three
from moesim.sim.train.whole_run import TrainingRun, sources


def whole_run(run: TrainingRun) -> Section:
    """From tokens to days and dollars."""
    days = run.wall_s / 86400.0
    money = "" if run.usd is None else f" and ${run.usd / 1e6:,.2f} million"
    likely = run.intervals["days"]
    lead = (
        f"{count(run.tokens)} tokens take {three(days)} days{money}; in eight runs of ten {three(likely['p10'])} to "
        f"{three(likely['p90'])} days. {run.goodput:.1%} of the time survives failures and checkpoints."
    )
    rows = [
        ["time", f"{three(days)} days, {three(run.compute_s / 86400.0)} of them compute; {between(run, 'days')}"],
        ["GPU-hours", f"{run.gpu_hours:,.0f}, with {run.spare_gpus:,} spare GPUs; {between(run, 'gpu_hours')}"],
        *([] if run.usd is None else [["rent", f"${run.usd:,.0f}; {between(run, 'usd', '$')}"]]),
        *([LOST_TITLES[name], lost_text(run, name)] for name in run.lost),
        ["energy", energy_text(run)],
        ["failures", f"{three(run.failures)} expected, one every {seconds_or_hours(run.mtbf_s)}"],
        ["checkpoints", f"{binary(run.checkpoint_bytes)}, {seconds(run.checkpoint_s)} each, every "
                        f"{seconds_or_hours(run.checkpoint_interval_s)} (Daly)"],
    ]  # fmt: skip
    notes = [f"{name}: {text}" for name, text in sources().items()]
    return Section("run", "The whole run", lead, run.to_dict(), {"rows": rows, "notes": notes})
