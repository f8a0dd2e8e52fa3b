"""The busiest rank of a pass: as uneven as sampled batches, evened out by slots, its rows a part of all."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from moesim.sim.layout.layout import BadLayout
from moesim.sim.layout.slots import contiguous_plan, rank_rows
from moesim.sim.plan.serve.space import shapes
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.expert_rows import busiest_by_layer, expert_rows
from moesim.sim.serve.resolve import resolve_serve
from moesim.traces.draws import draw_counts
from moesim.traces.rng import stream

BASE: dict[str, Any] = {
    "model": {"base": "deepseek-v3", "layers": 12},
    "cluster": {"node": "dgx-h200", "gpus": 64},
    "layout": {"ep": 64},
    "serve": {
        "engine": "sglang",
        "precision": "fp8",
        "attention_dp": 64,
        "requests": {"kind": "closed", "concurrency": 64, "count": 64, "input_tokens": 64, "output_tokens": 8},
    },
}


def job(routing: Any = None, **changed: Any) -> Any:
    asked = deepcopy(BASE) | {key: value for key, value in changed.items() if key != "expert_slots"}
    if routing is not None:
        asked["routing"] = routing
    if "expert_slots" in changed:
        asked["serve"]["expert_slots"] = changed["expert_slots"]
    return resolve_serve(parse_scenario(asked)).deployment.job


def imbalance(asked: Any, tokens: int) -> float:
    return float(expert_rows(asked, 256, tokens)[1])


@pytest.mark.parametrize("tokens", [512, 4096, 65_536])
def test_a_uniform_router_is_as_uneven_as_sampled_batches_are(tokens: int) -> None:
    drawn = draw_counts(stream(1, "test"), np.full((400, 256), 1 / 256), tokens, 8)
    sampled = rank_rows(drawn, contiguous_plan(256, 64)).max(axis=1).mean() / (tokens * 8 / 64)
    assert imbalance(job({"lognormal": 0.0}), tokens) - 1.0 == pytest.approx(sampled - 1.0, rel=0.05)
    assert imbalance(job("balanced"), tokens) == 1.0
    assert imbalance(job({"lognormal": 0.0, "sampling": False}), tokens) == pytest.approx(1.0)


@pytest.mark.parametrize("routing", [None, {"lognormal": 1.0}, {"lognormal": 0.65, "group_sigma": 0.36}])
def test_the_busiest_rank_falls_smoothly_with_the_tokens_of_a_pass(routing: Any) -> None:
    """Steps are summed in closed form: between neighbouring numbers of tokens nothing may jump or rise."""
    asked = job(routing)
    seen = np.array([imbalance(asked, tokens) for tokens in range(256, 320)])
    steps = np.diff(seen)
    assert (steps <= 0.0).all() and steps.min() > -0.01
    assert imbalance(asked, 100_000) < seen[-1]


@pytest.mark.parametrize("tokens", [64, 4096, 262_144])
def test_rows_of_the_busiest_rank_are_its_part_of_all_pairs(tokens: int) -> None:
    for asked in (job({"lognormal": 0.65}), job({"lognormal": 0.65}, expert_slots=64)):
        rows, busiest = expert_rows(asked, 256, tokens)
        assert len(rows) <= 4 + asked.expert_slots // 64
        assert sum(rows) == pytest.approx(tokens * 8 / 64 * busiest, abs=3)


def test_spare_slots_even_out_what_lasts_and_not_what_is_drawn() -> None:
    many, few = 1_000_000, 1024
    none, spare = job({"lognormal": 1.0}), job({"lognormal": 1.0}, expert_slots=64)
    assert imbalance(none, many) > 3.0 and imbalance(spare, many) == pytest.approx(1.02, abs=0.015)
    noise = imbalance(job({"lognormal": 0.0}), few)
    assert imbalance(spare, few) == pytest.approx(noise, abs=0.06)


def test_an_old_plan_is_worse_where_popularity_moves() -> None:
    moving = {"lognormal": 0.58, "group_sigma": 0.36, "drift": 0.9995}
    fresh, old, older = (
        imbalance(job(moving, placement={"slots": 320, "plan_age_steps": age}), 10**7) for age in (0, 100, 1000)
    )
    assert fresh < 1.05 < old - 0.1 < older - 0.3


def test_the_usual_load_is_as_uneven_as_recorded_ones() -> None:
    """One topic: 0.65 inside router groups and 0.36 between them, which left EP64 at 2.6 to 3.8 of the mean."""
    assert 2.3 < imbalance(job(), 10**7) < 3.4
    lines = resolve_serve(parse_scenario(BASE)).assumptions
    assert sum("routing = " in line for line in lines) == 1


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"expert_slots": 1}, "257 expert slots .* use 256 or 320 slots"),
        ({"placement": {"slots": 200}}, "slots=200 cannot hold the 256 experts"),
        ({"placement": {"slots": 320}, "expert_slots": 64}, "another name of placement.spare_slots"),
        ({"placement": {"spare_slots": 64}, "model": "llama-3.1-8b", "layout": {}}, "has none"),
    ],
)
def test_slots_that_cannot_be_are_refused(changed: dict[str, Any], says: str) -> None:
    if changed.get("model"):
        changed = {**changed, "serve": {"requests": {"kind": "closed", "concurrency": 1}}}
    with pytest.raises(BadLayout, match=says):
        job(**changed)


def test_three_spellings_of_as_many_slots() -> None:
    asked = ({"slots": 512}, {"spare_slots": 256}, {"replicas": 2})
    assert len({job(placement=each).placement for each in asked}) == 1
    assert job(placement={}).placement.planned and not job(expert_slots=0).placement.planned


def test_plans_only_look_at_ranks_that_the_slots_fit() -> None:
    asked = job(placement={"slots": 320})
    seen = {shape.ep for shape in shapes(asked.arch, 128, 8, {}, asked.placement)}
    assert 64 in seen and all(320 % ep == 0 for ep in seen)
    assert 128 in {shape.ep for shape in shapes(asked.arch, 128, 8, {})}


def test_layers_in_sight_are_those_that_passes_wait_for() -> None:
    asked = job({"lognormal": 0.65})
    seen = busiest_by_layer(asked, 512)
    assert len(seen) == 8 and min(seen) == 3 and max(seen) == 11  # of the 9 with experts, the first three are dense
    assert np.mean(list(seen.values())) == pytest.approx(imbalance(asked, 512), rel=1e-12)
    assert busiest_by_layer(job("balanced"), 512) == {3: 1.0}
