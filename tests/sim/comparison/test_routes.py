"""Routes from dense checkpoints to a mixture: what each takes, and which parents it can be made of."""

from __future__ import annotations

from typing import Any

import pytest

from moesim import DenseParent, ScenarioError
from moesim.sim.comparison.upcycling import route_called, route_names, upcycling

SMALL = {"global_batch": 64, "seq_len": 2048}
MIXTRAL = {"model": "mixtral-8x7b", "cluster": {"node": "dgx-h100", "gpus": 64}, "layout": {"pp": 4, "ep": 8}}
MIXTRAL |= {"train": SMALL}
SLICED = {"model": "llama-moe-3.5b", "cluster": {"node": "dgx-a100", "gpus": 16}, "layout": {"ep": 8}, "train": SMALL}


def test_every_route_says_what_it_takes() -> None:
    assert route_names() == ("upcycle", "merge", "split")
    for name in route_names():
        route = route_called(name)
        assert 0.0 < route.token_share < 1.0 and "arXiv" in route.source and route.kind == "assumed"


def test_a_merged_mixture_takes_a_parent_for_every_expert() -> None:
    found = upcycling(MIXTRAL, DenseParent("mistral-7b", "merge"), 1e12)
    assert (found.parents, found.route) == (8, "merge")
    assert found.tokens_saved == pytest.approx(0.96e12)
    assert found.upcycled.gpu_hours == pytest.approx(0.04 * found.scratch.gpu_hours, rel=0.01)
    assert "2403.07816" in found.note and "routers are new" in found.note


def test_a_split_mixture_fills_the_width_of_its_parent() -> None:
    found = upcycling(SLICED, DenseParent("llama-2-7b", "split"), 1e12)
    assert (found.parents, found.token_share) == (1, 0.1)
    assert found.parent_run.tokens == found.scratch.tokens == 1e12
    assert found.parent_run.gpu_hours > found.scratch.gpu_hours  # 6.7 B against 3.5 B active parameters


@pytest.mark.parametrize(
    ("scenario", "start", "says"),
    [
        (MIXTRAL, DenseParent("mistral-7b", "split"), "114688 in all, the block of mistral-7b 14336"),
        (SLICED, DenseParent("llama-2-7b", "merge"), "1376 wide, the block of llama-2-7b 11008"),
        (MIXTRAL, DenseParent("mistral-7b", "fuse"), "use one of upcycle, merge, split"),
        (MIXTRAL, DenseParent("mistral-7b", ""), "route '' is not known"),
        (MIXTRAL, DenseParent("gpt-6.7b", "merge"), "those of gpt-6.7b: plain"),
        (MIXTRAL, DenseParent("llama-2-7b", "merge"), "name a parent of equal attention"),
        (MIXTRAL, DenseParent("qwen3-30b-a3b", "split"), "has experts already"),
        ({**SLICED, "model": "llama-2-7b", "layout": {}}, DenseParent("llama-2-7b", "split"), "nothing is upcycled"),
        ({k: v for k, v in SLICED.items() if k != "train"}, DenseParent("llama-2-7b", "split"), "no train section"),
    ],
)
def test_parents_of_other_sizes_are_refused_in_a_line(scenario: Any, start: DenseParent, says: str) -> None:
    with pytest.raises(ScenarioError) as refusal:
        upcycling(scenario, start, 1e12)
    assert says in str(refusal.value) and len(str(refusal.value)) < 500 and "\n" not in str(refusal.value)


def test_tokens_are_needed_by_every_route() -> None:
    with pytest.raises(ScenarioError, match="give tokens"):
        upcycling(SLICED, DenseParent("llama-2-7b", "split"), None)
