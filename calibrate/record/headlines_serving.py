"""Headline serving experiments of MoE systems, predicted: a value, what was published, and what had to be assumed.

`stated`: the setup is published well enough that the prediction should come within 25 %. The others need a guess about
machine, lengths or load, which is named. docs/write_seeds.py makes a page of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moesim.hwmodels.cluster import build_cluster
from moesim.hwmodels.exchange_kernels import exchange_s
from moesim.hwmodels.work import Group
from moesim.sim.layers.exchange import SERVING, STAGES, ExpertTokens, expert_exchange
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.prediction import ServePrediction


@dataclass(frozen=True, slots=True)
class Seed:
    """One published number and how it is predicted. `low` and `high`: the published range, equal for one number;
    `reason`: why the prediction may lie far away, '' where it does not."""

    name: str
    low: float
    high: float
    unit: str
    predict: Callable[[], float]
    assumed: str
    source: str
    stated: bool = False
    reason: str = ""

    def error(self, value: float) -> float:
        """Relative distance from the published range; 0 inside it."""
        if value < self.low:
            return value / self.low - 1.0
        return max(0.0, value / self.high - 1.0)


def _serve(model: str | dict[str, Any], node: str, gpus: int, load: dict[str, Any], **serve: Any) -> ServePrediction:
    layout = serve.pop("layout", {"tp": gpus})
    asked = {"engine": "vllm", "precision": "bf16", "requests": {"warmup": 0, **load}, **serve}
    return predict_serve({"model": model, "cluster": {"node": node, "gpus": gpus}, "layout": layout, "serve": asked})


def _offline(tokens_in: int, tokens_out: int, count: int = 600) -> dict[str, Any]:
    return {"kind": "offline", "count": count, "input_tokens": tokens_in, "output_tokens": tokens_out, "jitter": 0.2}


def _ratio(fast: str, slow: str | dict[str, Any], node: str, gpus: int, load: dict[str, Any], **serve: Any) -> float:
    one, other = (_serve(m, node, gpus, load, **serve).output_tokens_per_s for m in (fast, slow))
    return one / other


def _one_user(model: str, node: str, gpus: int, **serve: Any) -> float:
    """Tokens per second of one user alone."""
    load = {"kind": "closed", "concurrency": 1, "count": 4, "input_tokens": 128, "output_tokens": 128}
    return 1.0 / _serve(model, node, gpus, load, **serve).tpot_s.mean


def _offloaded(
    node: str, resident: float, hit_rate: float, precision: str = "int4", engine: str = "vllm", **where: float
) -> float:
    own = {"name": engine, "kv_fraction": 0.98, "work_bytes": 5e8, "max_batch": 4, "token_budget": 1024}
    offload = {"resident": resident, "hit_rate": hit_rate, **where}
    return _one_user("mixtral-8x7b", node, 1, engine=own, precision=precision, offload=offload)


def _pools_per_node(stage: str) -> float:
    """Tokens per second and node of one saturated pool of DeepSeek-V3 on H100."""
    prefill, decode = (4, 1) if stage == "decode" else (1, 1)
    pools = {
        "prefill": {"workers": prefill, "ep": 32, "attention_dp": 32},
        "decode": {"workers": decode, "ep": 64, "attention_dp": 64},
    }
    gpus = 32 * prefill + 64 * decode
    clients = 16384 if stage == "decode" else 6144
    load = {
        "kind": "closed", "concurrency": clients, "count": 2 * clients, "input_tokens": 2000,
        "output_tokens": 600 if stage == "decode" else 60, "jitter": 0.2,
    }  # fmt: skip
    answer = _serve(
        "deepseek-v3", "dgx-h100", gpus, load, layout={}, engine={"name": "sglang", "token_budget": 16384},
        precision="fp8", pools=pools, expert_slots=64, two_batch_overlap=True,
    )  # fmt: skip
    return answer.output_tokens_per_s / 8 if stage == "decode" else answer.input_tokens_per_s / 4


def _exchange_bound_ms() -> float:
    """Dispatch in 8 bits and combine in 16 for 32 tokens x 9 copies of 7,000 bytes at 50 GB/s, 61 layers, twice."""
    return (1 + 2) * 32 * 9 * 7000 / 50e9 * 2 * 61 * 1e3


def _exchange_ms() -> float:
    """The same with the fitted low-latency kernels on 128 GPUs: 8 experts per token, latency and NIC efficiency."""
    cluster = build_cluster("hgx-h800", 128)

    sent = ExpertTokens(
        tokens=64.0, top_k=8, experts=256, width=7168, dtype="fp8_block", group=Group(128, 8), kernel="low_latency",
        node_copies=4.0, rank_copies=8.0,
    )  # fmt: skip
    return 61 * sum(exchange_s(expert_exchange(SERVING, stage, sent), cluster) for stage in STAGES) * 1e3


_DBRX_LOAD = {"kind": "poisson", "rate_per_s": 1.0, "count": 300, "input_tokens": 2000, "output_tokens": 256}
_NVL_LOAD = {
    "kind": "closed", "concurrency": 184, "count": 552, "input_tokens": 1000, "output_tokens": 1000, "jitter": 0.2,
}  # fmt: skip
_LONG = {"kind": "closed", "concurrency": 1, "count": 3, "input_tokens": 130000, "output_tokens": 512}

SEEDS: tuple[Seed, ...] = (
    Seed(
        "Mixtral 8x7B over Llama 2 70B, throughput, 8 H100", 3.6, 4.9, "x",
        lambda: _ratio("mixtral-8x7b", "llama-2-70b", "dgx-h100", 8, _offline(1000, 1000, 1500), layout={"tp": 4}),
        "1,000 + 1,000 tokens, vLLM, 16 bits, two replicas of 4: neither model short of KV memory",
        "mistral.ai release; ratios of published throughput tables",
    ),
    Seed(
        "Mixtral 8x7B over Llama 2 70B, throughput, four pairs of H100", 7.7, 21.0, "x",
        lambda: _ratio("mixtral-8x7b", "llama-2-70b", "dgx-h100", 8, _offline(1000, 1000, 1500), layout={"tp": 2}),
        "as before in replicas of 2: the dense model's weights leave room for some 20 sequences",
        "ratios of published throughput tables",
    ),
    Seed(
        "Qwen1.5-MoE-A2.7B over Qwen1.5-7B, requests/s", 1.74, 1.74, "x",
        lambda: _ratio("qwen1.5-moe-a2.7b", "qwen1.5-7b", "dgx-a100", 1, _offline(1000, 1000, 400), engine="vllm-0"),
        "one A100 80 GB, vLLM of early 2024, 1,000 + 1,000 tokens", "Qwen1.5-MoE blog", stated=True,
    ),
    Seed(
        "Qwen1.5-MoE-A2.7B, requests/s on one A100", 2.01, 2.01, "1/s",
        lambda: _serve(
            "qwen1.5-moe-a2.7b", "dgx-a100", 1, _offline(1000, 1000, 400), engine="vllm-0"
        ).requests_per_s,
        "as before", "Qwen1.5-MoE blog", stated=True,
    ),
    Seed(
        "DeepSeekMoE 16B over DeepSeek 7B, throughput", 2.5, 2.5, "x",
        lambda: _one_user("deepseek-moe-16b", "dgx-a100", 1) / _one_user("deepseek-7b", "dgx-a100", 1),
        "one A100 80 GB, one sequence of 128 + 128 tokens: speed is claimed, not load",
        "DeepSeekMoE paper (arXiv:2401.06066)",
        reason="2.5 is the ratio of active parameters, so of bytes; routing, sorting and small experts take vLLM a "
        "third of a token beside them, and what their own operators saved is not published",
    ),
    Seed(
        "DBRX over Llama 2 70B, tokens/s per user at one request/s", 1.0, 2.0, "x",
        lambda: _serve("llama-2-70b", "dgx-h100", 8, _DBRX_LOAD, engine="trtllm").tpot_s.mean
        / _serve("dbrx", "dgx-h100", 8, _DBRX_LOAD, engine="trtllm").tpot_s.mean,
        "8 H100, 16 bits, 2,000 + 256 tokens, a new user every second", "Databricks blog", stated=True,
    ),
    Seed(
        "DeepSpeed-MoE 24B+MoE-128 (1.06 T), ms per token", 0.0, 25.0, "ms",
        lambda: 1e3 / _one_user("deepspeed-24b-moe-128", "dgx-a100", 256, layout={"tp": 8, "ep": 128},
                                attention_dp=32, engine="trtllm"),
        "256 A100, tensor 8, experts over 128 ranks, one sequence", "arXiv:2201.05596, section 5.5",
    ),
    Seed(
        "Snowflake Arctic FP8 on 8 H100, one user (70 or more)", 70.0, 300.0, "tok/s",
        lambda: _one_user("snowflake-arctic", "dgx-h100", 8, precision="fp8"),
        "vLLM; tensor parallel; the blog gives a lower bound", "Snowflake blog",
    ),
    Seed(
        "Mixtral 8x7B FP16, 2 H100 NVL, saturated", 4454.0, 4454.0, "tok/s",
        lambda: _serve("mixtral-8x7b", "server-h100-nvl-pair", 2, _NVL_LOAD).output_tokens_per_s,
        "lengths and load not printed: 1,000 + 1,000 tokens, 184 requests at once, at which the source's dense model, "
        "Llama-3.1-8B, makes its 6,238 tok/s on one such GPU here; clocks by watts per peak FLOP/s",
        "cost paper, reproduction notes",
    ),
    Seed(
        "Mixtral 8x7B FP8, 2 H100 NVL, saturated", 7524.0, 7524.0, "tok/s",
        lambda: _serve("mixtral-8x7b", "server-h100-nvl-pair", 2, _NVL_LOAD, precision="fp8").output_tokens_per_s,
        "as before", "cost paper, reproduction notes",
    ),
    Seed(
        "Mixtral-offloading, A100, 4 of 8 experts cached", 2.845, 3.061, "tok/s",
        lambda: _offloaded("dgx-a100-40gb", 0.5, 0.55, engine="hf-offload"),
        "4-bit experts (theirs: 2 and 3 bits), 55 % of uses hit; the host's time per layer from the rows of that table "
        "without a cache, on four machines",
        "arXiv:2312.17238, table 2",
    ),
    Seed(
        "Mixtral-offloading, RTX 3060 12 GB, 2 of 8 cached", 2.038, 2.278, "tok/s",
        lambda: _offloaded("desktop-rtx-3060", 0.2, 0.3, engine="hf-offload"),
        "4-bit experts, 20 % resident, 30 % of uses hit; otherwise as before", "arXiv:2312.17238, table 2",
    ),
    Seed(
        "MoE-Infinity, Mixtral in 16 bits, A5000, s per token", 0.895, 0.895, "s",
        lambda: 1.0 / _offloaded("workstation-rtx-a5000", 0.15, 0.25, "bf16"),
        "15 % resident, 25 % of uses hit, perfect prefetch", "MoE-Infinity README",
    ),
    Seed(
        "Fiddler, Mixtral in 16 bits, Quadro RTX 6000 (over 3)", 3.0, 6.0, "tok/s",
        lambda: _offloaded("workstation-quadro-rtx-6000", 0.2, 0.22, "fp16", host_memory_bytes_per_s=128e9),
        "52 of 256 experts resident, 22 % of uses hit, the host computes the others at six channels of DDR4-2666",
        "arXiv:2402.07033",
    ),
    Seed(
        "DeepSeek-V3 decode: all-to-all per token at the NIC's rate", 14.76, 14.76, "ms",
        _exchange_bound_ms, "none: the paper's own arithmetic", "arXiv:2505.09343", stated=True,
    ),
    Seed(
        "the same with fitted low-latency kernels, 128 H800", 14.76, 40.0, "ms",
        _exchange_ms, "64 tokens per GPU (two halves of 32), 8 experts per token", "arXiv:2505.09343",
    ),
    Seed(
        "SGLang, DeepSeek-V3, 96 H100: input tokens/s per prefill node", 52300.0, 52300.0, "tok/s",
        lambda: _pools_per_node("prefill"),
        "4 prefill nodes (EP32), prompts of 2,000; pool saturated", "LMSYS blog, May 2025", stated=True,
    ),
    Seed(
        "SGLang, DeepSeek-V3, 96 H100: output tokens/s per decode node", 22300.0, 22300.0, "tok/s",
        lambda: _pools_per_node("decode"),
        "8 decode nodes (EP64; theirs 9 with EP72), 256 sequences per GPU", "LMSYS blog, May 2025", stated=True,
    ),
    Seed(
        "Jamba over Mixtral 8x7B, throughput at long context", 3.0, 3.0, "x",
        lambda: _ratio("jamba-v0.1", {"base": "mixtral-8x7b", "max_context": 262144}, "dgx-a100", 4, _LONG),
        "4 A100 80 GB, one sequence of 130,000 + 512 tokens, 16 bits, Mixtral beyond its own context, as in the paper; "
        "vLLM in place of their eager modules", "AI21 release; arXiv:2403.19887, section 3.2 (recalled)",
        reason="arithmetic and cache bytes allow 2.1 times with prompts that long; both ran as eager modules, split "
        "over GPUs one after the other, whose attention nobody has timed",
    ),
)  # fmt: skip
