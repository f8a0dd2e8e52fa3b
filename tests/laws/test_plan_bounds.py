"""Bounds of the planner never exceed what the simulation finds, and the search finds what trying everything finds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moesim.sim.plan.train.bound import Cell
from moesim.sim.plan.train.judge import Judge
from moesim.sim.plan.train.plan import plan_train
from moesim.sim.plan.train.search import Effort, search
from moesim.sim.plan.train.space import candidates, default_space
from moesim.sim.plan.words import axes, sizes
from moesim.sim.question.scenario import ScenarioError, parse_scenario
from moesim.sim.train.activations import fullest_expert_rank, layer_bytes
from moesim.sim.train.prices import StepPrices

MIXTRAL: dict[str, Any] = {
    "model": "mixtral-8x7b",
    "cluster": {"node": "dgx-h100", "gpus": 64},
    "train": {"global_batch": 128, "seq_len": 4096},
    "routing": "balanced",
}
QUESTIONS: dict[str, dict[str, Any]] = {
    "MoE on tuned software": MIXTRAL,
    "DualPipe": {
        "model": "deepseek-v3",
        "cluster": {"node": "hgx-h800", "gpus": 2048},
        "train": {"global_batch": 15360, "seq_len": 4096, "precision": "fp8_block"},
        "stack": "hai-llm",
        "routing": "balanced",  # one rank stands for all: hundreds of thousands of exchanges take seconds, not minutes
    },
    "kept in host memory": {
        **MIXTRAL,
        "train": {**MIXTRAL["train"], "offload_activations": 0.5, "offload_optimizer": True},
    },
    "dense, older software": {
        "model": "gpt-22b",
        "cluster": {"node": "dgx-a100", "gpus": 32},
        "train": {"global_batch": 64, "seq_len": 2048, "precision": "fp16"},
        "stack": "megatron-2021",
    },
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_bounds_hold(name: str) -> None:
    asked = QUESTIONS[name]
    if name == "DualPipe":  # a quarter of its micro-batches shows the same
        asked = {**asked, "train": {**asked["train"], "global_batch": 3840}}
    judge = Judge(parse_scenario(asked))
    found = list(candidates(judge.base, default_space(judge.base, judge.open_stack.dispatcher, {})))
    assert len(found) > 300
    tight = []
    for candidate in found[:: max(1, len(found) // 8)]:
        bound_s = judge.bound_s(candidate)
        simulated = judge.simulate(candidate, bound_s, drawn=name != "DualPipe")
        assert bound_s <= simulated.step_time_s * (1 + 1e-9), candidate.title
        assert judge.memory_bytes(candidate) <= simulated.memory_bytes, candidate.title
        tight.append(bound_s / simulated.step_time_s)
    assert sum(tight) / len(tight) > 0.6  # and say something


@pytest.mark.parametrize("schedules", [("zb-h1", "gpipe"), ("zb-v", "v-half", "v-min")])
def test_zero_bubble_bounds_hold(schedules: tuple[str, ...]) -> None:
    """Also beside candidates that share all but the schedule, and whose exchanges hide where theirs do not."""
    judge = Judge(parse_scenario({**MIXTRAL, "stack": {"name": "megatron-tuned", "ep_overlap": "hidden"}}))
    space = default_space(judge.base, "auto", {"schedule": schedules, "micro_batch": (1,), "vpp": (1, 2)})
    found = [c for c in candidates(judge.base, space) if c.layout.pp > 1]
    assert {c.layout.schedule for c in found} == set(schedules)
    for candidate in found[:: max(1, len(found) // 8)]:
        paired = "interleaved" if candidate.layout.vpp > 1 else "1f1b"
        judge.bound_s(replace(candidate, layout=replace(candidate.layout, schedule=paired)))
        bound_s = judge.bound_s(candidate)
        simulated = judge.simulate(candidate, bound_s)
        assert bound_s <= simulated.step_time_s * (1 + 1e-9), candidate.title
        assert judge.memory_bytes(candidate) <= simulated.memory_bytes, candidate.title


def test_dualpipe_bounds_hold_without_experts_to_exchange() -> None:
    """A rank holds a stage and its mirror image, and runs each for one half of the micro-batches."""
    judge = Judge(parse_scenario({**MIXTRAL, "stack": {"name": "megatron-tuned", "cuda_graphs": "full"}}))
    given = {"schedule": ("dualpipe",), "ep": (1,), "micro_batch": (1,), "pp": (2, 4, 8)}
    found = [c for c in candidates(judge.base, default_space(judge.base, "auto", given)) if c.layout.pp > 1]
    assert found
    tight = []
    for candidate in found[:: max(1, len(found) // 8)]:
        bound_s, step_s = judge.bound_s(candidate), judge.simulate(candidate, 0.0).step_time_s
        assert bound_s <= step_s * (1 + 1e-9), candidate.title
        tight.append(bound_s / step_s)
    assert max(tight) > 0.6  # and say something


def test_the_search_finds_the_best_of_all() -> None:
    scenario = parse_scenario(MIXTRAL)
    given = {"tp": (1, 2), "pp": (1, 4), "vpp": (1, 2), "micro_batch": (1,), "recompute": ("none",), "etp": (1,),
             "dispatcher": ("auto",)}  # fmt: skip
    found = search(scenario, given, Effort(top=3))
    judge = Judge(scenario)
    everything = [
        judge.simulate(c, 0.0)
        for c in candidates(judge.base, default_space(judge.base, judge.open_stack.dispatcher, given))
    ]
    fitting = sorted((f for f in everything if f.fits), key=lambda f: f.step_time_s)
    assert found.simulated < len(everything)  # bounds saved work
    assert found.finalists[0].step_time_s == fitting[0].step_time_s
    near = [f.step_time_s for f in fitting[:3]]
    assert [f.step_time_s for f in found.finalists[:3]] == pytest.approx(near, rel=0.02)  # estimates


def test_deepseeks_own_layout_is_among_the_ten_best() -> None:
    given = {"tp": (1,), "pp": (8, 16), "ep": (32, 64), "etp": (1,), "micro_batch": (1,)}
    found = search(parse_scenario(QUESTIONS["DualPipe"]), given, Effort(top=10, most=24))
    titles = [f.candidate.title for f in found.finalists[:10]]
    assert any(t.startswith("tp1 pp16 vpp1 cp1 ep64 dp128 zero1 mbs1 dualpipe") for t in titles), titles


def test_more_gpus_and_money() -> None:
    given = {"tp": (1,), "pp": (1, 2), "vpp": (1,), "micro_batch": (1,), "recompute": ("none",), "etp": (1,)}
    plan = plan_train(MIXTRAL, gpus=(32, 64, 128), objective="cost", given=given, effort=Effort(top=3))
    assert [o.usd_per_million_tokens for o in plan.options] == sorted(
        o.usd_per_million_tokens or 0 for o in plan.options
    )
    steps = [o.finalist.step_time_s for o in plan.pareto]
    hours = [o.gpu_hours_per_million_tokens for o in plan.pareto]
    assert steps == sorted(steps) and hours == sorted(hours, reverse=True)
    assert {v.choice for v in plan.verdicts} >= {"no pipeline", "experts inside one scale-up domain"}
    assert plan.options[0].why.startswith("best")


@pytest.mark.parametrize(
    ("given", "change", "message"),
    [
        ({}, {"cluster": {"node": "dgx-h100", "gpus": 1}}, "fits 1 x h100-sxm: the smallest"),
        ({"tp": (3,)}, {}, "divides 64 GPUs and global_batch=128"),
    ],
)
def test_empty_searches_say_what_would_do(given: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        plan_train({**MIXTRAL, **change}, given=given, effort=Effort())


def test_bad_words_are_refused() -> None:
    for call, message in (
        (lambda: sizes("64.."), "write 64,128 or 64..512"),
        (lambda: sizes("512..64"), "counts down"),
        (lambda: axes(["tpp=4"]), "did you mean 'tp'"),
        (lambda: axes(["tp"]), "fixes nothing"),
        (lambda: axes(["tp=x"]), "not a whole number"),
        (lambda: axes(["recompute=some"]), "use one of none, selective, light, full"),
        (lambda: plan_train(MIXTRAL, objective="speed"), "use one of step_time"),
    ):
        with pytest.raises(ScenarioError, match=message):
            call()
    assert sizes("64..512") == (64, 128, 256, 512) and sizes("64,96") == (64, 96)
    assert axes(["layout.tp=4,8", "recompute=none"]) == {"tp": (4, 8), "recompute": ("none",)}


@pytest.mark.parametrize("name", ["deepseek-v2", "glm-4.5", "jamba-v0.1", "mixtral-8x7b"])
def test_layers_of_one_kind_are_sized_once_and_none_like_another(name: str) -> None:
    """What a cell sizes by kind is what a sum over layers gives, dense and state-space layers among experts."""
    judge = Judge(parse_scenario({
        "model": name, "cluster": {"node": "dgx-h100", "gpus": 64}, "routing": {"lognormal": 0.5},
        "train": {"global_batch": 64, "seq_len": 2048},
    }))  # fmt: skip
    layout = replace(judge.base.layout, ep=8, gpus=64)
    job = replace(judge.base, layout=layout)
    prices = StepPrices(job, judge.profile, judge.tuning, model=judge.model(job), drawn=False)
    cell, count = Cell(job, judge.profile, judge.tuning, judge.model(job)), job.arch.num_layers
    fullest = fullest_expert_rank(prices.balanced, range(count))
    kept = np.diff(cell.sizes.activation_bytes)
    dense, experts = np.diff(cell.sizes.dense_params), np.diff(cell.sizes.expert_params)
    for i, kind in enumerate(job.arch.layers):
        assert kept[i] == pytest.approx(layer_bytes(job, prices.balanced, i, fullest))
        own = prices.factory.dense_and_expert_params(f"L{i}", kind)
        assert (dense[i], experts[i]) == (pytest.approx(own[0]), pytest.approx(own[1]))
    assert len({round(float(k)) for k in kept}) >= len({kind.ffn for kind in job.arch.layers})
