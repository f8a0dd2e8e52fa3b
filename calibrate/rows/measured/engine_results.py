"""Results of the engines' own benchmarks: vLLM's bench serve and throughput, SGLang's bench_serving and offline."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean, pstdev
from typing import Any

from moesim.calibrate.rows.measured.models import model_named, precision_in_name
from moesim.calibrate.rows.measured.numbers import filled, found_below, measured, positive, stated, whole
from moesim.calibrate.rows.measured.told import Told

_FIXED = 0.02  # assumed: lengths that spread by less than this share were asked for as one length
_ASKS = ("gpu", "gpus", "tp", "precision")


def is_engine_result(record: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a result of vLLM or SGLang."""
    serving = "output_throughput" in record and ("total_input_tokens" in record or "total_input" in record)
    throughput = "tokens_per_second" in record and "num_requests" in record
    return serving or throughput


def engine_row(record: Mapping[str, Any], notes: list[str]) -> dict[str, str]:
    """One result as cells."""
    _check(record)
    if "tokens_per_second" in record and "output_throughput" not in record:
        return _throughput(record, notes)
    engine = _engine(record)
    done = next(
        filter(None, (positive(record.get(k)) for k in ("completed", "successful_requests", "num_prompts"))), None
    )
    inputs, outputs = (positive(record.get(k)) for k in ("total_input_tokens", "total_output_tokens"))
    isl = inputs / done if inputs and done else record.get("random_input_len")
    osl = outputs / done if outputs and done else record.get("random_output_len")
    published = _published(record)
    cells = {
        "engine": engine,
        "engine_version": str(found_below(record, "vllm_version") or found_below(record, "version") or "")[:40],
        "model": model_named(published) if published else "",
        "precision": precision_in_name(published),
        "isl": whole(isl),
        "osl": whole(osl),
        "requests": whole(done),
        **_load(record),
        **_lengths(record),
        **_server(record),
        "ttft_ms": measured(record.get("mean_ttft_ms"), "mean_ttft_ms"),
        "tpot_ms": measured(record.get("mean_tpot_ms"), "mean_tpot_ms"),
        "output_tokens_per_s": measured(record.get("output_throughput"), "output_throughput"),
        "requests_per_s": measured(record.get("request_throughput"), "request_throughput"),
    }
    failed = positive(record.get("failed"))
    if failed:
        notes.append(f"{failed:.0f} requests failed: they are not simulated")
    warm = "means over all requests of the run"
    if warm not in notes:
        notes.append(warm)
    return filled(cells)


_COUNTS = (
    "total_input_tokens", "total_output_tokens", "num_prompts", "num_requests", "total_num_tokens", "tokens_per_second",
    "total_token_throughput", "failed",
)  # fmt: skip
_SPANS = ("duration", "elapsed_time", "total_latency")


def _check(record: Mapping[str, Any]) -> None:
    """BadRows for a number that no run can have: it would be believed by what is computed from it."""
    for key in _SPANS:
        stated(record.get(key), key, "a run takes time")
    for key in ("completed", "successful_requests"):
        stated(record.get(key), key, "no request was answered")
    for key in _COUNTS:
        stated(record.get(key), key)


def _engine(record: Mapping[str, Any]) -> str:
    """The engine that ran: clients of the OpenAI protocol say nothing of it."""
    backend = str(record.get("backend") or record.get("endpoint_type") or "").lower()
    for word, ours in (("sglang", "sglang"), ("trt", "trtllm"), ("vllm", "vllm")):
        if word in backend:
            return ours
    return "sglang" if backend in ("engine", "runtime") and "total_latency" in record else ""


def _published(record: Mapping[str, Any]) -> str:
    names = (record.get("model_id"), record.get("model"), found_below(record, "model_path"), record.get("tokenizer_id"))
    return next((str(name)[:200] for name in names if isinstance(name, str) and name), "")


def _load(record: Mapping[str, Any]) -> dict[str, str]:
    """Clients of a closed loop, requests per second, or all at once."""
    if "total_latency" in record and "request_rate" not in record:  # SGLang's offline benchmark
        return {"arrival": "offline"}
    rate, clients = positive(record.get("request_rate")), positive(record.get("max_concurrency"))
    if rate is not None:
        return {"arrival": f"rate {rate:g}"}
    if clients:
        return {"concurrency": whole(clients)}
    prompts = whole(record.get("num_prompts")) or whole(record.get("completed"))
    return {"arrival": f"{prompts} prompts at once"} if prompts else {}


def _lengths(record: Mapping[str, Any]) -> dict[str, str]:
    """Whether lengths spread, where each request's are listed; else as a set ratio says."""
    for key in ("input_lens", "output_lens"):
        values = [positive(v) for v in record.get(key) or [] if positive(v)]
        lengths = [v for v in values if v is not None]
        if len(lengths) > 1 and pstdev(lengths) > _FIXED * mean(lengths):
            return {"lengths": "lognormal"}
    if record.get("input_lens"):
        return {"lengths": "fixed"}
    ratio = positive(record.get("random_range_ratio"))
    if record.get("dataset_name") == "random" and ratio is not None:
        return {"lengths": "fixed" if ratio >= 1.0 else f"uniform {ratio:g}"}
    return {"lengths": "lognormal"} if record.get("dataset_name") in ("sharegpt", "hf", "mooncake") else {}


def _server(record: Mapping[str, Any]) -> dict[str, str]:
    """What SGLang's server says of itself, where the result keeps it."""
    info = record.get("server_info")
    if not isinstance(info, Mapping):
        return {}
    tp, dp = whole(found_below(info, "tp_size")), whole(found_below(info, "dp_size"))
    attention = bool(found_below(info, "enable_dp_attention"))
    cells = {"tp": tp, "ep": whole(found_below(info, "ep_size"))}
    if tp and attention and dp:
        cells |= {"attention_dp": dp, "tp": str(max(1, int(tp) // int(dp)))}
    return cells


def _throughput(record: Mapping[str, Any], notes: list[str]) -> dict[str, str]:
    """benchmark_throughput: all prompts queued; the file holds tokens of prompts and answers together."""
    notes.append("a throughput result counts prompts and answers together: isl and osl say how they share")
    count = whole(record.get("num_requests"))
    return filled(
        {
            "engine": "vllm",
            "arrival": f"offline, {count} prompts" if count else "offline",
            "requests": count,
            "requests_per_s": measured(record.get("requests_per_second"), "requests_per_second"),
        }
    )


def engine_results(records: list[Mapping[str, Any]]) -> Told:
    """Results as they are written: one object, or one a line."""
    notes: list[str] = []
    rows = tuple(engine_row(record, notes) for record in records)
    return Told("result of vLLM or SGLang", rows, tuple(notes), _ASKS)
