"""Results of load generators that know no engine: genai-perf, aiperf and guidellm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from moesim.calibrate.rows.measured.models import model_named, precision_in_name
from moesim.calibrate.rows.measured.numbers import at, filled, found_below, measured, positive, whole
from moesim.calibrate.rows.measured.told import Told

_ASKS = ("engine", "gpu", "gpus", "tp", "precision")
_UNITS = {"ms": 1.0, "s": 1e3, "sec": 1e3, "us": 1e-3, "ns": 1e-6}  # to milliseconds


def is_genai_perf(record: Mapping[str, Any]) -> bool:
    """Whether a JSON object is profile_export_genai_perf.json or profile_export_aiperf.json."""
    body = _body(record)
    timed = isinstance(_metric(body, "time_to_first_token"), Mapping) or isinstance(
        at(body, "request_latency"), Mapping
    )
    return timed and isinstance(at(body, "request_throughput"), Mapping)


def _body(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The statistics: of the whole object, under `records`, or as a list of them with tags."""
    body = record.get("records", record)
    if isinstance(body, list):
        body = {str(each.get("tag")): each for each in body if isinstance(each, Mapping)}
    return body if isinstance(body, Mapping) else record


_SHORT = {"time_to_first_token": "ttft", "inter_token_latency": "itl"}


def _metric(body: Mapping[str, Any], name: str) -> Any:
    """Statistics by their name or its short form."""
    return at(body, name) or at(body, _SHORT[name])


def genai_perf(record: Mapping[str, Any]) -> Told:
    """One run: statistics with their units, and the settings of the load."""
    body = _body(record)
    config = record.get("input_config") or record.get("config") or {}
    model = found_below(config, "model_names") or found_below(config, "model")
    published = str(model[0] if isinstance(model, list) and model else model or "")[:200]
    asked = found_below(config, "concurrency") or found_below(config, "max_concurrency")
    clients = whole(asked[0] if isinstance(asked, list) and asked else asked)
    rate = positive(found_below(config, "request_rate"))
    spread = positive(at(body, "input_sequence_length", "std")), positive(at(body, "input_sequence_length", "avg"))
    cells = {
        "model": model_named(published) if published else "",
        "precision": precision_in_name(published),
        "isl": whole(at(body, "input_sequence_length", "avg")),
        "osl": whole(at(body, "output_sequence_length", "avg")),
        "requests": whole(at(body, "request_count", "avg")),
        "concurrency": "" if rate else clients,
        "arrival": f"rate {rate:g}" if rate else "",
        "lengths": "lognormal" if spread[0] and spread[1] and spread[0] > 0.02 * spread[1] else "fixed",
        "ttft_ms": _milliseconds(body, "time_to_first_token"),
        "tpot_ms": _milliseconds(body, "inter_token_latency"),
        "output_tokens_per_s": measured(at(body, "output_token_throughput", "avg"), "output_token_throughput.avg"),
        "requests_per_s": measured(at(body, "request_throughput", "avg"), "request_throughput.avg"),
    }
    return Told("result of genai-perf or aiperf", (filled(cells),), (), _ASKS)


def _milliseconds(body: Mapping[str, Any], name: str) -> str:
    record = _metric(body, name)
    factor = _UNITS.get(str(at(record, "unit") or "ms"))
    return measured(at(record, "avg"), f"{name}.avg", factor) if factor else ""


def is_guidellm(record: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a report of guidellm."""
    runs = record.get("benchmarks")
    return isinstance(runs, list) and any(isinstance(at(run, "metrics"), Mapping) for run in runs)


def guidellm(record: Mapping[str, Any]) -> Told:
    """One row a benchmark: the profile sweeps loads."""
    notes: list[str] = []
    rows = [_guidellm_row(run, record, notes) for run in record["benchmarks"] if isinstance(run, Mapping)]
    return Told("report of guidellm", tuple(rows), tuple(dict.fromkeys(notes)), _ASKS)


def _guidellm_row(run: Mapping[str, Any], report: Mapping[str, Any], notes: list[str]) -> dict[str, str]:
    metrics = run.get("metrics")
    strategy = found_below(run, "strategy")
    kind = str(at(strategy, "type_") or at(strategy, "type") or at(strategy, "kind") or "")
    rate, streams = (
        positive(at(strategy, "rate")),
        whole(at(strategy, "streams")) or whole(at(strategy, "max_concurrency")),
    )
    published = str(found_below(run, "model") or found_below(report, "model") or "")[:200]
    load: dict[str, str] = {}
    if kind == "synchronous":
        load = {"concurrency": "1"}
    elif kind == "concurrent" and streams:
        load = {"concurrency": streams}
    elif rate:
        load = {"arrival": f"rate {rate:g}"}
        if kind != "poisson":
            notes.append(f"requests of strategy {kind} come at even distances; they are simulated as Poisson")
    elif kind == "throughput":
        done = whole(_mean(metrics, "request_totals")) or whole(at(metrics, "request_totals", "successful"))
        load = {"arrival": f"{done} prompts at once"} if done else {}
    cells = {
        **load,
        "model": model_named(published) if published else "",
        "precision": precision_in_name(published),
        "isl": whole(_mean(metrics, "prompt_token_count")) or _asked_tokens(report, "prompt"),
        "osl": whole(_mean(metrics, "output_token_count")) or _asked_tokens(report, "output"),
        "requests": whole(at(metrics, "request_totals", "successful")),
        "ttft_ms": _latency(metrics, "time_to_first_token_ms", notes),
        "tpot_ms": _latency(metrics, "inter_token_latency_ms", notes),
        "output_tokens_per_s": measured(_mean(metrics, "output_tokens_per_second"), "output_tokens_per_second"),
        "requests_per_s": measured(_mean(metrics, "requests_per_second"), "requests_per_second"),
    }
    return filled(cells)


def _latency(metrics: object, name: str, notes: list[str]) -> str:
    """The mean, or the median where the report keeps no mean."""
    mean = measured(_mean(metrics, name), name)
    if mean:
        return mean
    median = measured(at(metrics, name, "successful", "median"), name)
    if median:
        notes.append("medians stand for means, which the report lacks")
    return median


def _asked_tokens(report: Mapping[str, Any], which: str) -> str:
    """Tokens of a synthetic data set as it was asked for: prompt_tokens=1000, in whatever spelling; "" for another."""
    data = found_below(report.get("args") or report.get("config") or {}, "data")
    said = re.search(rf"\b{which}_tokens\W{{1,5}}(\d{{1,9}})\b", str(data)[:2000])
    return said.group(1) if said else ""


def _mean(metrics: object, name: str) -> Any:
    """The mean over requests that succeeded."""
    return at(metrics, name, "successful", "mean")
