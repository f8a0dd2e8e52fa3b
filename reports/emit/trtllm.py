"""YAML of TensorRT-LLM: one file of LLM API options per pool, the servers' command lines, and that of both pools."""

from __future__ import annotations

from typing import Any

import yaml

from moesim.reports.emit.commands import comments
from moesim.reports.emit.worker import Deployed, Worker
from moesim.sim.serve.job import ServeJob
from moesim.sim.software.engine_options import check_option, paths_of

_SERVERS = {"prefill": "context_servers", "decode": "generation_servers"}
_FIRST_PORT = {"serve": 8000, "prefill": 8100, "decode": 8200}


def trtllm_options(w: Worker, d: Deployed) -> tuple[dict[str, Any], list[str]]:
    """Options of one worker for --config, and what none says. StackError for a key that is not documented."""
    job, notes = w.job, []
    engine, layout, dp = job.engine, job.layout, job.attention_dp
    said: dict[str, Any] = {
        "tensor_parallel_size": w.ranks,
        "pipeline_parallel_size": layout.pp,
        "enable_attention_dp": dp > 1,
        "max_batch_size": engine.max_batch,
        "max_num_tokens": engine.token_budget,
        "max_seq_len": d.longest,
        "enable_chunked_prefill": True,
    }
    if 1 < dp < w.ranks:
        notes.append(
            f"tp={w.tp} inside attention_dp={dp}: attention_dp is all or nothing here, {w.ranks} ranks of tp=1"
        )
    if job.arch.is_moe:
        said |= {"moe_expert_parallel_size": layout.ep, "moe_tensor_parallel_size": layout.etp}
    if w.hosts > 1:
        said["gpus_per_node"] = job.cluster.gpus_per_host
    said["kv_cache_config"] = _cache(job, notes)
    said |= _features(job, notes)
    if engine.stream_tokens > 1:
        said["stream_interval"] = engine.stream_tokens
    if w.role != "serve":
        said["cache_transceiver_config"] = {"backend": "UCX"}
    notes.append("weights: their format is read from the checkpoint")
    for path in paths_of(said):
        check_option("trtllm", path)
    return said, notes


def _cache(job: ServeJob, notes: list[str]) -> dict[str, Any]:
    engine = job.engine
    cache: dict[str, Any] = {"enable_block_reuse": engine.prefix_cache}
    if engine.family == "trtllm":
        cache |= {"free_gpu_memory_fraction": engine.kv_fraction, "tokens_per_block": engine.block_tokens}
    else:
        notes.append(f"free_gpu_memory_fraction: left to TensorRT-LLM; {engine.family} was simulated with its own")
    if job.formats.kv == "fp8":
        cache["dtype"] = "fp8"
    return cache


def _features(job: ServeJob, notes: list[str]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if job.placement.planned and job.layout.ep > 1:
        moe = job.arch.moe
        assert moe is not None
        updates = 1 if job.placement.rebalance_steps else 0
        slots = {"num_slots": moe.experts + job.expert_slots, "layer_updates_per_iter": updates}
        said["moe_config"] = {"backend": "WIDEEP", "load_balancer": slots}
        if not updates:
            notes.append("expert slots: without updates (0) the balancer needs initial_global_assignments of its own")
    if job.two_batch:
        notes.append("two_batch_overlap: TensorRT-LLM has no option for it")
    if job.speculation is not None:
        said["speculative_config"] = _drafts(job.speculation.method, job.speculation.tokens)
    if job.adapters is not None:
        notes.append("adapters: lora_config needs the paths of the adapters; not written here")
    return said


def _drafts(method: str, tokens: int) -> dict[str, Any]:
    if method == "mtp":
        return {"decoding_type": "MTP", "num_nextn_predict_layers": tokens}
    kind = {"eagle": "Eagle", "eagle3": "Eagle3", "ngram": "NGram", "draft_model": "Draft_Target"}[method]
    return {"decoding_type": kind, "max_draft_len": tokens}


def trtllm_files(d: Deployed) -> dict[str, str]:
    """A YAML per pool, a shell file that starts a worker of each, and disaggregated.yaml for pools."""
    files: dict[str, str] = {}
    lines: list[str] = []
    notes: list[str] = []
    for w in d.workers:
        said, own = trtllm_options(w, d)
        notes += own
        name = f"{w.name}.yaml"
        files[name] = comments(d, "trtllm", own) + text_of(said)
        launch = f"srun -N {w.hosts} --mpi=pmix trtllm-llmapi-launch " if w.hosts > 1 else ""
        port = _FIRST_PORT[w.role]
        lines.append(f"# {w.title}: once per worker, each on a port of its own from {port} on")
        lines.append(f'{launch}trtllm-serve "$MODEL" --backend pytorch --config {name} --host 0.0.0.0 --port {port}')
    if d.pools:
        both: dict[str, Any] = {"hostname": "localhost", "port": 8000, "backend": "pytorch"}
        for w in d.workers:
            urls = [f"{w.name}-host-{n}:{_FIRST_PORT[w.role]}" for n in range(w.count)]
            pool = both.setdefault(_SERVERS[w.role], {"num_instances": 0, "urls": []})
            pool["num_instances"] += w.count
            pool["urls"] += urls
        for path in paths_of(both):
            check_option("trtllm", path)
        more = ["urls: host names stand for the addresses of the workers"]
        files["disaggregated.yaml"] = comments(d, "trtllm", more) + text_of(both)
        lines.append("# then the server before both pools")
        lines.append("trtllm-serve disaggregated -c disaggregated.yaml")
    head = f"MODEL={d.model}  # or the path of its weights\n"
    files["serve.sh"] = "#!/bin/sh\n" + comments(d, "trtllm", notes) + head + "\n".join(lines) + "\n"
    return files


def text_of(*documents: dict[str, Any]) -> str:
    """YAML of one or more documents, in the order of their keys."""
    return "---\n".join(yaml.safe_dump(one, sort_keys=False, width=110) for one in documents)
