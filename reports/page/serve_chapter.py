"""A chapter about a serving scenario: question, answer in a sentence, and the sections behind it."""

from __future__ import annotations

from pathlib import Path

from moesim.calibrate.record.comparable import Alike, comparable_serving
from moesim.calibrate.record.validate import family_of
from moesim.reports.figures.plan import serve_plan_figure
from moesim.reports.page.crossings import crossings
from moesim.reports.page.experts import served_experts
from moesim.reports.page.matters import lead as matters_lead
from moesim.reports.page.matters import matters
from moesim.reports.page.record import record_section
from moesim.reports.page.section import Chapter, Section, Tile
from moesim.reports.page.serve_case import ServeCase, tokens_at_most
from moesim.reports.page.serve_sections import (
    against_lead,
    against_served,
    over_time,
    served_memory,
    served_time,
    usd_at_most,
)
from moesim.reports.page.timeline import picture
from moesim.reports.page.trust import assumptions_section, sources_section, sureness_section
from moesim.reports.tables.serve import deployment_text
from moesim.reports.text import gpus, seconds, three
from moesim.sim.plan.serve.plan import ServeOption, ServePlan
from moesim.sim.plan.serve.space import ServeCandidate, Shape
from moesim.sim.serve.band import TITLES
from moesim.sim.serve.prediction import ServePrediction

_METRICS = ("tpot_ms", "ttft_ms", "output_tokens_per_s")


def serve_chapter(case: ServeCase, file: Path, key: str) -> Chapter:
    """All of it."""
    p = case.asked
    record = record_section(comparable_serving(_alike(p)), _METRICS)
    plan = deployments(case)
    spent = served_time(case)
    flips = [crossings(file, "serve")] if case.twin is not None and case.search != "none" else []
    sections = (
        against_served(case), *flips, spent, served_memory(case), over_time(case), *served_experts(case),
        matters(case.whatif), plan,
        sureness_section({title: p.sureness[name] for name, title in TITLES.items()}),
        sources_section(p.sources, None), record, assumptions_section(p.assumptions),
    )  # fmt: skip
    d = p.resolved.deployment
    return Chapter(
        key=key,
        title=f"Serving {case.name} on {d.gpus:,} {d.job.cluster.gpu.name}",
        question=_question(case),
        answer=_answer(case),
        points=(spent.lead, matters_lead(case.whatif), plan.lead, record.lead),
        tiles=_tiles(case),
        sections=sections,
    )


def _alike(p: ServePrediction) -> Alike:
    d = p.resolved.deployment
    return Alike(family_of(d.job.arch.name), d.job.cluster.gpu.generation, d.job.engine.name, d.gpus)


def _question(case: ServeCase) -> str:
    p = case.asked
    r = p.resolved.workload
    load = f"{r.clients:,} clients" if r.clients else f"{three(r.rate_per_s)} requests/s" if r.rate_per_s else "a queue"
    mean_in = p.run.log.prompt_total / p.run.log.served
    mean_out = p.run.log.output_total / p.run.log.served
    dense = ", and would a dense model be cheaper" if case.dense else ""
    return (
        f"How does {case.name} serve {load} of {mean_in:,.0f} input and {mean_out:,.0f} output tokens on "
        f"{deployment_text(p)} with {p.resolved.deployment.job.engine.title}, what does it cost{dense}?"
    )


def _answer(case: ServeCase) -> str:
    p = case.asked
    usd = usd_at_most(p)
    money = "" if usd is None else f", ${three(usd)} per million at that rate"
    text = (
        f"The first token comes after {seconds(p.ttft_s.mean)}, each further one after {seconds(p.tpot_s.mean)}; "
        f"at most {three(tokens_at_most(p))} output tokens per second can be served{money}."
    )
    return f"{text} {against_lead(case)}" if case.dense else text


