"""The comparison: the model as asked beside dense models, number by number."""

from __future__ import annotations

from moesim.hwmodels.power_and_money import JOULES_PER_KWH
from moesim.reports.page.dense import beside
from moesim.reports.page.section import Section
from moesim.reports.page.train_case import TrainCase
from moesim.reports.text import count, gib, seconds, three
from moesim.sim.model.params import active_parameters, parameters
from moesim.sim.train.prediction import Prediction


def against(case: TrainCase) -> Section:
    """Side by side; for a dense model, itself alone."""
    pairs = [("model as asked", case.asked), *((d.title, d.answer) for d in case.dense if d.answer is not None)]
    rows = [[title, *(cell(p) for _, p in pairs)] for title, cell in _ROWS]
    data = {
        "columns": [name for name, _ in pairs],
        "values": {name: numbers(p) for name, p in pairs},
        "time_ratios": {
            d.kind: None if d.answer is None else d.answer.step_time_s / case.asked.step_time_s for d in case.dense
        },
        "quality": next((d.quality.to_dict() for d in case.dense if d.quality is not None), None),
    }
    shown = {"columns": ["", *(name for name, _ in pairs)], "rows": rows, "note": _note(case)}
    return Section("against", "Against a dense model", lead(case), data, shown)


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


def lead(case: TrainCase) -> str:
    """What dense models cost beside it: first the one that could stand in its place."""
    if not case.dense:
        return f"{case.name} is dense: there is no other model to hold against it."
    own = case.asked
    return beside([
        (d, None, False) if d.answer is None
        else (d, d.answer.step_time_s / own.step_time_s, own.low_s <= d.answer.high_s and d.answer.low_s <= own.high_s)
        for d in case.dense
    ])  # fmt: skip


def _note(case: TrainCase) -> str:
    """How they were made and laid out, what the scaling laws warn of, and how sure the ratios are."""
    said = [f"{d.title}: {count(float(d.parameters))} parameters, {d.note}." for d in case.dense]
    said += [f"Warning: {w}." for d in case.dense if d.quality is not None for w in d.quality.warnings]
    if said:
        said.append("Part of the error is common to both runs. The batch, length and GPUs are the same for all.")
    return " ".join(said)
