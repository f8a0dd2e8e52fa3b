"""predict_serve: outputs, refusals with one clear line, memory, formats, and what options change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from moesim.hwmodels.gpu import load_gpu
from moesim.hwmodels.interval import Sureness
from moesim.sim.layout.layout import BadLayout
from moesim.sim.model.catalogue import load_model
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import ScenarioError, parse_scenario
from moesim.sim.serve.band import serve_sureness
from moesim.sim.serve.frontier import frontier
from moesim.sim.serve.memory import serve_memory
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.step_parts import token_grid
from moesim.sim.serve.weight_formats import formats_of
from moesim.sim.software.serving_engine import load_engine
from moesim.sim.software.stack import StackError
from moesim.traces.routing import BadTrace

BASE: dict[str, Any] = {
    "model": "mixtral-8x7b",
    "cluster": {"node": "dgx-h100", "gpus": 2},
    "layout": {"tp": 2},
    "serve": {
        "engine": "vllm",
        "precision": "fp8",
        "requests": {"kind": "poisson", "rate_per_s": 2.0, "count": 60, "input_tokens": 500, "output_tokens": 60},
    },
}


def changed(**deep: Any) -> dict[str, Any]:
    """BASE with keys replaced; 'serve__requests' reaches inside."""
    found = deepcopy(BASE)
    for path, value in deep.items():
        *owners, last = path.split("__")
        where = found
        for owner in owners:
            where = where[owner]
        if isinstance(value, Mapping) and isinstance(where.get(last), dict):
            where[last] = {**where[last], **value}
        else:
            where[last] = value
    return found


def test_the_answer_has_everything_and_is_json() -> None:
    answer = json.loads(json.dumps(predict_serve(BASE).to_dict(), allow_nan=False))
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        assert set(answer[name]) == {"mean", "p50", "p90", "p99"}
    for name in (
        "output_tokens_per_s", "output_tokens_per_s_per_gpu", "goodput_per_s", "label", "capacity_requests_per_s",
        "kv_blocks", "kv_tokens", "cost", "sources", "assumptions",
    ):  # fmt: skip
        assert name in answer
    assert answer["label"] == "stable" and answer["goodput_per_s"] > 0
    assert sum(answer["utilisation"].values()) == pytest.approx(1.0, abs=0.02)
    assert sum(answer["sources"].values()) == pytest.approx(1.0)
    low, mean = answer["intervals"]["tpot_s"]["low"], answer["tpot_s"]["mean"]
    assert low < mean < answer["intervals"]["tpot_s"]["high"]


def test_a_rate_past_capacity_is_said_with_the_capacity_and_ends() -> None:
    answer = predict_serve(changed(serve__requests={"rate_per_s": 5000.0, "count": 400}))
    assert answer.label == "overloaded"
    assert 0 < answer.capacity_requests_per_s < 5000.0


def test_too_little_memory_names_the_smallest_layout_that_does() -> None:
    with pytest.raises(DoesNotFit, match=r"deepseek-v3 does not fit on 8 x h100-sxm.*fits with tp=16 on 16 GPUs"):
        predict_serve(changed(model="deepseek-v3", cluster={"gpus": 8}, layout={"tp": 8}))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"serve": None}, ScenarioError, "no serve section"),
        ({"serve__engine": "vlm"}, StackError, "nearest are vllm"),
        ({"serve__engine": {"name": "vllm", "token_budgt": 3}}, StackError, "token_budget"),
        ({"serve__engine": {"name": "vllm", "max_batch": 0}}, StackError, "between 1 and"),
        ({"serve__engine": {"token_budget": 3}}, StackError, "needs name"),
        ({"serve__precision": "int3"}, ScenarioError, "int3"),
        ({"serve__requests": {"kind": "closed"}}, ScenarioError, "needs concurrency"),
        ({"serve__requests": {"rate_per_s": None}}, ScenarioError, "needs rate_per_s"),
        ({"serve__requests": {"kind": "trace"}}, ScenarioError, "needs file"),
        ({"serve__requests": {"input_tokens": 0}}, ScenarioError, "input_tokens"),
        ({"serve__requests": {"input_tokens": 40_000}}, ScenarioError, "longer than the context"),
        ({"serve__requests": {"concurrency": 8}}, ScenarioError, "concurrency is of no use with kind poisson"),
        ({"serve__requests": {"cv": 2.0}}, ScenarioError, "cv is of no use with kind poisson: .* for gamma"),
        ({"serve__requests": {"kind": "offline"}}, ScenarioError, "rate_per_s is of no use with kind offline"),
        ({"serve__kv_blocks": 3}, DoesNotFit, "a request of 560 tokens"),
        ({"serve__kv_offload": {"bytes": 1e9}}, ScenarioError, "unknown key 'serve.kv_offload'; it is called kv_tiers"),
        ({"serve__admission": {"retry_after_s": 2}}, ScenarioError, "retry_after_s is of no use without queue_limit"),
        ({"serve__kv_tiers": [{"kind": "host", "bytes": 1e14}]}, ScenarioError, "more than the .* GiB that a host has"),
        ({"serve__kv_blocks": 900_000_000}, DoesNotFit, "more than .* hold beside the weights"),
        ({"layout": {"tp": 3}}, BadLayout, "tp=3"),
        ({"layout": {"tp": 4}}, BadLayout, "takes 4 GPUs"),
        ({"layout": {"cp": 2}}, BadLayout, "are for training"),
        ({"serve__attention_dp": 2, "model": "llama-3.1-8b"}, BadLayout, "needs experts"),
        ({"serve__offload": {"resident": 0.5}, "model": "llama-3.1-8b"}, ScenarioError, "has none"),
        ({"serve__pools": {"prefill": {"tp": 2}, "decode": {"tp": 2}}}, BadLayout, "the pools take 4 GPUs"),
        ({"serve__precision": "fp8", "cluster": {"node": "dgx-v100"}}, ScenarioError, "no tensor path"),
    ],
)
def test_bad_questions_get_one_clear_line(change: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        predict_serve(changed(**change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("arrival_s,input_tokens\n0,5\n", "lacks column output_tokens"),
        ("arrival_s,input_tokens,output_tokens\n-1,5,5\n", "arrival_s"),
        ("arrival_s,input_tokens,output_tokens\n0,0,5\n", "input_tokens"),
        ("arrival_s,input_tokens,output_tokens\n0,5,x\n", "line 2"),
        ("arrival_s,input_tokens,output_tokens\n0,5\n", "2 cells under 3"),
        ("arrival_s,input_tokens,output_tokens\n", "holds no requests"),
    ],
)
def test_bad_traces_name_the_line(tmp_path: Path, text: str, says: str) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(text)
    with pytest.raises(BadTrace, match=says):
        predict_serve(BASE, requests=trace)


def test_a_trace_of_the_scenario_must_exist() -> None:
    asked = deepcopy(BASE)
    asked["serve"]["requests"] = {"kind": "trace", "file": "nowhere.csv"}
    with pytest.raises(BadTrace, match="cannot read trace nowhere"):
        predict_serve(asked)


def test_a_trace_replaces_the_requests(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens,prefix\n0.0,100,20,0\n0.5,200,1,150\n")
    answer = predict_serve(BASE, requests=trace)
    assert answer.requests == 2
    assert answer.run.log.prefix == [0, 150]


def test_options_move_the_answer_the_right_way() -> None:
    load = {"kind": "closed", "concurrency": 8, "count": 40, "rate_per_s": None}
    base = predict_serve(changed(serve__requests=load)).tpot_s.mean
    drafted = changed(serve__requests=load, serve__speculative={"tokens": 3, "acceptance": 0.8})
    assert predict_serve(drafted).tpot_s.mean < 0.7 * base
    offloaded = changed(serve__requests=load, serve__offload={"resident": 0.5})
    assert predict_serve(offloaded).tpot_s.mean > 3.0 * base
    on_host = {"resident": 0.5, "host_memory_bytes_per_s": 2e12}
    assert base < predict_serve(changed(serve__requests=load, serve__offload=on_host)).tpot_s.mean
    slow_host = {**on_host, "host_memory_bytes_per_s": 1e11}
    assert predict_serve(changed(serve__requests=load, serve__offload=slow_host)).tpot_s.mean > 2.0 * base
    sixteen = changed(serve__requests=load, serve__precision="bf16")
    assert predict_serve(sixteen).tpot_s.mean > 1.2 * base
    skewed = changed(serve__requests=load, routing={"lognormal": 3.0})
    assert predict_serve(skewed).tpot_s.mean < base  # fewer experts are touched
    many = changed(serve__requests=load, serve__adapters={"count": 64, "rank": 64})
    assert predict_serve(many).tpot_s.mean > base


def test_replicas_without_a_client_serve_nothing_and_count_for_nothing() -> None:
    load = {"kind": "closed", "concurrency": 1, "count": 10, "input_tokens": 200, "output_tokens": 20}
    load |= {"rate_per_s": None}
    one = predict_serve(changed(serve__requests=load))
    many = predict_serve(changed(serve__requests=load, cluster__gpus=4 * BASE["cluster"]["gpus"]))
    assert many.ttft_s.mean == pytest.approx(one.ttft_s.mean)
    assert many.tpot_s.mean == pytest.approx(one.tpot_s.mean)
    assert many.tpot_s.p50 > 0.0


def test_capacity_is_of_a_full_queue_however_many_requests_were_asked() -> None:
    def capacity(count: int, gpus: int) -> float:
        load = {"kind": "poisson", "rate_per_s": 1.0, "count": count, "input_tokens": 200, "output_tokens": 50}
        asked = changed(serve__requests=load, cluster__gpus=gpus)
        return predict_serve(asked).capacity_requests_per_s

    gpus = BASE["cluster"]["gpus"]
    assert capacity(100, gpus) == pytest.approx(capacity(1500, gpus), rel=0.02)
    assert capacity(100, 4 * gpus) == pytest.approx(4.0 * capacity(100, gpus), rel=0.02)


def test_wide_expert_parallelism_overlaps_and_replicates() -> None:
    load = {"kind": "closed", "concurrency": 1024, "count": 1024, "input_tokens": 100, "output_tokens": 20}
    asked: dict[str, Any] = {
        "model": "deepseek-v3",
        "cluster": {"node": "dgx-h200", "gpus": 32},
        "layout": {"ep": 32},
        "serve": {
            "engine": "sglang",
            "precision": "fp8",
            "attention_dp": 32,
            "requests": load,
        },
    }
    plain = predict_serve(asked)
    assert plain.utilisation["ep_comm"] > 0
    overlapped = deepcopy(asked)
    overlapped["serve"]["two_batch_overlap"] = True
    assert predict_serve(overlapped).tpot_s.mean < plain.tpot_s.mean
    evened = deepcopy(asked)
    evened["serve"]["expert_slots"] = 32
    assert predict_serve(evened).tpot_s.mean < plain.tpot_s.mean


def test_spare_slots_without_expert_ranks_are_said_to_be_of_no_use() -> None:
    said = predict_serve(changed(serve__expert_slots=2)).assumptions
    assert any("2 balance nothing with ep 1" in line for line in said)


def test_formats_follow_checkpoint_and_gpu() -> None:
    vllm, trtllm = load_engine("vllm"), load_engine("trtllm")
    h100, b200 = load_gpu("h100-sxm"), load_gpu("b200-hgx")
    deepseek, llama = load_model("deepseek-v3"), load_model("llama-3.1-70b")
    assert formats_of("fp4", None, deepseek, b200, vllm).experts == "nvfp4"
    assert formats_of("fp4", None, deepseek, h100, vllm).experts == "int4"
    assert formats_of("fp4", None, deepseek, b200, vllm).attention == "bf16"
    assert formats_of("fp8", None, deepseek, h100, vllm).experts == "fp8_block"
    assert formats_of("fp8", None, llama, h100, vllm).kv == "bf16"
    assert formats_of("fp8", None, llama, h100, trtllm).kv == "fp8"
    assert formats_of("fp8", "bf16", llama, h100, trtllm).kv == "bf16"


def test_weights_of_a_node_are_those_of_the_checkpoint() -> None:
    """DeepSeek-V3 in FP8 is 671 GB and its 16-bit embeddings more; over 8 ranks."""
    asked = changed(model="deepseek-v3", cluster={"node": "dgx-h200", "gpus": 8}, layout={"tp": 8})
    memory = serve_memory(resolve_serve(parse_scenario(asked)).deployment.job)
    assert 8 * memory.weights == pytest.approx(671e9 * 1.03, rel=0.03)


def test_the_frontier_trades_pace_for_throughput() -> None:
    points = frontier(resolve_serve(parse_scenario(BASE)), (1, 8, 64))
    assert [p.tpot_s for p in points] == sorted(p.tpot_s for p in points)
    rates = [p.output_tokens_per_s_per_gpu for p in points]
    assert rates == sorted(rates)


def test_token_grids_rise_and_reach() -> None:
    for most in (1, 7, 1024, 9000):
        grid = token_grid(most)
        assert list(grid) == sorted(set(grid)) and grid[-1] >= most and grid[0] == 1


def test_an_engine_of_no_date_widens_a_mixtures_tokens_and_not_its_first_one() -> None:
    def sure(model: str, engine: object) -> dict[str, Sureness]:
        ask = {"engine": engine, "precision": "bf16", "requests": {"kind": "closed", "concurrency": 4}}
        asked = {"model": model, "cluster": {"gpu": "h100-sxm", "gpus": 2}, "layout": {"tp": 2}, "serve": ask}
        resolved = resolve_serve(parse_scenario(asked))
        return serve_sureness(resolved.deployment, resolved.workload)

    for model, factor in (("mixtral-8x7b", 1.7), ("llama-3.1-8b", 1.0)):
        undated, dated = sure(model, "vllm"), sure(model, {"name": "vllm", "version": "0.19"})
        for metric, times in (("ttft_s", 1.0), ("tpot_s", factor), ("output_tokens_per_s", factor)):
            assert undated[metric].width.above == pytest.approx(times * dated[metric].width.above), (model, metric)
        assert ("engine.version" in undated["tpot_s"].narrower) == (factor > 1.0)


def test_a_gpu_that_no_fitted_run_is_of_widens_every_interval() -> None:
    ask = {"engine": "vllm", "precision": "bf16", "requests": {"kind": "closed", "concurrency": 4}}
    known, strange = (
        resolve_serve(parse_scenario({"model": "llama-3.1-8b", "cluster": {"gpu": gpu, "gpus": 1}, "serve": ask}))
        for gpu in ("h100-sxm", "h100-nvl")
    )
    near, far = (serve_sureness(r.deployment, r.workload) for r in (known, strange))
    for metric, sure in near.items():
        assert far[metric].width.above == pytest.approx(1.5 * sure.width.above)
        assert "h100-nvl" in far[metric].note and "widened" not in sure.note
        assert sum(far[metric].parts.values()) == pytest.approx(1.0)
