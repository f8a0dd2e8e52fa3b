"""What sets the GPUs of a stage apart, by hand: how many rows ranks get and how that varies, who is slow, bad links."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moesim.hwmodels.wires import WIRES
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.job import resolve
from moesim.sim.train.members import _GRID, StageMembers, shape_of
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.unlike import ALIKE, BadLink, Unlike

EXPERTS, TOP_K = 64, 4
ASKED: dict[str, Any] = {
    "model": {
        "hidden": 256, "layers": 4, "vocab": 1000, "tied_embeddings": False, "max_context": 4096,
        "attention": {"heads": 8, "kv_heads": 4, "head_dim": 32},
        "moe": {"experts": EXPERTS, "top_k": TOP_K, "expert_intermediate": 128, "gated": True},
    },
    "cluster": {"node": "dgx-h100", "gpus": 64},
    "layout": {"pp": 2, "ep": 16},
    "train": {"global_batch": 2048, "seq_len": 512},
    "routing": {"lognormal": 0.0},
}  # fmt: skip


def prices(unlike: Unlike = ALIKE, **changes: Any) -> StepPrices:
    resolved = resolve(parse_scenario({**deepcopy(ASKED), **changes}))
    return StepPrices(replace(resolved.job, unlike=unlike), resolved.kernels, resolved.tuning())


@pytest.mark.parametrize(
    ("layout", "gpus", "shape"),
    [
        ({"pp": 2, "ep": 16}, 64, (2, 16)),
        ({"ep": 8}, 64, (8, 8)),
        ({"tp": 2, "ep": 8}, 64, (8, 8)),
        ({"tp": 4, "cp": 2, "ep": 2}, 64, (8, 8)),
        ({"tp": 2, "ep": 8, "etp": 2}, 64, (4, 16)),
        ({"tp": 2, "pp": 4}, 64, (8, 2)),
    ],
)
def test_groups_of_a_stage(layout: dict[str, int], gpus: int, shape: tuple[int, int]) -> None:
    """Members are those that tensor, context or expert parallel transfers join."""
    found = prices(layout=layout, cluster={"node": "dgx-h100", "gpus": gpus}, routing="balanced")
    assert shape_of(found) == shape


def test_rows_of_ranks_vary_as_draws_without_replacement_do() -> None:
    """All experts alike: of each of 16 x 512 tokens, 4 of 64 experts are drawn, 4 of them on a rank.

    The number on a rank is hypergeometric: variance k (1/p) (1 - 1/p) (E - k) / (E - 1), for every token anew.
    """
    rows = prices().routed()
    assert rows is not None
    drawn = np.concatenate([rows.layer(place).rows.reshape(-1, 16) for place in rows.layers])
    tokens, ranks = 16 * 512, 16
    assert np.all(drawn.sum(axis=1) == tokens * TOP_K) and drawn.mean() == tokens * TOP_K / ranks
    one = TOP_K * (1 / ranks) * (1 - 1 / ranks) * (EXPERTS - TOP_K) / (EXPERTS - 1)
    # 512 micro-batches of 16 ranks: a variance is known to sqrt(2 / n)
    assert drawn.var() == pytest.approx(tokens * one, rel=4 * np.sqrt(2.0 / len(drawn)))
    # what one rank gets others do not: a correlation of -1 / (ranks - 1)
    together = np.corrcoef(drawn.T)[np.triu_indices(ranks, 1)].mean()
    assert together == pytest.approx(-1 / (ranks - 1), abs=0.01)


def test_rows_that_are_not_drawn_are_the_mean() -> None:
    rows = prices(routing={"lognormal": 0.0, "sampling": False}).routed()
    assert rows is None or all(np.ptp(rows.layer(place).rows) == 0 for place in rows.layers)


def members(unlike: Unlike = ALIKE) -> StageMembers:
    return StageMembers(prices(unlike, routing="balanced"), None, None)


def test_a_slow_gpu_is_one_member_of_one_stage() -> None:
    """GPU 37 of 64 in two stages of 2 groups of 16: the second stage, its first group, its sixth member."""
    slow = members(Unlike(slow_gpus=(37,), speed_factor=0.8)).slow
    assert list(slow) == [1] and slow[1].shape == (2, 16)
    assert slow[1][0, 5] == 1.25 and slow[1].sum() == 31 + 1.25
    both = members(Unlike(slow_gpus=(0, 31, 32), speed_factor=0.5))
    assert both.slow[0][0, 0] == both.slow[0][1, 15] == both.slow[1][0, 0] == 2.0
    assert (both.slowest(0), both.slowest(1)) == (2.0, 2.0) and members().slowest(0) == 1.0


@pytest.mark.parametrize(
    ("share", "left", "now_s", "factor"),
    [
        (1.0, 0.5, 1.0, 2.0),  # a transfer that fills a link of which half is left takes twice as long
        (0.25, 0.5, 1.0, 1.0),  # one that fills a quarter of it does not feel it
        (0.5, 0.25, 1.0, 2.0),
        (1.0, 0.5, 0.999, 1.0),  # before it fails
        (0.0, 0.5, 1.0, 1.0),
    ],
)
def test_transfers_over_a_bad_link(share: float, left: float, now_s: float, factor: float) -> None:
    gpu, wire = 5, WIRES[0]
    stage = members(Unlike(links=(BadLink(wire, gpu, left, 1.0),)))
    seconds = np.broadcast_to(stage.stretched(3.0, 0, [(0, share)], now_s), (2, 16))
    assert seconds[0, 5] == pytest.approx(3.0 * factor)
    assert np.count_nonzero(seconds != 3.0) == (factor != 1.0)
    assert stage.joint_s(3.0, 0, [(0, share)], now_s) == pytest.approx(3.0 * factor)
    assert stage.joint_s(3.0, 1, [(0, share)], now_s) == 3.0  # another stage
    assert stage.joint_s(3.0, 0, [(1, share)], now_s) == 3.0  # another wire


def test_seconds_between_the_points_of_a_table_lie_on_a_line_and_go_on_beyond_it() -> None:
    """A table of r squared, r rows over their mean, on a grid of eighths up to five."""
    assert _GRID[0] == 0.0 and _GRID[8] == 1.0 and _GRID[-1] == 5.0
    stage = members()
    asked = np.array([[1.0, 1.0625, 0.0, 5.0, 6.0, *([1.0] * 11)], [1.0] * 16])
    stage._shares[0] = asked[None]
    (found,) = stage._along(np.array([_GRID**2]), 0, 0)
    slope = (_GRID[-1] ** 2 - _GRID[-2] ** 2) / (_GRID[-1] - _GRID[-2])
    assert found[0, :5] == pytest.approx([1.0, (1.0 + 1.125**2) / 2, 0.0, 25.0, 25.0 + slope])
    assert np.all(found[1] == 1.0)
