"""The comparison: the model as asked beside its dense twin, number by number."""

from __future__ import annotations

from moesim.hwmodels.power_and_money import JOULES_PER_KWH
from moesim.reports.page.section import Section
from moesim.reports.page.train_case import TrainCase
from moesim.reports.text import count, gib, seconds, three
from moesim.sim.model.params import active_parameters, parameters
from moesim.sim.train.prediction import Prediction

_EVEN = 0.02  # closer than this nobody should call it a difference


def against(case: TrainCase) -> Section:
    """Side by side; for a dense model, itself alone."""
    pairs = [("model as asked", case.asked)] + ([("dense twin", case.twin)] if case.twin else [])
    rows = [[title, *(cell(p) for _, p in pairs)] for title, cell in _ROWS]
    data = {
        "columns": [name for name, _ in pairs],
        "values": {name: numbers(p) for name, p in pairs},
        "time_ratio": case.asked.step_time_s / case.twin.step_time_s if case.twin else None,
    }
    shown = {"columns": ["", *(name for name, _ in pairs)], "rows": rows, "note": _note(case)}
    return Section("against", "Against a dense model", _lead(case), data, shown)


def numbers(p: Prediction) -> dict[str, float | None]:
    """What is compared, in SI units."""
    arch, usd = p.resolved.job.arch, p.cost.get("usd_per_million_tokens")
    return {
        "parameters": float(parameters(arch)),
        "active_parameters": float(active_parameters(arch).with_input_embedding),
        "step_time_s": p.step_time_s,
        "low_s": p.low_s,
        "high_s": p.high_s,
        "tokens_per_s_per_gpu": p.tokens_per_s_per_gpu,
        "mfu": p.mfu,
        "peak_memory_bytes": max(m.total for m in p.memory),
        "usd_per_million_tokens": None if usd is None else float(usd),
        "joules_per_million_tokens": float(p.cost["energy_joules_per_step"]) / p.tokens_per_step * 1e6,
    }


def _kwh(p: Prediction) -> str:
    return three(float(numbers(p)["joules_per_million_tokens"] or 0.0) / JOULES_PER_KWH)


def _money(p: Prediction) -> str:
    usd = p.cost.get("usd_per_million_tokens")
    return "no price" if usd is None else f"${three(float(usd))}"


def _memory(p: Prediction) -> str:
    return f"{gib(max(m.total for m in p.memory))} GiB" + (
        "" if p.memory_fits else f", has {gib(p.usable_bytes)}: does not fit"
    )


_ROWS = (
    ("parameters", lambda p: count(parameters(p.resolved.job.arch))),
    ("of them used by a token", lambda p: count(active_parameters(p.resolved.job.arch).with_input_embedding)),
    ("step", lambda p: seconds(p.step_time_s)),
    ("90 % interval", lambda p: f"{seconds(p.low_s)} to {seconds(p.high_s)}"),
    ("tokens/s per GPU", lambda p: f"{p.tokens_per_s_per_gpu:,.0f}"),
    ("MFU", lambda p: f"{p.mfu:.1%}"),
    ("dollars per million tokens", _money),
    ("kWh per million tokens, GPUs alone", _kwh),
    ("memory of the fullest GPU", _memory),
)


def _lead(case: TrainCase) -> str:
    if case.twin is None:
        return f"{case.name} is dense: there is no twin to hold against it."
    ratio = case.asked.step_time_s / case.twin.step_time_s
    more = parameters(case.asked.resolved.job.arch) / parameters(case.twin.resolved.job.arch)
    held = f"It holds {more:.1f} times the parameters for the same work per token."
    if abs(ratio - 1.0) < _EVEN:
        return f"A step takes as long as that of a dense model with equal active parameters. {held}"
    word = "longer" if ratio > 1.0 else "less"
    return f"A step takes {abs(ratio - 1.0):.0%} {word} than that of a dense model with equal active parameters. {held}"


def _note(case: TrainCase) -> str:
    if case.twin is None:
        return ""
    overlap = case.asked.low_s <= case.twin.high_s and case.twin.low_s <= case.asked.high_s
    sure = (
        "The intervals overlap, but most of their width is common to both runs."
        if overlap else "The intervals do not overlap."
    )  # fmt: skip
    return (
        "The twin has the same layers, width and batch on the same GPUs and pipeline; every expert layer became one "
        f"dense block, so that a token touches as many parameters. {sure} What quality each reaches is left out."
    )
