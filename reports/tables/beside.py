"""Jobs beside each other on one fabric, as a table: what each takes alone and beside the others, who fills uplinks."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moesim.files.words import counted
from moesim.reports.text import seconds
from moesim.sim.train.shared_fabric import JobBeside, SharedFabric, UplinkUse


def beside_report(answer: SharedFabric) -> RenderableType:
    """Everything that a person wants to see of jobs beside each other."""
    cluster = answer.jobs[0].resolved.job.cluster
    jobs = len(answer.jobs)
    title = Text(f"{counted(jobs, 'job')} on {counted(answer.gpus, 'GPU')} of {cluster.fabric}, ", style="bold")
    title.append(f"oversubscription {cluster.oversubscription:g}, hosts {answer.spread}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("job")
    for name in ("GPUs", "by itself", "alone here", "beside", "lost"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("busiest uplinks")
    for number, each in enumerate(answer.jobs, 1):
        job = each.resolved.job
        times = (seconds(s) for s in (each.by_itself_s, each.alone_s, each.beside_s))
        table.add_row(f"{number} {job.arch.name}", str(job.cluster.gpus), *times, _lost(each), _uplinks(each.busiest))
    gap = Text("")
    notes = [Text(f"- {note}", style="dim") for note in answer.assumptions]
    means = "by itself: on a fabric of its own; alone here: in its place, others idle; beside: while all others run"
    return Group(title, gap, table, gap, Text(means, style="dim"), *notes)


def _lost(job: JobBeside) -> str:
    return f"{job.lost_share:.1%}" if job.lost_s else "nothing"


def _uplinks(use: UplinkUse | None) -> str:
    """'leaf 0 and 3 alike: 63 % full (job 1 31 %, job 2 31 %)'."""
    if use is None:
        return "no other job"
    leaves = f"leaf {use.first_leaf}" + (f" and {use.leaves - 1} alike" if use.leaves > 1 else "")
    who = ", ".join(f"job {n} {share:.0%}" for n, share in enumerate(use.by_job, 1) if share > 0.0)
    return f"{leaves}: {use.share:.0%} full ({who})"
