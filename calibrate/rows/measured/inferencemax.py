"""Aggregated results of InferenceMAX: records that state GPU, layout, load and measured values alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from moesim.calibrate.rows.measured.models import model_named
from moesim.calibrate.rows.measured.numbers import filled, measured, positive, whole
from moesim.calibrate.rows.measured.told import Told

_ENGINES = (("sglang", "sglang"), ("trt", "trtllm"), ("vllm", "vllm"), ("atom", "vllm"))
_HARDWARE = {"h100": "H100", "h200": "H200", "b200": "B200", "b300": "B300", "gb200": "GB200", "gb300": "GB300",
             "mi300x": "mi300x", "mi325x": "mi325x", "mi355x": "mi355x"}  # fmt: skip
_NEEDED = ("hw", "isl", "osl")


def is_inferencemax(records: Sequence[object]) -> bool:
    """Whether these JSON objects are such records."""
    first = _flat(records[0]) if records and isinstance(records[0], Mapping) else {}
    return all(key in first for key in _NEEDED) and "conc" in first


def _flat(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record of the aggregates; its web interface keeps metrics apart, and calls one engine's layout decode_*."""
    metrics = record.get("metrics")
    if "hardware" not in record or not isinstance(metrics, Mapping):
        return record
    flat = {**record, **metrics, "hw": record["hardware"], "spec_decoding": record.get("spec_method", "none")}
    if not record.get("disagg"):
        flat |= {key: record.get(f"decode_{key}") for key in ("tp", "ep", "dp_attention")}
        flat |= {"prefill_num_workers": None, "decode_num_workers": None}
    return flat


def inferencemax(records: Sequence[object]) -> Told:
    """One row a record; latencies are seconds there. Notes name what was assumed."""
    notes: list[str] = []
    flat = [_flat(record) for record in records if isinstance(record, Mapping)]
    fixed = [record for record in flat if all(record.get(key) for key in (*_NEEDED, "conc"))]
    if len(fixed) < len(flat):
        notes.append(f"{len(flat) - len(fixed)} records without fixed lengths and clients (agents' traces) left out")
    rows = tuple(_row(record, notes) for record in fixed)
    return Told("InferenceMAX results", rows, tuple(dict.fromkeys(notes)))


def _yes(value: object) -> bool:
    return str(value).lower() in ("true", "1", "yes")


def _row(record: Mapping[str, Any], notes: list[str]) -> dict[str, str]:
    hardware = re.split(r"[^a-z0-9]", str(record["hw"]).lower())[0]
    framework = str(record.get("framework", "")).lower()
    engine = next((ours for word, ours in _ENGINES if word in framework), framework[:40])
    if "atom" in framework:
        notes.append("framework atom is taken as vllm: no record of it here")
    layout, gpus = _layout(record)
    precision = str(record.get("precision", "")).lower()
    published = str(record.get("model") or record.get("infmax_model_prefix") or "")
    cells = {
        "gpu": _HARDWARE.get(hardware, hardware[:40]),
        "gpus": str(gpus) if gpus else "",
        "model": model_named(published) if published else "",
        "precision": {"fp4": "nvfp4"}.get(precision, precision)[:20],
        "engine": engine,
        "measured_on": str(record.get("date", ""))[:10],
        "concurrency": whole(record["conc"]),
        "isl": whole(record["isl"]),
        "osl": whole(record["osl"]),
        "mtp": "yes" if str(record.get("spec_decoding", "none")).lower() in ("mtp", "eagle", "true") else "",
        **layout,
        "ttft_ms": measured(record.get("mean_ttft"), "mean_ttft", 1e3),
        "tpot_ms": measured(record.get("mean_tpot"), "mean_tpot", 1e3),
        "output_tokens_per_s_per_gpu": measured(record.get("output_tput_per_gpu"), "output_tput_per_gpu"),
    }
    if not cells["output_tokens_per_s_per_gpu"] and positive(record.get("tput_per_gpu")):
        notes.append("tput_per_gpu counts prompts and answers together: not compared")
    if not (cells["ttft_ms"] or cells["tpot_ms"]) and (record.get("median_ttft") or record.get("median_tpot")):
        cells["ttft_ms"] = measured(record.get("median_ttft"), "median_ttft", 1e3)
        cells["tpot_ms"] = measured(record.get("median_tpot"), "median_tpot", 1e3)
        notes.append("medians stand for means, which the file lacks")
    return filled(cells)


def _layout(record: Mapping[str, Any]) -> tuple[dict[str, str], int]:
    """Degrees and the GPUs that they need: one engine over tp GPUs, or pools of prefill and decode workers."""
    pools: dict[str, tuple[int, int, str, bool]] = {}
    for pool in ("prefill", "decode"):
        count = whole(record.get(f"{pool}_num_workers"))
        each = whole(record.get(f"{pool}_tp"))
        if count and each:
            attention = _yes(record.get(f"{pool}_dp_attention"))
            pools[pool] = (int(count), int(each), whole(record.get(f"{pool}_ep")), attention)
    if len(pools) == 2:
        cells: dict[str, str] = {}
        for pool, (workers, tp, ep, attention) in pools.items():
            own = {"workers": str(workers), "tp": "1" if attention else str(tp), "ep": ep}
            own |= {"attention_dp": str(tp)} if attention else {}
            cells |= {f"{pool}_{key}": text for key, text in own.items()}
        return cells, sum(workers * tp for workers, tp, _, _ in pools.values())
    ranks = whole(record.get("tp"))
    if not ranks:
        return {}, 0
    one = {"tp": ranks, "ep": whole(record.get("ep"))}
    if _yes(record.get("dp_attention")):  # every GPU of the engine serves requests of its own
        one |= {"tp": "1", "attention_dp": ranks}
    return one, int(ranks)
