"""Room for keys and values over random deployments: parts add up, more work leaves less, a stated share is kept.

And of what training keeps: a narrower format of linear layers' inputs never keeps more, in 8 bits twice never less.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import JOBS

from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.job import ServeJob
from moesim.sim.serve.memory import serve_memory
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.work_space import share_of, work_bytes
from moesim.sim.train.activations import layer_bytes
from moesim.sim.train.job import resolve
from moesim.sim.train.prices import StepPrices

ENGINES = st.sampled_from(["vllm", "sglang", "trtllm"])
MODELS = st.sampled_from(["llama-3.1-8b", "mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v3", "gpt-oss-120b"])
NODES = st.sampled_from(["dgx-h100", "dgx-h200", "hgx-h20"])


def job(model: str, node: str, tp: int, engine: dict[str, Any], dp: int = 1) -> ServeJob:
    serve = {"engine": engine, "precision": "fp8", "attention_dp": dp, "requests": {"kind": "closed", "concurrency": 8}}
    layout = {"tp": tp, "ep": tp * dp} if dp > 1 else {"tp": tp}
    asked = {"model": model, "cluster": {"node": node, "gpus": tp * dp}, "layout": layout, "serve": serve}
    return resolve_serve(parse_scenario(asked)).deployment.job


@settings(max_examples=40)
@given(ENGINES, MODELS, NODES, st.sampled_from([1, 2, 4, 8]), st.integers(256, 32768), st.integers(1, 4096))
def test_parts_add_up_and_more_work_never_leaves_more(
    name: str, model: str, node: str, tp: int, budget: int, batch: int
) -> None:
    base = job(model, node, tp, {"name": name, "token_budget": budget, "max_batch": batch})
    held = serve_memory(base)
    assert 0.0 < share_of(base) <= 1.0 and work_bytes(base) > 0.0
    if held.cache_bytes > 0.0:
        assert held.weights + held.adapters + held.work + held.cache_bytes <= held.usable
    for more in ({"token_budget": 2 * budget}, {"max_batch": min(2 * batch, 8192)}):
        asked = {"name": name, "token_budget": budget, "max_batch": batch, "kv_fraction": share_of(base)}
        before, after = (job(model, node, tp, {**asked, **each}) for each in ({}, more))
        assert work_bytes(after) >= work_bytes(before)
        assert serve_memory(after).cache_bytes <= serve_memory(before).cache_bytes


@settings(max_examples=40)
@given(ENGINES, MODELS, NODES, st.sampled_from([1, 2, 4, 8]), st.floats(0.3, 0.97), st.floats(0.3, 0.97))
def test_a_stated_share_is_kept_and_a_larger_one_leaves_more(
    name: str, model: str, node: str, tp: int, one: float, other: float
) -> None:
    low, high = (job(model, node, tp, {"name": name, "kv_fraction": share}) for share in sorted((one, other)))
    assert share_of(low) == min(one, other) and share_of(high) == max(one, other)
    small, large = (serve_memory(each).cache_bytes for each in (low, high))
    assert small <= large or large < 0.0  # of what is free, nothing: weights alone are too large


@pytest.mark.parametrize("dp", [1, 2, 4, 8, 16, 32, 64])
def test_an_engine_that_reserves_by_itself_always_leaves_something(dp: int) -> None:
    """SGLang's reserve grows with attention data parallelism until it leaves nothing: then operators state a share."""
    assert 0.6 < share_of(job("deepseek-v3", "dgx-h200", 1, {"name": "sglang"}, dp)) < 0.95


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_narrower_inputs_never_keep_more_and_count_once(name: str, precision: str) -> None:
    def kept(**stack: bool) -> float:
        asked = deepcopy(JOBS[name])
        asked["train"]["precision"] = precision
        given = asked.get("stack") or "megatron-tuned"
        named = given if isinstance(given, dict) else {"name": given}
        asked["stack"] = {**named, **stack}
        resolved = resolve(parse_scenario(asked))
        loads = StepPrices(resolved.job, resolved.kernels, resolved.tuning()).loads
        return layer_bytes(resolved.job, loads, resolved.job.arch.num_layers - 1)

    wide, narrow = (kept(quantised_inputs=q, fp8_activations=False) for q in (False, True))
    cached, both = (kept(quantised_inputs=q, fp8_activations=True) for q in (False, True))
    assert narrow <= wide and both <= cached <= wide
    if precision == "bf16":
        assert narrow == wide and both == cached
