"""A chapter about a training scenario: question, answer in a sentence, and the sections behind it."""

from __future__ import annotations

from moesim.calibrate.record.comparable import Alike, comparable_training
from moesim.calibrate.record.validate import family_of
from moesim.reports.page.against import against
from moesim.reports.page.against import lead as against_lead
from moesim.reports.page.crossings import crossings
from moesim.reports.page.experts import experts
from moesim.reports.page.held import held
from moesim.reports.page.layouts import layouts
from moesim.reports.page.layouts import lead as layouts_lead
from moesim.reports.page.matters import lead as matters_lead
from moesim.reports.page.matters import matters
from moesim.reports.page.record import record_section
from moesim.reports.page.section import Chapter, Section, Tile
from moesim.reports.page.spent import spent
from moesim.reports.page.timeline import timeline
from moesim.reports.page.train_case import TrainCase
from moesim.reports.page.trust import assumptions_section, sources_section, sureness_section
from moesim.reports.page.whole_run import whole_run
from moesim.reports.tables.train import batch_line, layout_line
from moesim.reports.text import gib, seconds, three
from moesim.sim.train.prediction import Prediction


def train_chapter(case: TrainCase, key: str) -> Chapter:
    """All of it."""
    p = case.asked
    sections: list[Section] = [
        against(case),
        *_flips(case),
        spent(case),
        held(case),
        timeline(case),
        *experts(case),
        matters(case.whatif),
        layouts(case),
    ]
    if case.run is not None:
        sections.append(whole_run(case.run))
    record = record_section(comparable_training(_alike(p)), ("step_time_s",))
    sources = sources_section(p.sources, sum(p.step.by_source.values()))
    sections += [sureness_section({"step": p.sureness}), sources, record, assumptions_section(p.assumptions)]
    points = [spent(case).lead, matters_lead(case.whatif), layouts_lead(case), record.lead]
    return Chapter(
        key=key,
        title=f"Training {case.name} on {p.resolved.job.cluster.gpus:,} {p.resolved.job.cluster.gpu.name}",
        question=_question(case),
        answer=_answer(case),
        points=tuple(point for point in points if point),
        tiles=_tiles(case),
        sections=tuple(sections),
    )


def _flips(case: TrainCase) -> list[Section]:
    """Break-even points, where there is a twin and time to look."""
    return [crossings(case.file, "train")] if case.twin is not None and case.search != "none" else []


def _alike(p: Prediction) -> Alike:
    job = p.resolved.job
    return Alike(family_of(job.arch.name), job.cluster.gpu.generation, job.stack.name, job.cluster.gpus)


def _question(case: TrainCase) -> str:
    job = case.asked.resolved.job
    dense = ", and would a dense model be cheaper" if case.dense else ""
    return (
        f"What does it cost to train {case.name} on {job.cluster.gpus:,} {job.cluster.gpu.name} "
        f"({layout_line(case.asked)}; {batch_line(case.asked)}; stack {job.stack.name}){dense}?"
    )


def _answer(case: TrainCase) -> str:
    p = case.asked
    usd = p.cost.get("usd_per_million_tokens")
    money = "" if usd is None else f", ${three(float(usd))} per million tokens"
    text = (
        f"A step takes {seconds(p.step_time_s)} (90 % interval {three(p.low_s)} to {seconds(p.high_s)}): "
        f"{p.tokens_per_s:,.0f} tokens per second{money}."
    )
    return f"{text} {against_lead(case)}" if case.dense else text


def _tiles(case: TrainCase) -> tuple[Tile, ...]:
    p = case.asked
    usd = p.cost.get("usd_per_million_tokens")
    worst = max(m.total for m in p.memory)
    tiles = [
        Tile("step", seconds(p.step_time_s), f"{three(p.low_s)} to {seconds(p.high_s)} (90 %)"),
        Tile("tokens/s per GPU", f"{p.tokens_per_s_per_gpu:,.0f}", f"{p.tokens_per_s:,.0f} together"),
        Tile("MFU", f"{p.mfu:.1%}", f"{p.model_flops_per_s_per_gpu / 1e12:,.0f} TFLOP/s per GPU"),
        Tile(
            "memory", f"{gib(worst)} GiB", f"of {gib(p.usable_bytes)} GiB" + ("" if p.memory_fits else ": does not fit")
        ),
    ]
    if usd is not None:
        tiles.append(
            Tile(
                "per million tokens",
                f"${three(float(usd))}",
                f"at ${three(float(p.cost['usd_per_gpu_hour']))} a GPU-hour",
            )
        )
    for dense in case.dense:
        if dense.answer is not None:
            ratio = dense.answer.step_time_s / p.step_time_s
            tiles.append(Tile(dense.title, f"{ratio:.2f} x", "the time per token"))
    return tuple(tiles)
