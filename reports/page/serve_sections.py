"""Sections about a served load: against the dense twin, over time, where the GPUs' time goes, what fills a GPU."""

from __future__ import annotations

from moesim.hwmodels.power_and_money import gpu_hours, usd_per_million_output_tokens
from moesim.reports.figures.palette import MEMORY
from moesim.reports.figures.serve import serve_figure
from moesim.reports.page.dense import beside
from moesim.reports.page.section import Section
from moesim.reports.page.serve_case import ServeCase, tokens_at_most
from moesim.reports.page.timeline import picture
from moesim.reports.tables.serve import PART_TITLES, deployment_text
from moesim.reports.text import count, gib, seconds, three
from moesim.sim.model.params import active_parameters, parameters
from moesim.sim.serve.prediction import ServePrediction

_COLOURS = {
    "experts": "#0072B2", "gemm": "#0072B2", "attention": "#0072B2", "head": "#0072B2", "ssm": "#0072B2",
    "draft": "#0072B2",
    "elementwise": "#56B4E9", "router": "#56B4E9", "tp_comm": "#D55E00", "ep_comm": "#D55E00", "pp_comm": "#D55E00",
    "pp_wait": "#D55E00", "prefill": "#009E73", "idle": "#BDBDBD",
}  # fmt: skip
_LEGEND = (
    ("decode: tensor-core work", "#0072B2"), ("decode: memory-bound work", "#56B4E9"),
    ("communication", "#D55E00"), ("passes with prompts", "#009E73"), ("host and rest", "#3C3C3C"), ("idle", "#BDBDBD"),
)  # fmt: skip
_KINDS = {
    "weights": MEMORY["weights"],
    "adapters": MEMORY["logits"],
    "work": MEMORY["reserve"],
    "cache_bytes": MEMORY["optimizer"],
}
_TITLES = {"cache_bytes": "room for keys and values", "work": "work space"}


def usd_at_most(p: ServePrediction) -> float | None:
    """Dollars per million output tokens at that rate; by the one definition of hwmodels/power_and_money.py."""
    hours = gpu_hours(p.resolved.deployment.paid_gpus, 1.0)
    return usd_per_million_output_tokens(p.resolved.price, hours, tokens_at_most(p))


def usd_as_asked(p: ServePrediction) -> float | None:
    """Dollars per million output tokens under the load that was asked, as `moesim serve` says it."""
    usd = p.cost.get("usd_per_million_output_tokens")
    return None if usd is None else float(usd)


def _money(usd: float | None) -> str:
    return "no price" if usd is None else f"${three(usd)}"


def _price(p: ServePrediction) -> str:
    return _money(None if p.resolved.price is None else p.resolved.price.usd_per_gpu_hour)


_ROWS = (
    ("parameters", lambda p: count(parameters(p.resolved.deployment.job.arch))),
    (
        "of them used by a token",
        lambda p: count(active_parameters(p.resolved.deployment.job.arch).with_input_embedding),
    ),
    ("deployment", deployment_text),
    ("first token, mean", lambda p: seconds(p.ttft_s.mean)),
    ("each further token, mean", lambda p: seconds(p.tpot_s.mean)),
    ("output tokens/s, at most", lambda p: three(tokens_at_most(p))),
    ("dollars per GPU-hour", _price),
    ("dollars per million output tokens, as asked", lambda p: _money(usd_as_asked(p))),
    ("dollars per million output tokens, at most of them", lambda p: _money(usd_at_most(p))),
    ("weights of a GPU", lambda p: f"{gib(p.memory['weights'])} GiB"),
)


def against_served(case: ServeCase) -> Section:
    """Side by side; for a dense model, itself alone."""
    pairs = [("model as asked", case.asked), *((d.title, d.answer) for d in case.dense if d.answer is not None)]
    rows = [[title, *(cell(p) for _, p in pairs)] for title, cell in _ROWS]
    data = {
        "values": {name: _numbers(p) for name, p in pairs},
        "quality": next((d.quality.to_dict() for d in case.dense if d.quality is not None), None),
    }
    said = [f"{d.title}: {count(float(d.parameters))} parameters, {d.note}." for d in case.dense]
    said += [f"Warning: {w}." for d in case.dense if d.quality is not None for w in d.quality.warnings]
    note = " ".join([*said, "Load, engine and GPUs are the same for all."]) if said else ""
    shown = {"columns": ["", *(name for name, _ in pairs)], "rows": rows, "note": note}
    return Section("against", "Against a dense model", against_lead(case), data, shown)


