"""The plan: layouts that are better than the one that was asked for, and how obvious choices fare."""

from __future__ import annotations

from moesim.reports.figures.plan import plan_figure
from moesim.reports.page.section import Section
from moesim.reports.page.timeline import picture
from moesim.reports.page.train_case import TrainCase
from moesim.reports.text import gib, seconds, three
from moesim.sim.plan.train.plan import Option, Plan

_ALIKE = 0.005  # steps nearer than this are called equal


def layouts(case: TrainCase) -> Section:
    """Best layouts as bars, and the best of every obvious choice."""
    if case.plan is None:
        return Section("layouts", "Better layouts", "Not searched: the report was asked for without a plan.", {}, {})
    plan, asked = case.plan, case.asked.step_time_s
    longest = max([asked, *(o.finalist.step_time_s for o in plan.options)])
    rows = [{"title": "as asked", "width": asked / longest, "value": seconds(asked), "note": "", "asked": True}]
    rows += [_row(o, longest) for o in plan.options]
    shown = {
        "rows": rows,
        "columns": ("choice", "its best layout", "step", "beside the best of all"),
        "picture": picture(plan_figure(plan)) if len(plan.pareto) > 1 else "",
        "choices": [
            [v.choice, v.candidate, "" if v.step_time_s is None else f"{v.about}{seconds(v.step_time_s)}", v.why]
            for v in plan.verdicts
        ],
        "numbers": (2,),
        "notes": [*plan.notes, searched(plan, case.search)],
    }
    return Section("layouts", "Better layouts", lead(case), plan.to_dict(), shown)


def lead(case: TrainCase) -> str:
    """How far the asked layout is from the best one found."""
    if case.plan is None:
        return ""
    best = case.plan.options[0]
    gain = case.asked.step_time_s / best.finalist.step_time_s - 1.0
    where = "of those beside the asked one" if case.search == "near" else "of all"
    if gain < _ALIKE:
        return f"No layout {where} is predicted to be faster by more than {_ALIKE:.1%}."
    return f"The best layout {where} is predicted to be {gain:.1%} faster: {best.finalist.candidate.title}."


def _row(o: Option, longest: float) -> dict[str, object]:
    usd = "" if o.usd_per_million_tokens is None else f"${three(o.usd_per_million_tokens)} per million tokens; "
    return {
        "title": o.finalist.candidate.title,
        "width": o.finalist.step_time_s / longest,
        "value": seconds(o.finalist.step_time_s),
        "note": f"{gib(o.finalist.memory_bytes)} GiB; {usd}{o.why}",
        "asked": False,
    }


def searched(plan: Plan, search: str) -> str:
    """How many layouts were looked at."""
    looked, run = (
        sum(s.looked_at for s in plan.searches),
        sum(s.simulated for s in plan.searches),
    )
    what = "with the asked degrees halved, kept and doubled" if search == "near" else "of all degrees"
    return (
        f"{looked:,} layouts {what} were judged by bounds, {run:,} of them simulated; `moesim plan` searches further."
    )
