"""Tokens of cache that engines print when they start, against ours: the same model, GPU, layout and arguments.

kv_logs.csv: one published log a line. `learn` rows were used for what engines.yaml says of memory, `held_out` were not;
`unit` says whether the log gives tokens, or GiB of one GPU where a model keeps windows and prints no plain number.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from moesim.hwmodels.units import GIB
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.job import ServeJob
from moesim.sim.serve.kv_cache import kv_cache
from moesim.sim.serve.memory import memory_said, serve_memory
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.work_space import share_of, work_bytes, work_said

Log = dict[str, str]
WITHIN = 0.10  # of every log
TYPICAL = 0.02  # of half of those that nothing was learned from


def logs() -> list[Log]:
    with (Path(__file__).parent / "kv_logs.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def number(text: str) -> float | int:
    return float(text) if "." in text else int(text)


def job_of(log: Log, **engine: Any) -> ServeJob:
    tp, pp = int(log["tp"]), int(log["pp"])
    pairs = (pair.split("=") for pair in log["settings"].split(";") if pair)
    stated = {"name": log["engine"], "version": log["version"], **{key: number(text) for key, text in pairs}, **engine}
    return serving(log["model"], log["gpu"], tp, pp, stated, precision=log["precision"], kv_dtype=log["kv_dtype"])


def serving(model: str, gpu: str, tp: int, pp: int, engine: Any, **serve: Any) -> ServeJob:
    load = {"rate_per_s": 1.0, "input_tokens": 1000, "output_tokens": 100}
    scenario = {
        "model": model,
        "cluster": {"gpu": gpu, "gpus": tp * pp * serve.get("attention_dp", 1)},
        "layout": {"tp": tp, "pp": pp, **serve.pop("layout", {})},
        "serve": {"engine": engine, "requests": load, **serve},
    }
    return resolve_serve(parse_scenario(scenario)).deployment.job


def ours(log: Log) -> float:
    job = job_of(log)
    free = serve_memory(job).cache_bytes
    cache = kv_cache(job, free, 1100)
    return free / GIB if log["unit"] == "gib" else float(cache.blocks * cache.block_tokens)


def off(log: Log) -> float:
    return ours(log) / float(log["printed"]) - 1.0


@pytest.mark.parametrize("log", logs(), ids=lambda log: str(log["id"]))
def test_a_log(log: Log) -> None:
    assert log["source"].startswith("https://") and log["split"] in ("learn", "held_out")
    assert abs(off(log)) < WITHIN


def test_held_out_logs_are_met_as_well_as_the_others() -> None:
    held = sorted(abs(off(log)) for log in logs() if log["split"] == "held_out")
    assert len(logs()) >= 24 and len(held) >= len(logs()) / 2
    assert held[len(held) // 2] < TYPICAL
    assert {log["engine"] for log in logs() if log["split"] == "held_out"} == {"vllm", "sglang", "trtllm"}


def vllm(version: str, **engine: Any) -> ServeJob:
    return serving("llama-3.1-8b", "h100-sxm", 1, 1, {"name": "vllm", "version": version, **engine})


def test_vllm_holds_the_logits_of_all_sequences_that_may_run() -> None:
    """Until 0.17 they took two and a half times as much; a batch of few costs the pass itself."""
    few = {"max_batch": 8}
    for version, each in (("0.16.0", 38.9), ("0.19.0", 15.3)):
        job, other = vllm(version), vllm(version, max_batch=512)
        assert work_bytes(job) - work_bytes(other) == pytest.approx(each * 512 * job.arch.vocab)
    widest = 2.0 * 8192 * (3 * 4096 + 3 * 14336)  # of 16 bits, gate, up and their product beside the stream
    assert work_bytes(vllm("0.19.0", **few)) == pytest.approx(0.72e9 + widest)
    grown = work_bytes(vllm("0.19.0", token_budget=32768, **few)) - work_bytes(vllm("0.19.0", **few))
    assert grown == pytest.approx(3 * widest)


def test_what_is_stated_is_all_there_is() -> None:
    job = vllm("0.19.0", work_bytes=2e9)
    assert work_bytes(job) == 2e9 and work_said(job) == []
    assert any(line.startswith("work_bytes = ") for line in work_said(vllm("0.19.0")))


def test_tensor_groups_hold_buffers() -> None:
    one, two = (serving("llama-3.1-8b", "h100-sxm", tp, 1, {"name": "vllm", "max_batch": 8}) for tp in (1, 2))
    slimmer = 2.0 * 8192 * 3 * 14336 / 2  # the widest block is split
    assert work_bytes(two) - work_bytes(one) == pytest.approx(1.95e9 - slimmer)


def test_sglang_reserves_what_passes_and_graphs_will_take() -> None:
    """0.828 of an H100 was printed for Qwen3-32B (sglang issue 29092), with graphs of prompts beside."""
    one = serving("qwen3-32b", "h100-sxm", 1, 1, "sglang")
    assert share_of(one) == pytest.approx(0.835, abs=0.001)
    assert any("sglang takes 0.835 of a GPU" in line for line in work_said(one))
    wide = serving("qwen3-32b", "h100-sxm", 4, 1, "sglang")
    assert share_of(wide) < share_of(one) < share_of(serving("qwen3-32b", "h200-sxm", 1, 1, "sglang"))
    short = serving("qwen3-32b", "h100-sxm", 1, 1, {"name": "sglang", "token_budget": 2048})
    assert 1.0 - share_of(short) == pytest.approx(1.0737e10 / short.cluster.gpu.usable_bytes)  # the least it reserves
    assert share_of(serving("qwen3-32b", "h100-sxm", 1, 1, {"name": "sglang", "kv_fraction": 0.9})) == 0.9
    ranks = serving("deepseek-v3", "b200-hgx", 1, 1, "sglang", attention_dp=8, layout={"ep": 8}, precision="fp8")
    assert share_of(ranks) < share_of(serving("deepseek-v3", "b200-hgx", 8, 1, "sglang", precision="fp8"))


def test_where_the_default_reserve_leaves_nothing_the_operators_share_is_taken() -> None:
    """Attention data parallel over 64 GPUs: the rule reserves more than an H100 has, and nobody runs it so."""
    load = {"kind": "closed", "concurrency": 64}
    ask = {"engine": "sglang", "precision": "fp8_block", "attention_dp": 64, "requests": load}
    scenario = {"model": "deepseek-v3", "cluster": {"node": "dgx-h100", "gpus": 64}, "layout": {"tp": 1, "ep": 64}}
    job = resolve_serve(parse_scenario({**scenario, "serve": ask})).deployment.job
    assert share_of(job) == job.engine.reserve["operators_share"]
    assert any("as operators state it" in line for line in work_said(job))


def test_where_weights_fill_a_gpu_operators_raise_the_share() -> None:
    """DeepSeek-V3 in FP8 on 8 H20: the engine's own share is smaller than the weights, and people serve it there."""
    serve = {"engine": "sglang", "precision": "fp8", "requests": {"kind": "closed", "concurrency": 8}}
    scenario = {"model": "deepseek-v3", "cluster": {"node": "hgx-h20", "gpus": 8}, "layout": {"tp": 8}, "serve": serve}
    job = resolve_serve(parse_scenario(scenario)).deployment.job
    held = serve_memory(job)
    assert share_of(job) * held.usable < held.weights + held.work < held.weights + held.cache_bytes < 0.95 * held.usable
    assert held.cache_bytes > 2 * GIB and any("leaves no cache" in line for line in memory_said(job))
    stated = {**scenario, "serve": {**serve, "engine": {"name": "sglang", "kv_fraction": 0.84}}}
    assert (
        serve_memory(resolve_serve(parse_scenario(stated)).deployment.job).cache_bytes < 0.0
    )  # as stated, it does not