def _numbers(p: ServePrediction) -> dict[str, float | None]:
    arch = p.resolved.deployment.job.arch
    return {
        "parameters": float(parameters(arch)),
        "active_parameters": float(active_parameters(arch).with_input_embedding),
        "ttft_s": p.ttft_s.mean,
        "tpot_s": p.tpot_s.mean,
        "output_tokens_per_s_at_most": tokens_at_most(p),
        "usd_per_gpu_hour": None if p.resolved.price is None else p.resolved.price.usd_per_gpu_hour,
        "usd_per_million_output_tokens": usd_as_asked(p),
        "usd_per_million_output_tokens_at_most": usd_at_most(p),
    }


def against_lead(case: ServeCase) -> str:
    """One or two sentences."""
    if not case.dense:
        return f"{case.name} is dense: there is no other model to hold against it."
    own = tokens_at_most(case.asked)
    return beside([
        (d, None, False) if d.answer is None else (d, own / tokens_at_most(d.answer), _overlap(case.asked, d.answer))
        for d in case.dense
    ])  # fmt: skip


def _overlap(one: ServePrediction, other: ServePrediction) -> bool:
    """Whether the intervals of their highest rates overlap: as wide as those of the load's."""
    ends = []
    for p in (one, other):
        known, most = p.intervals["output_tokens_per_s"], tokens_at_most(p)
        ends.append((most * known.low / p.output_tokens_per_s, most * known.high / p.output_tokens_per_s))
    return ends[0][0] <= ends[1][1] and ends[1][0] <= ends[0][1]


def over_time(case: ServeCase) -> Section:
    """Latencies, the front of this deployment, batch and cache over time."""
    p = case.asked
    slo = p.resolved.ask.slo
    lead = (
        f"{p.requests:,} requests; half of the first tokens come within {seconds(p.ttft_s.p50)}, 99 % within "
        f"{seconds(p.ttft_s.p99)}; {p.attained_share:.0%} of the requests are within "
        f"{slo.ttft_s:g} s and {slo.tpot_s * 1e3:g} ms a token."
    )
    data = {"ttft_s": p.ttft_s.to_dict(), "tpot_s": p.tpot_s.to_dict(), "e2e_s": p.e2e_s.to_dict(), "label": p.label}
    shown = {
        "picture": picture(serve_figure(p, experts=False)),
        "alt": f"latencies, front, batch and cache of {case.name}",
    }
    return Section("timeline", "The load over time", lead, data, shown)


def served_time(case: ServeCase) -> Section:
    """One bar per part, largest first."""
    shares, twin = case.asked.utilisation, case.twin.utilisation if case.twin else {}
    longest = max([*shares.values(), *twin.values()])
    bars = []
    for part in sorted({*shares, *twin}, key=lambda k: (-shares.get(k, 0.0), -twin.get(k, 0.0), k)):
        own, other = shares.get(part, 0.0), twin.get(part)
        if max(own, other or 0.0) < 0.004:
            continue
        bars.append({
            "title": PART_TITLES.get(part, part),
            "colour": _COLOURS.get(part, "#3C3C3C"),
            "width": own / longest,
            "value": f"{own:.0%}",
            "twin_width": None if other is None else other / longest,
            "twin_value": "" if other is None else f"{other:.0%}",
        })  # fmt: skip
    first = [PART_TITLES.get(k, k) for k, _ in sorted(shares.items(), key=lambda kv: -kv[1])[:2]]
    values = sorted(shares.values(), reverse=True)
    lead = f"{values[0]:.0%} of the GPUs' time goes to {first[0]}, {values[1]:.0%} to {first[1]}."
    shown = {"bars": bars, "legend": list(_LEGEND), "twin": case.twin is not None, "rest": ""}
    return Section("spent", "Where the GPUs' time goes", lead, {"utilisation": dict(shares)}, shown)


def served_memory(case: ServeCase) -> Section:
    """One stacked bar of the fullest GPU, for the twin another."""
    pairs = [("as asked", case.asked)] + ([("twin", case.twin)] if case.twin else [])
    rows = []
    usable = case.asked.resolved.deployment.job.cluster.gpu.usable_bytes
    for title, p in pairs:
        parts = [(_TITLES.get(k, k), c, max(0.0, p.memory.get(k, 0.0)) / usable) for k, c in _KINDS.items()]
        rows.append({"title": title, "parts": parts, "value": f"{gib(sum(p.memory.values()))} GiB"})
    p = case.asked
    lead = (
        f"Weights take {gib(p.memory['weights'])} of {gib(usable)} GiB, {gib(p.memory['cache_bytes'])} GiB are left "
        f"for keys and values; the load fills {p.kv_use:.0%} of those at most."
    )
    used = [(_TITLES.get(k, k), c) for k, c in _KINDS.items() if any(p.memory.get(k, 0.0) > 0 for _, p in pairs)]
    shown = {"rows": rows, "limit": 1.0, "limit_text": f"{gib(usable)} GiB usable", "legend": used, "left_out": 0}
    return Section("held", "Memory by kind", lead, {"memory": dict(p.memory), "kv_use": p.kv_use}, shown)
