"""Options of vLLM and SGLang for one worker: layout, limits, formats, features; numbers are those simulated."""

from __future__ import annotations

import json
import shlex
from typing import Any

from moesim.reports.emit.worker import Deployed, Flag, Flags, Worker
from moesim.sim.serve.job import ServeJob

_BLOCKS = "weights: blocks of FP8 as the checkpoint has them; no option says it"


def vllm_flags(w: Worker, d: Deployed) -> Flags:
    """Options of `vllm serve`, without what differs between the hosts of a worker."""
    f, job = Flags("vllm", [], []), w.job
    f.add("tensor-parallel-size", w.tp)
    if job.layout.pp > 1:
        f.add("pipeline-parallel-size", job.layout.pp)
    if job.attention_dp > 1:
        f.add("data-parallel-size", job.attention_dp)
    if job.layout.ep > 1:
        f.add("enable-expert-parallel")
        if job.layout.ep != w.ranks:
            f.notes.append(f"ep={job.layout.ep}: vLLM spreads experts over all {w.ranks} ranks or none")
        if job.attention_dp > 1 and (w.hosts > 1 or job.two_batch):
            kernels = "deepep_high_throughput" if w.role == "prefill" else "deepep_low_latency"
            f.add("all2all-backend", kernels)
    if job.placement.planned and job.layout.ep > 1:
        f.add("enable-eplb")
        f.add("eplb-config", _json({"num_redundant_experts": job.expert_slots}))
    if job.two_batch:
        f.add("enable-dbo")
    f.add("max-num-seqs", job.engine.max_batch)
    f.add("max-num-batched-tokens", job.engine.token_budget)
    f.add("max-model-len", d.longest)
    _memory(f, job, "gpu-memory-utilization", "block-size", d)
    if job.formats.kv == "fp8":
        f.add("kv-cache-dtype", "fp8")
    _weights(f, job, d)
    f.add("enable-prefix-caching" if job.engine.prefix_cache else "no-enable-prefix-caching")
    if job.speculation is not None:
        f.add("speculative-config", _json(_vllm_drafts(f, job)))
    if job.adapters is not None:
        f.add("enable-lora")
        f.add("max-loras", job.adapters.count)
        f.add("max-lora-rank", job.adapters.rank)
    if d.pools:
        f.add("kv-transfer-config", _json({"kv_connector": "NixlConnector", "kv_role": "kv_both"}))
    return f


def _vllm_drafts(f: Flags, job: ServeJob) -> dict[str, Any]:
    speculation = job.speculation
    assert speculation is not None
    said: dict[str, Any] = {"method": speculation.method, "num_speculative_tokens": speculation.tokens}
    if speculation.method in ("eagle", "eagle3", "draft_model"):
        said["model"] = speculation.drafter_name or "DRAFT_MODEL"
        f.notes.append(f"drafts: model {said['model']!r} stands for the path of what drafts")
    if speculation.method == "ngram":
        said["prompt_lookup_max"] = speculation.tokens
    return said


def sglang_flags(w: Worker, d: Deployed) -> Flags:
    """Options of `python3 -m sglang.launch_server`, without what differs between the hosts of a worker."""
    f, job = Flags("sglang", [], []), w.job
    _sglang_layout(f, w)
    f.add("max-running-requests", job.engine.max_batch * job.attention_dp)
    f.add("chunked-prefill-size", job.engine.token_budget * job.attention_dp)
    if job.engine.scheduling == "mixed" and w.role == "serve":
        f.add("enable-mixed-chunk")
    f.add("context-length", d.longest)
    _memory(f, job, "mem-fraction-static", "page-size", d)
    if job.formats.kv == "fp8":
        f.add("kv-cache-dtype", "fp8_e4m3")
    _weights(f, job, d)
    if not job.engine.prefix_cache:
        f.add("disable-radix-cache")
    if job.speculation is not None:
        _sglang_drafts(f, job)
    if job.adapters is not None:
        f.add("enable-lora")
        f.add("max-loras-per-batch", job.adapters.count)
        f.add("max-lora-rank", job.adapters.rank)
    if w.role != "serve":
        f.add("disaggregation-mode", w.role)
        f.add("disaggregation-transfer-backend", "nixl")
    return f


def _sglang_layout(f: Flags, w: Worker) -> None:
    job, dp = w.job, w.job.attention_dp
    f.add("tp-size", w.ranks)
    if job.layout.pp > 1:
        f.add("pp-size", job.layout.pp)
    if dp > 1:
        f.add("dp-size", dp)
        f.add("enable-dp-attention")
        f.notes.append(f"{dp} attention ranks share max-running-requests and chunked-prefill-size: {dp} times a rank's")
    if job.layout.ep > 1:
        f.add("ep-size", job.layout.ep)
        if dp > 1 and job.layout.ep == w.ranks:
            f.add("moe-a2a-backend", "deepep")
            f.add("moe-dense-tp-size", 1)
    if job.placement.planned and job.layout.ep > 1:
        f.add("enable-eplb")
        f.add("ep-num-redundant-experts", job.expert_slots)
    if job.two_batch:
        f.add("enable-two-batch-overlap")


def _sglang_drafts(f: Flags, job: ServeJob) -> None:
    speculation = job.speculation
    assert speculation is not None
    algorithm = {"mtp": "NEXTN", "eagle": "EAGLE", "eagle3": "EAGLE3", "ngram": "NGRAM", "draft_model": "STANDALONE"}
    f.add("speculative-algorithm", algorithm[speculation.method])
    f.add("speculative-num-steps", speculation.tokens)
    f.add("speculative-eagle-topk", 1)
    f.add("speculative-num-draft-tokens", speculation.tokens + 1)
    if speculation.method in ("eagle", "eagle3", "draft_model"):
        f.add("speculative-draft-model-path", speculation.drafter_name or "DRAFT_MODEL")
        f.notes.append("drafts: speculative-draft-model-path stands for the path of what drafts")


def _memory(f: Flags, job: ServeJob, share: str, block: str, d: Deployed) -> None:
    """Share of the memory and size of a block, where the engine is the one that was simulated."""
    engine = job.engine
    if engine.family != f.target:
        f.notes.append(f"{share}, {block}: left to {f.target}; {engine.family} was simulated with its own")
        return
    if "kv_fraction" in engine.given or not engine.reserve:
        f.add(share, engine.kv_fraction)
    else:
        f.notes.append(f"{share}: left to {f.target}, which was simulated with what it keeps free by itself")
    if "block_tokens" in engine.given:
        f.add(block, engine.block_tokens)


def _weights(f: Flags, job: ServeJob, d: Deployed) -> None:
    formats, precision = job.formats, d.resolved.ask.precision
    published = job.arch.checkpoint if "precision" not in d.resolved.ask.model_fields_set else None
    if published is not None:
        f.notes.append(f"weights: as published ({published.method}); the engine reads that by itself")
    elif "fp8_block" in (formats.attention, formats.experts):
        f.notes.append(_BLOCKS)
    elif formats.attention == "fp8":
        f.add("quantization", "fp8")
    elif precision not in ("bf16", "fp16"):
        f.notes.append(f"weights: a checkpoint in {precision}; the engine reads its format from the checkpoint")


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def words(flags: list[Flag]) -> list[str]:
    """Options as words of a command line, one per item with its value, quoted for a shell."""
    return [f"--{name}" if value is None else f"--{name} {shlex.quote(str(value))}" for name, value in flags]


def items(flags: list[Flag]) -> list[str]:
    """Options as items of a list of arguments, as containers take them."""
    return [part for name, value in flags for part in ((f"--{name}",) if value is None else (f"--{name}", str(value)))]
