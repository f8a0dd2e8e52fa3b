"""A slower fabric never makes a step or an exchange faster, and what a CPU posts for the GPU costs the CPU."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs import MOE, job, prices_of

from moesim.hwmodels.cluster import build_cluster, fabric_kinds
from moesim.hwmodels.exchange_kernels import exchange_lower_bound_s, exchange_s, posted_s
from moesim.hwmodels.work import ExpertExchange, Group
from moesim.sim.software.dispatchers import DISPATCHERS, borrowed, carried, closest
from moesim.sim.software.stack import Tuning, constants
from moesim.sim.train.step import simulate_step

EXCHANGE = ExpertExchange(
    stage="dispatch", tokens=2048, top_k=8, payload_bytes=8192, group=Group(32, 8), node_copies=3.0, rank_copies=6.0,
    sms=20,
)  # fmt: skip
KERNELS = ("normal", "all_to_all", "hybrid")


@given(
    kernel=st.sampled_from(KERNELS),
    share=st.floats(0.05, 1.0),
    less=st.floats(0.1, 1.0),
    copy_s=st.floats(0.0, 2e-6),
    more_s=st.floats(0.0, 2e-6),
    tokens=st.integers(1, 20_000),
)
def test_an_exchange_takes_no_less_on_a_slower_fabric(
    kernel: str, share: float, less: float, copy_s: float, more_s: float, tokens: int
) -> None:
    cluster = build_cluster("dgx-h100", 32)
    work = replace(
        EXCHANGE, kernel=kernel, tokens=tokens, nic_share=share, copy_s=copy_s, deduplicated=kernel != "all_to_all"
    )
    seconds = exchange_s(work, cluster)
    assert exchange_s(replace(work, nic_share=share * less), cluster) >= seconds
    assert exchange_s(replace(work, copy_s=copy_s + more_s), cluster) >= seconds
    assert exchange_s(work, replace(cluster, nic_bytes_per_s=cluster.nic_bytes_per_s * less)) >= seconds
    assert seconds >= max(exchange_lower_bound_s(work, cluster), posted_s(work))


@given(
    kernel=st.sampled_from(KERNELS),
    share=st.floats(0.05, 1.0),
    ratio=st.floats(1.0, 64.0),
    tokens=st.integers(64, 20_000),
)
def test_uplinks_need_not_carry_what_a_library_leaves_idle(
    kernel: str, share: float, ratio: float, tokens: int
) -> None:
    """The library's own rate or the uplinks, whichever is less: not one of the other."""
    wide = build_cluster("dgx-h100", 256, fabric="fat-tree-ib-400")
    narrow = replace(wide, oversubscription=ratio)
    whole = replace(EXCHANGE, kernel=kernel, tokens=tokens, group=Group(64, 8), deduplicated=kernel != "all_to_all")
    lossy = replace(whole, nic_share=share)
    both = exchange_s(lossy, narrow)
    assert both == pytest.approx(max(exchange_s(lossy, wide), exchange_s(whole, narrow)), rel=1e-12)


def test_messages_inside_a_domain_are_posted_by_nobody() -> None:
    inside = replace(EXCHANGE, group=Group(8, 8), copy_s=1e-6)
    assert posted_s(inside) == 0.0
    assert exchange_s(inside, build_cluster("dgx-h100", 8)) == exchange_s(
        replace(inside, copy_s=0.0), build_cluster("dgx-h100", 8)
    )


def test_every_copy_that_leaves_costs_its_seconds() -> None:
    # 32 ranks on 4 hosts: of 3 hosts that a token reaches, 3/4 of the copies leave
    assert posted_s(replace(EXCHANGE, copy_s=1e-6)) == pytest.approx(2048 * 3.0 * 0.75 * 1e-6)


def _job(dispatcher: str, fabric: str, rate: str, overlap: bool) -> dict[str, Any]:
    layout = {"ep": 16, "pp": 2, **({"vpp": 2} if overlap else {})}
    stack = {"name": "megatron-bridge", "dispatcher": dispatcher, "ep_overlap": overlap}
    scenario = job(MOE, 32, layout, micro_batch=4, stack=stack, routing="balanced")
    scenario["cluster"] |= {"fabric": fabric, "nic_bytes_per_s": rate}
    return scenario