def _tiles(case: ServeCase) -> tuple[Tile, ...]:
    p = case.asked
    first, pace = p.intervals["ttft_s"], p.intervals["tpot_s"]
    usd = usd_at_most(p)
    tiles = [
        Tile("first token", seconds(p.ttft_s.mean), f"{seconds(first.low)} to {seconds(first.high)} (90 %)"),
        Tile("each token", seconds(p.tpot_s.mean), f"{seconds(pace.low)} to {seconds(pace.high)} (90 %)"),
        Tile("tokens/s per GPU", three(p.output_tokens_per_s_per_gpu), f"of this load, {p.label}"),
        Tile(
            "requests/s at most", three(p.capacity_requests_per_s), f"{three(p.goodput_per_s)} now, within the limits"
        ),
    ]
    if usd is not None:
        tiles.append(Tile("per million output tokens", f"${three(usd)}", f"at the highest rate{_price(p)}"))
    for dense in case.dense:
        if dense.answer is not None:
            ratio = tokens_at_most(p) / tokens_at_most(dense.answer)
            tiles.append(Tile(dense.title, f"{ratio:.2f} x", "the cost per token"))
    return tuple(tiles)


def _price(p: ServePrediction) -> str:
    price = p.resolved.price
    return "" if price is None else f" and ${three(price.usd_per_gpu_hour)} a GPU-hour"


def deployments(case: ServeCase) -> Section:
    """The best deployments, the front, obvious choices."""
    plan, title = case.plan, "Better deployments"
    if plan is None:
        return Section("layouts", title, case.plan_note, {}, {})
    kept = any(o.sustained_per_s for o in plan.options)
    value, unit = (_sustained, "req/s") if kept else (_rate, "tok/s/GPU")
    asked = _asked(case, plan) if kept else None
    longest = max([asked or 0.0, *(value(o) for o in plan.options)]) or 1.0
    rows = [_row("as asked", asked, longest, unit, "", True)] if asked else []
    for o in plan.options:
        s = o.served.candidate
        rows.append(_row(s.title, value(o), longest, unit, f"{gpus(s.gpus)}; {o.why}", False))
    looked, run = sum(s.looked_at for s in plan.searches), sum(len(s.served) for s in plan.searches)
    where = "" if case.search == "full" else ", pools only where they were asked for"
    notes = [f"{looked:,} deployments were judged by bounds{where}, {run:,} simulated; `moesim plan` searches further."]
    shown = {
        "rows": rows,
        "columns": ("choice", "its best deployment", "beside the best of all"),
        "choices": [[v.choice, v.candidate, v.why] for v in plan.verdicts],
        "picture": picture(serve_plan_figure(plan)) if len(plan.front) > 1 else "",
        "numbers": (),
        "notes": notes,
    }
    return Section("layouts", title, _lead(plan, asked), plan.to_dict(), shown)


def _row(title: str, value: float, longest: float, unit: str, note: str, asked: bool) -> dict[str, object]:
    return {
        "title": title,
        "width": value / longest,
        "value": f"{three(value)} {unit}",
        "note": note,
        "asked": asked,
    }


def _asked(case: ServeCase, plan: ServePlan) -> float | None:
    """The rate that the asked deployment sustains within the limits; None for pools."""
    d = case.asked.resolved.deployment
    if d.prefill is not None:
        return None
    lay = d.job.layout
    own = ServeCandidate(Shape(lay.tp, lay.pp, lay.ep, lay.dp), d.replicas, d.job.engine.max_batch)
    return plan.searches[0].judge.sustained_per_s(own)


def _lead(plan: ServePlan, asked: float | None) -> str:
    best = plan.options[0]
    name = f"{best.served.candidate.title} on {gpus(best.served.candidate.gpus)}"
    if not best.sustained_per_s:
        return f"Best of those found: {name}, {three(_rate(best))} output tokens/s per GPU."
    kept = f"{three(best.sustained_per_s)} requests/s within the limits ({plan.slo.text})"
    return f"Best of those found: {name} sustains {kept}" + (f"; as asked it is {three(asked)}." if asked else ".")


def _sustained(o: ServeOption) -> float:
    return o.sustained_per_s or 0.0


def _rate(o: ServeOption) -> float:
    return o.served.output_tokens_per_s / o.served.candidate.gpus
