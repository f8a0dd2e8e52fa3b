"""Predict one row of a measured serving run with the ordinary simulator: a value per metric, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from moesim.calibrate.rows.arrivals import arrival_of
from moesim.calibrate.rows.cells import Row, text_of, whole_of
from moesim.calibrate.rows.serving import serving_row
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.accounts import latencies_of, span_s, spread
from moesim.sim.serve.job import ResolvedServe
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.simulate import PricedJobs, ServeRun, simulate
from moesim.sim.software.stack import Tuning

_TIGHT = {"kv_fraction": 0.97, "work_bytes": 1.5e9}  # assumed: as tight as an engine can be set
# metric of a row -> whose interval it has
BAND_OF = {
    "tpot_ms": "tpot_s",
    "ttft_ms": "ttft_s",
    "output_tokens_per_s": "output_tokens_per_s",
    "requests_per_s": "output_tokens_per_s",
    "output_tokens_per_s_per_gpu": "output_tokens_per_s",
    "derived_tokens_per_s_per_gpu": "output_tokens_per_s",
}


@dataclass(frozen=True, slots=True)
class ServingRowResult:
    """A served row: values by metric column, in its unit."""

    resolved: ResolvedServe
    run: ServeRun
    tuning: Tuning
    values: dict[str, float]


def predict_serving_row(
    row: Row, overrides: Mapping[str, float] | None = None, priced: PricedJobs | None = None
) -> ServingRowResult:
    """The row served; ValueErrors (scenario, layout, memory, fit) carry the reason of a refusal.

    `priced`: kernels priced before, to be used again.
    """
    raw, assumed = serving_row(row)
    resolved = resolve_serve(parse_scenario(raw))
    tuning = resolved.tuning(overrides)
    try:
        run = simulate(resolved.deployment, resolved.workload, tuning, priced)
    except DoesNotFit:  # the row ran: its engine was given more of the memory
        raw["serve"]["engine"].update(_TIGHT)
        assumed = [*assumed, f"{', '.join(f'{k} = {v:g}' for k, v in _TIGHT.items())} (needed to fit)"]
        resolved = resolve_serve(parse_scenario(raw))
        run = simulate(resolved.deployment, resolved.workload, tuning, priced)
    stated = replace(resolved, assumptions=(*assumed, *resolved.assumptions))
    return ServingRowResult(stated, run, tuning, _values(row, run, resolved.deployment.gpus))


def _values(row: Row, run: ServeRun, gpus: int) -> dict[str, float]:
    latency = latencies_of(run)
    ttft, tpot = float(latency.ttft_s.mean()), spread(latency.tpot_s).mean
    rate = run.log.output_total / span_s(run)
    values = {
        "ttft_ms": ttft * 1e3,
        "output_tokens_per_s": rate,
        "output_tokens_per_s_per_gpu": rate / gpus,
        "requests_per_s": run.log.served / span_s(run),
    }
    if tpot > 0:
        values["tpot_ms"] = tpot * 1e3
    if text_of(row, "concurrency").isdigit():
        clients, osl = whole_of(row, "concurrency") or 1, whole_of(row, "osl") or 1
        values["derived_tokens_per_s_per_gpu"] = clients * osl / (ttft + (osl - 1) * tpot) / gpus
    return values


def family_of_serving(row: Row, moe: bool) -> str:
    """The class that accuracy targets are set for."""
    if text_of(row, "prefill_workers"):
        return "disaggregated"
    kind = "MoE" if moe else "dense"
    return f"{kind}, {arrival_of(row).kind}"
