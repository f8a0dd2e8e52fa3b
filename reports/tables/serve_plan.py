"""The answer of a deployment search as tables: the best, the front over loads, how obvious choices fared."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moesim.reports.text import seconds, three
from moesim.sim.plan.serve.plan import ServePlan


def serve_plan_report(plan: ServePlan, title: str) -> RenderableType:
    """Everything a person asks about the answer."""
    looked, run = sum(s.looked_at for s in plan.searches), sum(len(s.served) for s in plan.searches)
    large, hopeless = sum(len(s.too_large) for s in plan.searches), sum(len(s.hopeless) for s in plan.searches)
    cut = sum(len(s.cut) for s in plan.searches)
    unloadable = f"{cut} cannot be loaded (FP8 blocks cut by tp or etp); " if cut else ""
    features = sum(s.candidate.features.title != "" for search in plan.searches for s in search.served)
    limits = f"; limits: {plan.slo.text}" if plan.must else ""
    return Group(
        Text(title, style="bold"),
        Text(f"{large} layouts do not fit; {unloadable}{looked:,} deployments judged by bounds, {hopeless:,} of "
             f"them cannot meet the limits, {run:,} simulated ({features:,} with other features); best first by "
             f"{plan.objective}{limits}"),
        *([Text(f"$ per GPU-hour: {plan.price.text}")] if plan.price else []),
        _options(plan),
        _front(plan),
        _verdicts(plan),
        *([Text(f"the best as a scenario: {plan.options[0].served.candidate.scenario}")] if plan.options else []),
        *(Text(f"- {note}") for note in plan.notes),
    )  # fmt: skip


def _table(title: str, left: tuple[str, ...], right: tuple[str, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right")
    return table


def _options(plan: ServePlan) -> Table:
    columns = ("GPUs", "TTFT p90", "TPOT p90", "in limits", "sustains", "tok/s/GPU", "$/Mtok out")
    table = _table("best", ("deployment",), columns)
    table.add_column("why", overflow="fold")
    for o in plan.options:
        s = o.served
        usd = "" if s.usd_per_million_output_tokens is None else three(s.usd_per_million_output_tokens)
        rate = "" if o.sustained_per_s is None else f"{three(o.sustained_per_s)} req/s"
        pace = (seconds(s.ttft_p90_s), seconds(s.tpot_p90_s), f"{s.attained_share:.0%}", rate)
        per_gpu = three(s.output_tokens_per_s / s.candidate.gpus)
        table.add_row(s.candidate.title, f"{s.candidate.gpus:,}", *pace, per_gpu, usd, o.why)
    return table


def _front(plan: ServePlan) -> Table:
    title = "the front under 1 to 1,024 clients: nothing gives users and GPUs more at once"
    table = _table(title, ("deployment",), ("GPUs", "clients", "tokens/s/user", "tokens/s/GPU", "first token"))
    for p in plan.front:
        cells = (f"{p.gpus:,}", f"{p.clients:,}", three(p.tokens_per_s_per_user), three(p.tokens_per_s_per_gpu))
        table.add_row(p.deployment, *cells, seconds(p.ttft_s))
    return table


def _verdicts(plan: ServePlan) -> Table:
    table = _table("the best of every obvious choice", ("choice", "its best deployment", "beside the best of all"), ())
    for v in plan.verdicts:
        table.add_row(v.choice, v.candidate, v.why)
    return table
