"""Published gains and costs of serving features, predicted: drafted tokens, adapters, halves of a batch.

Each is a ratio of two runs on the same machine, so that what a kernel table misses cancels. `stated`: the setup is
published well enough that the prediction should come within 25 %. docs/write_published_serving.py makes a page of it;
more rows go into `PUBLISHED`, under the name of their table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moesim.calibrate.record.headlines_serving import Seed
from moesim.calibrate.record.published_caches import CACHES
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.prediction import ServePrediction

Change = Callable[[dict[str, Any]], dict[str, Any]]


def asked(model: str, node: str, gpus: int, load: dict[str, Any], **serve: Any) -> dict[str, Any]:
    """A serving scenario; `layout` beside what goes into its serve section."""
    layout = serve.pop("layout", {"tp": gpus})
    cluster = {"node": node, "gpus": gpus}
    return {"model": model, "cluster": cluster, "layout": layout, "serve": {"requests": load, **serve}}


def closed(clients: int, tokens_in: int, tokens_out: int) -> dict[str, Any]:
    """A closed loop of equal requests, two a client."""
    return {
        "kind": "closed", "concurrency": clients, "count": 2 * clients, "input_tokens": tokens_in,
        "output_tokens": tokens_out,
    }  # fmt: skip


def with_feature(scenario: dict[str, Any], **feature: Any) -> dict[str, Any]:
    """The same scenario with more in its serve section."""
    return {**scenario, "serve": {**scenario["serve"], **feature}}


def faster(scenario: dict[str, Any], **feature: Any) -> float:
    """Mean time per output token without a feature over that with it."""
    without, having = predict_serve(scenario), predict_serve(with_feature(scenario, **feature))
    return without.tpot_s.mean / having.tpot_s.mean


def more_tokens(scenario: dict[str, Any], **feature: Any) -> float:
    """Output tokens per second with a feature over those without it."""
    without, having = predict_serve(scenario), predict_serve(with_feature(scenario, **feature))
    return having.output_tokens_per_s / without.output_tokens_per_s


def _full_pass_s(answer: ServePrediction, sequences: int, context: float) -> float:
    """Seconds per token of a decode pass of so many sequences of that context, on workers that do nothing else."""
    fixed, slope = answer.run.machine.costs.decode(sequences)
    return fixed + slope * sequences * context


def decode_gain(scenario: dict[str, Any], sequences: int, context: float, **feature: Any) -> float:
    """Time per token of decode passes alone without a feature over that with it, as decode workers of pools run."""
    runs = (predict_serve(scenario), predict_serve(with_feature(scenario, **feature)))
    without, having = (_full_pass_s(run, sequences, context) for run in runs)
    return without / having


def _r1(clients: int, **more: Any) -> dict[str, Any]:
    serve = {"engine": "sglang", "precision": "fp8", **more}
    return asked("deepseek-v3", "dgx-h200", 8, closed(clients, 512, 512), **serve)


def _r1_at_rate(per_s: float) -> dict[str, Any]:
    load = {"kind": "poisson", "rate_per_s": per_s, "count": 100, "input_tokens": 1000, "output_tokens": 250}
    return asked("deepseek-v3", "dgx-h200", 8, load, engine={"name": "vllm", "version": "0.7.3"}, precision="fp8")


def _llama(tokens: int, method: str) -> float:
    one = asked(
        "llama-3.1-8b", "dgx-h100", 1, closed(1, 100, 256), engine={"name": "vllm", "version": "0.8.4"},
        precision="bf16",
    )  # fmt: skip
    return faster(one, speculative={"tokens": tokens, "method": method})


def _decode_nodes(node: str, ranks: int, each: int, tokens_in: int, date: str) -> dict[str, Any]:
    """DeepSeek-V3 with attention data parallelism and experts over all ranks; `each`: sequences of a rank."""
    load = {**closed(ranks * each, tokens_in, 16), "count": ranks * each}
    engine = {"name": "sglang", "max_batch": each, "date": date}
    return asked(
        "deepseek-v3", node, ranks, load, layout={"ep": ranks}, engine=engine, precision="fp8", attention_dp=ranks,
        expert_slots=ranks,
    )  # fmt: skip


def _halves(each: int) -> float:
    scenario = _decode_nodes("dgx-h100", 64, each, 2000, "2025-05")
    return decode_gain(scenario, 64 * each, 2050.0, two_batch_overlap=True)


def _halves_of_prompts() -> float:
    load = {"kind": "offline", "count": 256, "input_tokens": 4096, "output_tokens": 1}
    scenario = asked(
        "deepseek-v3", "dgx-h100", 32, load, layout={"ep": 32}, attention_dp=32, expert_slots=32, precision="fp8",
        engine={"name": "sglang", "token_budget": 8192, "date": "2025-05"},
    )  # fmt: skip
    without, having = (predict_serve(s) for s in (scenario, with_feature(scenario, two_batch_overlap=True)))
    return having.input_tokens_per_s / without.input_tokens_per_s


def _lora_of_2024(count: int) -> float:
    load = {
        "kind": "offline", "count": 1000, "input_tokens": 245, "output_tokens": 235, "lengths": "lognormal",
        "sigma": 1.0,
    }  # fmt: skip
    scenario = asked(
        "llama-2-7b", "dgx-a100", 1, load, engine={"name": "vllm", "version": "0.6.4", "run": "library"},
        precision="fp16",
    )  # fmt: skip
    return more_tokens(scenario, adapters={"count": count, "rank": 8})


def _lora_on_tpu() -> float:
    scenario = asked("llama-3.1-8b", "tpu-v6e-pod", 1, closed(16, 1024, 256), engine="vllm", precision="bf16")
    return more_tokens(scenario, adapters={"count": 1, "rank": 8})


_TWO = {"tokens": 2, "acceptance": [0.8, 0.475]}  # 2.18 tokens a pass
_MTP_BLOG = "lmsys.org 2025-07-17"
_EP_BLOG = "lmsys.org 2025-05-05"
_EAGLE = "vLLM pull request 16937, April 2025"

DRAFTS: tuple[Seed, ...] = (
    Seed(
        "DeepSeek-V3, modules, H200 TP8, batch 1", 1.8, 1.8, "x", lambda: faster(_r1(1), speculative={"tokens": 2}),
        "2 drafts, 512 + 512 tokens", "SGLang documentation, DeepSeek usage", stated=True,
    ),
    Seed(
        "DeepSeek-V3, modules, H200 TP8, batch 32", 1.5, 1.5, "x", lambda: faster(_r1(32), speculative={"tokens": 2}),
        "as before", "SGLang documentation, DeepSeek usage", stated=True,
    ),
    Seed(
        "DeepSeek-V3, one draft, batch 1", 1.76, 1.76, "x",
        lambda: faster(_r1(1), speculative={"tokens": 1, "acceptance": 0.9}),
        "H200 TP8; 1.9 tokens a pass published", "SGLang pull request 3582",
    ),
    Seed(
        "DeepSeek-R1, one draft, one request/s", 1.63, 1.63, "x",
        lambda: faster(_r1_at_rate(1.0), speculative={"tokens": 1, "acceptance": 0.82}),
        "machine and lengths not stated: H200 TP8, 1,000 + 250 tokens", "vLLM pull request 12755",
    ),
    Seed(
        "the same, two requests/s", 1.18, 1.18, "x",
        lambda: faster(_r1_at_rate(2.0), speculative={"tokens": 1, "acceptance": 0.82}),
        "as before", "vLLM pull request 12755",
    ),
    Seed(
        "DeepSeek-R1 FP4, three drafts, B200, batch 1", 2.16, 2.16, "x",
        lambda: faster(
            asked("deepseek-v3", "dgx-b200", 8, closed(1, 1000, 2000), layout={"tp": 8, "ep": 2}, engine="trtllm",
                  precision="fp4"),
            speculative={"tokens": 3},
        ),
        "acceptance not printed", "TensorRT-LLM tech blog 2", stated=True,
    ),
    Seed(
        "DeepSeek-V3, MI300X TP8, random prompts", 1.25, 2.11, "x",
        lambda: faster(
            asked("deepseek-v3", "mi300x-platform", 8, closed(16, 1000, 1000), engine="sglang", precision="fp8"),
            speculative={"tokens": 2},
        ),
        "16 clients, 2 drafts", "rocm.blogs.amd.com, September 2025",
    ),
    Seed(
        "DeepSeek-V3 decode, 16 H200, 2 requests a rank, 65,536 tokens", 1.35, 1.35, "x",
        lambda: decode_gain(_decode_nodes("dgx-h200", 16, 2, 65536, "2025-07"), 32, 67_500.0, speculative=_TWO),
        "decode passes alone", _MTP_BLOG, stated=True,
    ),
    Seed(
        "DeepSeek-V3 decode, 96 H200, 128 requests a rank", 1.14, 1.14, "x",
        lambda: decode_gain(
            _decode_nodes("dgx-h200", 64, 128, 2000, "2025-07"), 64 * 128, 2050.0, speculative={"tokens": 1},
        ),
        "64 ranks, no other load", _MTP_BLOG,
    ),
    *(
        Seed(f"Llama 3.1 8B, H100, {method}, {tokens} drafts", gain, gain, "x",
             lambda tokens=tokens, method=method: _llama(tokens, method),  # type: ignore[misc]  # bound now
             f"acceptance not printed{', what a pass adds was read off it' if method == 'eagle' else ''}", _EAGLE,
             stated=True)
        for method, tokens, gain in (
            ("eagle", 2, 1.51), ("eagle", 4, 1.48), ("eagle", 7, 1.27), ("eagle3", 2, 1.65),
        )
    ),
)  # fmt: skip

ADAPTERS: tuple[Seed, ...] = (
    Seed(
        "Llama 2 7B, A100, one adapter of rank 8, vLLM 0.6", 0.664, 0.664, "x", lambda: _lora_of_2024(1),
        "7.60 against 11.45 requests/s; what a token reads was read off it", "vLLM pull request 11267", stated=True,
    ),
    Seed(
        "the same with four adapters", 0.665, 0.665, "x", lambda: _lora_of_2024(4), "as before",
        "vLLM pull request 11267", stated=True,
    ),
    Seed(
        "Llama 3.1 8B on one TPU v6e", 0.761, 0.916, "x", _lora_on_tpu,
        "16 clients, 1,024 + 256 tokens; kernels as on GPUs", "vLLM pull request 15655, July 2025",
    ),
)  # fmt: skip

HALVES: tuple[Seed, ...] = (
    Seed("decode, 32 tokens a GPU", 0.73, 0.73, "x", lambda: _halves(32), "EP64 (theirs 72)", _EP_BLOG, stated=True),
    Seed("decode, 256 tokens a GPU", 1.255, 1.255, "x", lambda: _halves(256), "as before", _EP_BLOG, stated=True),
    Seed(
        "prompts, 8,192 tokens a GPU", 1.27, 1.35, "x", _halves_of_prompts, "EP32, prompts of 4,096", _EP_BLOG,
        stated=True,
    ),
)  # fmt: skip

PUBLISHED: dict[str, tuple[Seed, ...]] = {
    "Drafted tokens: how much faster tokens follow each other": DRAFTS,
    "Adapters: throughput with them over throughput without": ADAPTERS,
    **CACHES,
    "Two-batch overlap: throughput with halves over throughput without, DeepSeek-V3 on H100": HALVES,
}
