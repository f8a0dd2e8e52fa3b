"""Results of a served load as files: one line a request, and summaries in the spelling of benchmarks' own tools.

Seconds become milliseconds where a tool writes those. The tokens of a request come at even distances here, so gaps
between tokens (ITL) spread over requests, never within one. Latencies are of requests that were served, after the
warm-up; tokens and rates of the whole run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moesim.files.whole import OutputError, check_writable, write_text
from moesim.files.words import cell
from moesim.sim.serve.accounts import Floats, Latencies, latencies_of, span_s
from moesim.sim.serve.prediction import ServePrediction
from moesim.sim.serve.workload import SERVED

ENDINGS = (".csv", ".jsonl")
_STATUS = ("served", "rejected", "timed_out")


def records(prediction: ServePrediction) -> Iterator[dict[str, Any]]:
    """Every request in order of its number, those of the warm-up included, as its client sees it.

    request; arrival_s, finish_s since the start; input_tokens, output_tokens, cached_tokens (of the prompt, not
    computed again); ttft_s, tpot_s (None for one token) and e2e_s; status. Latencies are None where it is not served.
    """
    log, seen = prediction.run.log, latencies_of(prediction.run)
    answered = zip(seen.ttft_s.tolist(), seen.e2e_s.tolist(), strict=True)  # of the served ones, in their order
    for i, tokens in enumerate(log.output):
        served = log.status[i] == SERVED
        ttft_s, e2e_s = next(answered) if served else (0.0, 0.0)
        yield {
            "request": i,
            "arrival_s": float(log.arrival_s[i]),
            "input_tokens": log.prompt[i],
            "output_tokens": tokens,
            "cached_tokens": log.hit[i],
            "ttft_s": ttft_s if served else None,
            "tpot_s": (e2e_s - ttft_s) / (tokens - 1) if served and tokens > 1 else None,
            "e2e_s": e2e_s if served else None,
            "finish_s": float(log.finish_s[i]),
            "status": _STATUS[log.status[i]],
        }


def check_records(path: Path) -> None:
    """OutputError for an ending that is no table of requests, or a folder that is not there."""
    if path.suffix.lower() not in ENDINGS:
        raise OutputError(f"records {path}: unknown format {path.suffix or '(none)'!r}; end it in .csv or .jsonl")
    check_writable(path)


def write_records(prediction: ServePrediction, path: Path) -> None:
    """One line a request, as CSV or as JSON lines."""
    rows = list(records(prediction))
    if path.suffix.lower() == ".jsonl":
        lines = [json.dumps(row, allow_nan=False) for row in rows]
    else:
        lines = [
            ",".join(rows[0]),
            *(",".join("" if v is None else str(cell(v)) for v in row.values()) for row in rows),
        ]
    write_text(path, "\n".join(lines) + "\n")


def result_asked(text: str) -> tuple[str, Path]:
    """'vllm=result.json' as tool and file. OutputError names the tools, and what is wrong with the file."""
    tool, equals, name = text.partition("=")
    if not equals or not name or tool not in _SHAPES:
        raise OutputError(
            f"--result {text!r}: write TOOL=FILE with a tool of {', '.join(_SHAPES)}, as vllm=result.json"
        )
    check_writable(Path(name))
    return tool, Path(name)


def write_result(prediction: ServePrediction, tool: str, path: Path) -> None:
    """A summary as `tool` writes it: vllm, sglang or genai-perf."""
    write_text(path, json.dumps(_SHAPES[tool](prediction), indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True, slots=True)
class _Run:
    """What all summaries are made of."""

    span_s: float
    completed: int
    input_tokens: int
    output_tokens: int
    seen: Latencies  # served requests after the warm-up
    inputs: Floats  # prompts of the same requests

    @property
    def itl_s(self) -> Floats:
        """Seconds between tokens of each request with more than one."""
        return self.seen.tpot_s

    @property
    def gaps(self) -> Floats:
        """How many gaps between tokens each of those has."""
        return self.seen.tokens[self.seen.tokens > 1] - 1.0


def _run_of(prediction: ServePrediction) -> _Run:
    run, skip = prediction.run, prediction.warmup_requests
    log = run.log
    served = np.frombuffer(bytes(log.status), dtype=np.uint8) == SERVED
    prompts = np.array(log.prompt)
    return _Run(
        span_s=span_s(run),
        completed=int(served.sum()),
        input_tokens=int(prompts[served].sum()),
        output_tokens=int(np.array(log.output)[served].sum()),
        seen=latencies_of(run, skip),
        inputs=prompts[skip:][served[skip:]].astype(np.float64),
    )


def _weighted(values: Floats, weights: Floats) -> dict[str, float]:
    """Mean, median, standard deviation and quantiles of values that each stand for `weights` equal ones."""
    if not len(values):
        return dict.fromkeys(("mean", "median", "std", "p90", "p95", "p99", "max"), 0.0)
    order = np.argsort(values)
    until = np.cumsum(weights[order])
    mean = float(np.average(values, weights=weights))
    at = {"median": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
    found = {name: float(values[order][np.searchsorted(until, share * until[-1])]) for name, share in at.items()}
    spread = float(np.sqrt(np.average((values - mean) ** 2, weights=weights)))
    return {"mean": mean, "std": spread, "max": float(values.max()), **found}


def _milliseconds(name: str, values: Floats, weights: Floats | None = None) -> dict[str, float]:
    """mean_ttft_ms, median_ttft_ms, ... as vLLM and SGLang spell them."""
    stats = _weighted(values, np.ones(len(values)) if weights is None else weights)
    if weights is None and len(values):
        shares = {"median": 50, "p90": 90, "p95": 95, "p99": 99}
        stats |= {key: float(np.percentile(values, share)) for key, share in shares.items()}
    return {f"{stat}_{name}_ms": value * 1e3 for stat, value in stats.items()}


def _named(prediction: ServePrediction) -> dict[str, Any]:
    """What was asked, as vLLM and SGLang spell it."""
    resolved = prediction.resolved
    load, burst = resolved.workload, resolved.ask.requests
    users = burst.concurrency if burst.kind == "sessions" else None
    return {
        "backend": resolved.deployment.job.engine.name,
        "request_rate": load.rate_per_s if load.rate_per_s else "inf",
        "max_concurrency": load.clients or users,
    }


def _vllm(prediction: ServePrediction) -> dict[str, Any]:
    """`vllm bench serve --save-result`, vLLM 0.11: its keys, with nothing that only a real run has."""
    run, named = _run_of(prediction), _named(prediction)
    name = prediction.resolved.deployment.job.arch.name
    latencies = {
        **_milliseconds("ttft", run.seen.ttft_s),
        **_milliseconds("tpot", run.seen.tpot_s),
        **_milliseconds("itl", run.itl_s, run.gaps),
        **_milliseconds("e2el", run.seen.e2e_s),
    }
    return {
        "backend": named["backend"],
        "model_id": name,
        "tokenizer_id": name,
        "num_prompts": prediction.requests,
        "request_rate": named["request_rate"],
        "burstiness": _burstiness(prediction),
        "max_concurrency": named["max_concurrency"],
        "duration": run.span_s,
        "completed": run.completed,
        "failed": prediction.requests - run.completed,
        "total_input_tokens": run.input_tokens,
        "total_output_tokens": run.output_tokens,
        "request_throughput": run.completed / run.span_s,
        "request_goodput": prediction.goodput_per_s,
        "output_throughput": run.output_tokens / run.span_s,
        "total_token_throughput": (run.input_tokens + run.output_tokens) / run.span_s,
        **{key: value for key, value in latencies.items() if not key.startswith("max_")},
    }


def _burstiness(prediction: ServePrediction) -> float:
    """The shape of gamma gaps: 1 for Poisson."""
    asked = prediction.resolved.ask.requests
    return 1.0 / asked.cv**2 if asked.kind == "gamma" else 1.0


def _sglang(prediction: ServePrediction) -> dict[str, Any]:
    """`python -m sglang.bench_serving --output-file`, SGLang 0.5: its keys, with nothing that only a real run has."""
    run, named = _run_of(prediction), _named(prediction)
    latencies = {
        **_milliseconds("e2e_latency", run.seen.e2e_s),
        **_milliseconds("ttft", run.seen.ttft_s),
        **_milliseconds("tpot", run.seen.tpot_s),
        **_milliseconds("itl", run.itl_s, run.gaps),
    }
    return {
        **named,
        "duration": run.span_s,
        "completed": run.completed,
        "total_input_tokens": run.input_tokens,
        "total_output_tokens": run.output_tokens,
        "request_throughput": run.completed / run.span_s,
        "input_throughput": run.input_tokens / run.span_s,
        "output_throughput": run.output_tokens / run.span_s,
        "total_throughput": (run.input_tokens + run.output_tokens) / run.span_s,
        "concurrency": float(latencies_of(prediction.run).e2e_s.sum()) / run.span_s,
        **{key: value for key, value in latencies.items() if not key.startswith("max_") or key == "max_itl_ms"},
    }


def _genai_perf(prediction: ServePrediction) -> dict[str, Any]:
    """genai-perf's profile_export_genai_perf.json, 0.0.13: records with unit and statistics."""
    run = _run_of(prediction)
    seen = run.seen
    rates = 1.0 / seen.tpot_s[seen.tpot_s > 0.0]
    named = _named(prediction)
    return {
        "request_throughput": {"unit": "requests/sec", "avg": run.completed / run.span_s},
        "request_latency": _statistics("ms", seen.e2e_s * 1e3),
        "request_count": {"unit": "count", "avg": float(run.completed)},
        "time_to_first_token": _statistics("ms", seen.ttft_s * 1e3),
        "time_to_second_token": _statistics("ms", seen.tpot_s * 1e3),
        "inter_token_latency": _statistics("ms", seen.tpot_s * 1e3),
        "output_token_throughput": {"unit": "tokens/sec", "avg": run.output_tokens / run.span_s},
        "output_token_throughput_per_user": _statistics("tokens/sec/user", rates),
        "output_sequence_length": _statistics("tokens", seen.tokens),
        "input_sequence_length": _statistics("tokens", run.inputs),
        "input_config": {"model": [prediction.resolved.deployment.job.arch.name], **named},
    }


def _statistics(unit: str, values: Floats) -> dict[str, Any]:
    if not len(values):
        return {"unit": unit}
    shares = {f"p{share}": float(np.percentile(values, share)) for share in (25, 50, 75, 90, 95, 99)}
    whole = {"avg": values.mean(), **shares, "min": values.min(), "max": values.max(), "std": values.std()}
    return {"unit": unit, **{name: float(value) for name, value in whole.items()}}


_SHAPES: dict[str, Callable[[ServePrediction], dict[str, Any]]] = {
    "vllm": _vllm,
    "sglang": _sglang,
    "genai-perf": _genai_perf,
}
