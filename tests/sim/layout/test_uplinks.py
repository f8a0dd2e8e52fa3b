"""Where jobs and their stages lie on the leaves of one fabric, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moesim.hwmodels.cluster import build_cluster
from moesim.sim.layout.layout import Layout
from moesim.sim.layout.uplinks import Spread, alone_on, binding_uplinks, fullest, seats, uplinks_of

TREE = build_cluster("dgx-h100", 64, "fat-tree-ib-400", oversubscription=4.0)  # a leaf takes 4 hosts, 32 GPUs


def test_jobs_lie_one_after_the_other_or_take_turns_and_never_share_a_host() -> None:
    small, large = (build_cluster("dgx-h100", n, "fat-tree-ib-400") for n in (12, 24))
    assert seats([small, large], "contiguous") == [[(0, 12)], [(16, 24)]]
    assert seats([small, large], "interleaved") == [[(0, 8), (16, 4)], [(8, 8), (24, 8), (32, 8)]]


@pytest.mark.parametrize("spread", ["contiguous", "interleaved"])
def test_every_gpu_hangs_on_one_leaf_and_parts_of_its_uplinks_sum_to_one(spread: Spread) -> None:
    layouts = [Layout(gpus=64, pp=4), Layout(gpus=48, pp=3), Layout(gpus=8)]
    clusters = [build_cluster("dgx-h100", lay.gpus, "fat-tree-ib-400") for lay in layouts]
    found = uplinks_of(layouts, clusters[0], seats(clusters, spread))
    for layout, uplinks in zip(layouts, found, strict=True):
        assert [sum(n for _, n in runs) for runs in uplinks.runs] == [layout.gpus // layout.pp] * layout.pp
    used: dict[int, float] = {}
    for uplinks in found:
        assert all(0.0 < part <= 1.0 for row in uplinks.over for _, part in row)
        for number, part in (each for row in uplinks.over for each in row):
            used[number] = used.get(number, 0.0) + part * uplinks.leaf_share
    assert used == pytest.approx(dict.fromkeys(used, 1.0))
    leaves = -(-max(place + n for row in seats(clusters, spread) for place, n in row) // 32)
    assert sum(count for _, count in found[0].leaves) == leaves


def test_stages_of_one_leaf_share_its_uplinks_and_hops_climb_where_leaves_end() -> None:
    uplinks = alone_on(Layout(gpus=64, pp=4), TREE)  # stages of two hosts: two to a leaf
    assert uplinks.over == (((-1, 0.5),), ((-1, 0.5),), ((-2, 0.5),), ((-2, 0.5),))
    assert [uplinks.climbs(a, a + 1) for a in range(3)] == [False, True, False]
    assert uplinks.met == {0, 1, 2, 3} and not uplinks.met_jobs
    wide = alone_on(Layout(gpus=192, pp=2), build_cluster("dgx-h100", 192, "fat-tree-ib-400"))
    assert wide.over == (((-1, 1.0),), ((-2, 1.0),)) and wide.leaves == ((0, 3), (3, 3))  # alike leaves are one link
    assert wide.climbs(0, 1) and not wide.met


def test_a_stage_that_ends_inside_a_leaf_uses_a_part_of_it() -> None:
    uplinks = alone_on(Layout(gpus=96, pp=2), build_cluster("dgx-h100", 96, "fat-tree-ib-400"))
    assert uplinks.over == (((-1, 1.0), (-2, 0.5)), ((-2, 0.5), (-3, 1.0)))
    assert uplinks.rings == (((-1, 1.0), (-2, 1.0)), ((-2, 1.0), (-3, 1.0)))  # each has a host that sends beyond it
    assert uplinks.runs == (((0, 32), (1, 16)), ((1, 16), (2, 32)))


def test_how_full_uplinks_can_get() -> None:
    """Rings: a quarter of a leaf sends beyond it; two of them in the leaf where one stage ends and another begins."""
    clusters = {n: build_cluster("dgx-h100", n, "fat-tree-ib-400", oversubscription=3.0) for n in (64, 96, 192)}
    jobs = {n: (Layout(gpus=n), clusters[n], alone_on(Layout(gpus=n), clusters[n])) for n in clusters}
    assert fullest([jobs[64]]) == pytest.approx(0.75) and fullest([jobs[192]]) == pytest.approx(0.75)
    halves = Layout(gpus=96, pp=2, tp=2)
    assert fullest([(halves, clusters[96], alone_on(halves, clusters[96]))]) == pytest.approx(3.0)  # sends
    placed = seats([clusters[64]] * 2, "interleaved")
    both = uplinks_of([Layout(gpus=64)] * 2, clusters[64], placed)
    half = replace(clusters[64], leaf_share=0.5, leaf_gpus=16)
    assert fullest([(Layout(gpus=64), half, u) for u in both]) == pytest.approx(1.5)


def test_interleaved_jobs_have_half_a_leaf_each() -> None:
    layouts = [Layout(gpus=64), Layout(gpus=64)]
    clusters = [build_cluster("dgx-h100", 64, "fat-tree-ib-400")] * 2
    first, second = uplinks_of(layouts, clusters[0], seats(clusters, "interleaved"))
    assert (first.leaf_share, first.leaf_gpus, first.met_jobs) == (0.5, 16, True)
    assert first.over == second.over == first.rings == (((-1, 1.0),),) and first.leaves == ((0, 4),)
    apart = uplinks_of(layouts, clusters[0], seats(clusters, "contiguous"))
    assert [(u.leaf_share, u.leaf_gpus, u.met_jobs) for u in apart] == [(1.0, 0, False)] * 2


def test_uplinks_that_nothing_can_fill_are_left_out() -> None:
    layout = Layout(gpus=64)
    assert binding_uplinks(layout, build_cluster("dgx-h100", 64, "fat-tree-ib-400")) is None  # non-blocking
    assert binding_uplinks(layout, TREE) is None  # rings: a quarter climbs
    assert binding_uplinks(layout, build_cluster("dgx-h100", 64, "fat-tree-ib-400", oversubscription=8.0)) is not None
    assert binding_uplinks(Layout(gpus=64, pp=2), TREE) is not None  # sends to the other leaf
    assert binding_uplinks(Layout(gpus=64, pp=2), build_cluster("dgx-h100", 64, oversubscription=8.0)) is None  # rails