def _step_s(scenario: dict[str, Any], tuning: Tuning | None = None) -> float:
    return simulate_step(prices_of(scenario, tuning)).step_time_s


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("dispatcher", DISPATCHERS)
@pytest.mark.parametrize("fabric", fabric_kinds())
def test_a_step_takes_no_less_on_slower_nics(dispatcher: str, fabric: str, overlap: bool) -> None:
    rates = ("800 Gb/s", "200 Gb/s", "50 Gb/s")
    seconds = [_step_s(_job(dispatcher, fabric, rate, overlap)) for rate in rates]
    assert all(faster <= slower for faster, slower in pairwise(seconds))
    assert seconds[0] < seconds[-1]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(
    ("dispatcher", "key", "worse"),
    [
        ("alltoall", "exchange_nic_share[efa,alltoall,*,*]", 0.5),
        ("deepep-uccl", "exchange_copy_s[efa,deepep-uccl]", 2.0),
    ],
)
def test_a_step_takes_longer_where_a_library_loses_more(dispatcher: str, key: str, worse: float, overlap: bool) -> None:
    scenario = _job(dispatcher, "efa", "400 Gb/s", overlap)
    value = float(constants()[key]["value"])
    assert _step_s(scenario, Tuning({key: value * worse})) > _step_s(scenario, Tuning({key: value}))


def test_the_same_library_is_no_faster_over_efa_than_over_infiniband() -> None:
    for dispatcher in DISPATCHERS:
        assert _step_s(_job(dispatcher, "efa", "400 Gb/s", False)) >= _step_s(
            _job(dispatcher, "infiniband", "400 Gb/s", False)
        )


def test_messages_that_the_cpu_posts_do_not_hide() -> None:
    """A second micro-batch hides what NCCL sends; one CPU thread must post the messages of both."""
    free, posted = (Tuning({"exchange_copy_s[efa,deepep-uccl]": each_s}) for each_s in (0.0, 5e-6))
    scenario = _job("deepep-uccl", "efa", "800 Gb/s", True)
    prices = prices_of(scenario, posted)
    ops = [
        op
        for c in prices.job.layout.chunks_of(0)
        for way in "FB"
        for op in prices.factory.segment(way, prices.chunks[c]).ops
    ]
    each_s = sum(posted_s(op.work) for op in ops if isinstance(op.work, ExpertExchange))
    busy_s = prices.job.micro_batches * each_s
    assert _step_s(scenario, posted) > busy_s > 0.0
    assert _step_s(scenario, posted) - _step_s(scenario, free) > 0.8 * busy_s


def test_constants_are_borrowed_from_pairs_that_have_their_own() -> None:
    own = {(f, d) for f in fabric_kinds() for d in DISPATCHERS if not borrowed(f, d)}
    assert ("efa", "alltoall") in own and ("roce", "alltoall") not in own
    for fabric in fabric_kinds():
        for dispatcher in DISPATCHERS:
            seen = closest(fabric, dispatcher)
            assert seen in own
            assert bool(borrowed(fabric, dispatcher)) == (seen != (fabric, dispatcher))
            software = ("megatron-bridge", "mid")
            assert carried(Tuning(), fabric, dispatcher, software) == carried(Tuning(), *seen, software)


@pytest.mark.parametrize("way", ["F", "B", "I"])
def test_who_posts_messages_launches_nothing_meanwhile(way: str) -> None:
    scenario = _job("deepep-uccl", "efa", "800 Gb/s", False)
    free, posted = (prices_of(scenario, Tuning({"exchange_copy_s[efa,deepep-uccl]": s})) for s in (0.0, 5e-6))
    idle, busy = (p.factory.segment(way, p.chunks[0]) for p in (free, posted))
    sent_s = sum(posted_s(op.work) for op in busy.ops if isinstance(op.work, ExpertExchange))
    assert sent_s > 0.0
    spent_s = [sum(block.host_s for block in segment.blocks) for segment in (idle, busy)]
    assert spent_s[1] - spent_s[0] == pytest.approx(sent_s)
