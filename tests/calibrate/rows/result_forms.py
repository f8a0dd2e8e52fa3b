"""Results of benchmarks of serving as each tool writes them, the keys that matter, made by hand."""

from __future__ import annotations

from typing import Any

VLLM: dict[str, Any] = {
    "date": "20260301-101010",
    "endpoint_type": "vllm",
    "backend": "vllm",
    "label": None,
    "model_id": "Qwen/Qwen3-32B",
    "tokenizer_id": "Qwen/Qwen3-32B",
    "num_prompts": 100,
    "request_rate": "inf",
    "burstiness": 1.0,
    "max_concurrency": 8,
    "duration": 100.0,
    "completed": 100,
    "failed": 0,
    "total_input_tokens": 102_400,
    "total_output_tokens": 12_800,
    "request_throughput": 1.0,
    "output_throughput": 128.0,
    "total_token_throughput": 1152.0,
    "mean_ttft_ms": 250.5,
    "median_ttft_ms": 240.0,
    "mean_tpot_ms": 20.25,
    "median_tpot_ms": 20.0,
    "mean_itl_ms": 20.25,
    "mean_e2el_ms": 2822.0,
}

SGLANG: dict[str, Any] = {
    "backend": "sglang",
    "dataset_name": "random",
    "request_rate": float("inf"),
    "max_concurrency": 16,
    "sharegpt_output_len": None,
    "random_input_len": 1024,
    "random_output_len": 512,
    "random_range_ratio": 1.0,
    "duration": 50.0,
    "completed": 160,
    "total_input_tokens": 163_840,
    "total_output_tokens": 81_920,
    "request_throughput": 3.2,
    "output_throughput": 1638.4,
    "mean_e2e_latency_ms": 5000.0,
    "mean_ttft_ms": 180.0,
    "mean_tpot_ms": 9.5,
    "mean_itl_ms": 9.5,
    "concurrency": 15.5,
    "server_info": {
        "model_path": "Qwen/Qwen3-30B-A3B-FP8",
        "tp_size": 8,
        "dp_size": 4,
        "enable_dp_attention": True,
        "ep_size": 8,
    },
}


def statistics(unit: str, avg: float, std: float = 0.0) -> dict[str, Any]:
    """A record of genai-perf."""
    return {"unit": unit, "avg": avg, "p50": avg, "p99": avg, "min": avg, "max": avg, "std": std}


GENAI_PERF: dict[str, Any] = {
    "request_throughput": {"unit": "requests/sec", "avg": 2.0},
    "request_latency": statistics("ms", 3000.0),
    "request_count": {"unit": "count", "avg": 200.0},
    "time_to_first_token": statistics("ms", 120.0),
    "inter_token_latency": statistics("ms", 11.5),
    "output_token_throughput": {"unit": "tokens/sec", "avg": 512.0},
    "output_sequence_length": statistics("tokens", 256.0),
    "input_sequence_length": statistics("tokens", 2048.0),
    "input_config": {"model": ["meta-llama/Llama-3.1-8B-Instruct"], "perf_analyzer": {"stimulus": {"concurrency": 10}}},
}
AIPERF: dict[str, Any] = {
    "input_config": {
        "endpoint": {"model_names": ["meta-llama/Llama-3.1-8B-Instruct"], "type": "chat"},
        "loadgen": {"concurrency": 10, "request_count": 200},
    },
    "records": {key: value for key, value in GENAI_PERF.items() if key != "input_config"},
}


def guidellm(strategy: dict[str, Any], mean: float = 0.1) -> dict[str, Any]:
    """A benchmark of a guidellm report."""

    def over(value: float) -> dict[str, Any]:
        return {"successful": {"mean": value, "median": value}, "total": {"mean": 0.0}}

    return {
        "args": {"profile": {"type_": "sweep"}, "strategy": strategy},
        "metrics": {
            "requests_per_second": over(4.0),
            "output_tokens_per_second": over(400.0),
            "time_to_first_token_ms": over(1e3 * mean),
            "inter_token_latency_ms": over(15.0),
            "prompt_token_count": over(512.0),
            "output_token_count": over(100.0),
            "request_totals": {"successful": 300, "errored": 0, "total": 300},
        },
        "worker": {"backend_model": "x"},
    }


GUIDELLM: dict[str, Any] = {
    "args": {"target": "http://localhost:8000", "model": "Qwen/Qwen3-32B"},
    "benchmarks": [
        guidellm({"type_": "synchronous"}),
        guidellm({"type_": "concurrent", "streams": 16}),
        guidellm({"type_": "constant", "rate": 4.5}),
        guidellm({"type_": "throughput"}),
    ],
}

INFERENCEMAX: list[dict[str, Any]] = [
    {
        "hw": "h200",
        "tp": 8,
        "ep": 1,
        "dp_attention": "false",
        "conc": 64,
        "model": "deepseek-ai/DeepSeek-R1-0528",
        "framework": "sglang",
        "precision": "fp8",
        "isl": 1024,
        "osl": 1024,
        "tput_per_gpu": 447.2,
        "output_tput_per_gpu": 223.6,
        "mean_ttft": 0.4231,
        "mean_tpot": 0.0346,
        "p99_tpot": 0.037,
        "spec_decoding": "none",
    },
    {
        "hw": "b200-trt",
        "tp": 4,
        "ep": 4,
        "dp_attention": "true",
        "conc": 256,
        "model": "openai/gpt-oss-120b",
        "framework": "trt",
        "precision": "fp4",
        "isl": 1024,
        "osl": 1024,
        "tput_per_gpu": 6000.0,
        "median_ttft": 0.2,
        "median_tpot": 0.01,
        "spec_decoding": "mtp",
    },
]
