"""Layouts that cut blocks of FP8 scales: engines refuse to load them, so serving and plans do, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moesim.sim.layout.layout import BadLayout
from moesim.sim.model.catalogue import load_model
from moesim.sim.model.writing import as_mapping
from moesim.sim.plan.serve.plan import plan_serve
from moesim.sim.plan.serve.search import ServeEffort
from moesim.sim.question.scenario import ScenarioError, parse_scenario
from moesim.sim.serve.resolve import resolve_serve

_CONFIGS = Path(__file__).parents[1] / "model" / "hf_configs"
_LOAD = {"kind": "poisson", "rate_per_s": 2, "count": 20, "input_tokens": 500, "output_tokens": 20}


def _asked(
    name: str, layout: dict[str, int], block: list[int] | None = None, as_yaml: bool = False, **serve: Any
) -> dict[str, Any]:
    config = json.loads((_CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    if block:
        config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": block}
    model = as_mapping(load_model(config)) if as_yaml else config
    scenario: dict[str, Any] = {"model": model, "cluster": {"node": "dgx-h100", "gpus": 8}, "layout": layout}
    return {**scenario, "serve": {"engine": "vllm", "requests": _LOAD, **serve}}


_SQUARE = [128, 128]
_TP8 = {"tp": 8}
_CUT = "etp=8 leaves each rank 96 of expert width 768, no multiple of 128; spread whole experts with ep"


@pytest.mark.parametrize("as_yaml", [False, True])
@pytest.mark.parametrize(
    "serve", [{}, {"engine": "sglang"}, {"precision": "fp8"}, {"engine": "vllm", "attention_dp": 8}]
)
def test_experts_that_are_cut_inside_a_block_are_refused(serve: dict[str, Any], as_yaml: bool) -> None:
    layout = {"tp": 1} if "attention_dp" in serve else _TP8
    with pytest.raises(BadLayout, match=_CUT) as caught:
        resolve_serve(parse_scenario(_asked("qwen3-30b-a3b", layout, _SQUARE, as_yaml, **serve)))
    assert "use etp of 1, 2, 3, 6" in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "block", "serve"),
    [
        ({"tp": 8, "ep": 8}, _SQUARE, {}),
        ({"tp": 2}, _SQUARE, {}),
        (_TP8, [32, 32], {}),
        (_TP8, None, {}),
        (_TP8, _SQUARE, {"precision": "bf16"}),
        (_TP8, _SQUARE, {"engine": "trtllm"}),
    ],
)
def test_whole_blocks_other_formats_and_other_engines_are_fine(
    layout: dict[str, int], block: list[int] | None, serve: dict[str, Any]
) -> None:
    gpus = layout["tp"]
    asked = _asked("qwen3-30b-a3b", layout, block, **serve)
    assert resolve_serve(parse_scenario(asked)).deployment.job.gpus == gpus


def test_dense_blocks_and_heads_count_too() -> None:
    with pytest.raises(BadLayout, match=r"tp=4 leaves each rank 3,584 of dense width 14,336, no multiple of 1024"):
        resolve_serve(parse_scenario(_asked("llama-3.1-8b", {"tp": 4}, [1024, 1024])))
    asked = _asked("llama-3.1-8b", _TP8, _SQUARE)
    asked["model"] |= {"head_dim": 64}
    with pytest.raises(BadLayout, match=r"tp=8 leaves each rank 64 of keys' width 512"):
        resolve_serve(parse_scenario(asked))


def test_pools_are_checked_each() -> None:
    pools = {"prefill": {"tp": 4, "ep": 4}, "decode": {"tp": 4}}
    asked = _asked("qwen3-30b-a3b", {}, _SQUARE, pools=pools)
    with pytest.raises(BadLayout, match="etp=4 leaves each rank 192 of expert width 768"):
        resolve_serve(parse_scenario(asked))


def test_a_plan_skips_what_cannot_be_loaded_and_counts_it() -> None:
    asked = _asked("qwen3-30b-a3b", {}, _SQUARE)
    free = {"pp": (1,), "attention_dp": (1,)}
    plan = plan_serve(asked, objective="tokens_per_s_per_gpu", given=free, effort=ServeEffort(top=3, most=6))
    assert {s.title for search in plan.searches for s in search.cut} == {"tp4", "tp8"}
    assert all(s.candidate.shape.ep > 1 or s.candidate.shape.tp < 4 for f in plan.searches for s in f.served)
    assert plan.to_dict()["searched"][0]["layouts_not_loadable"] == 2
    with pytest.raises(ScenarioError, match=r"no layout of .* can be loaded: vLLM.*are cut"):
        plan_serve(asked, given={**free, "tp": (8,), "ep": (1,)})
