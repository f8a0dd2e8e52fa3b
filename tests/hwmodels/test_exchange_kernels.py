"""Expert exchanges: the stage that is slowest decides, and more of anything never takes less time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from moesim.hwmodels.cluster import Cluster, build_cluster, link_bytes_per_s
from moesim.hwmodels.exchange_kernels import exchange_kernels, exchange_lower_bound_s, exchange_s, load_exchange_fit
from moesim.hwmodels.facts import FactError
from moesim.hwmodels.work import ExpertExchange, Group

FIT = load_exchange_fit("hopper")
NODE, NODES, NVL72 = Group(8, 8), Group(64, 8), Group(64, 64)


def _cluster() -> Cluster:
    return build_cluster("dgx-h100", 1024)


def _exchange(group: Group, **changes: Any) -> ExpertExchange:
    values: dict[str, Any] = {
        "tokens": 4096.0,
        "top_k": 8,
        "payload_bytes": 7168.0,
        "node_copies": 3.5,
        "rank_copies": 7.5,
        **changes,
    }
    return ExpertExchange(**{"stage": "dispatch", "group": group, **values})


def _group(kernel: str, wide: bool) -> Group:
    if not wide:
        return NODE
    return NVL72 if kernel.endswith("_sided") else NODES


@pytest.mark.parametrize("kernel", exchange_kernels())
def test_an_exchange_with_oneself_costs_nothing(kernel: str) -> None:
    assert exchange_s(_exchange(Group(1, 1), kernel=kernel), _cluster()) == 0.0
    assert exchange_s(_exchange(NODE, tokens=0.0, kernel=kernel), _cluster()) == 0.0


@pytest.mark.parametrize("kernel", exchange_kernels())
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("stage", ["dispatch", "combine"])
def test_more_work_never_takes_less_time(kernel: str, wide: bool, stage: str) -> None:
    group = _group(kernel, wide)
    base = exchange_s(_exchange(group, kernel=kernel, stage=stage, experts=256), _cluster())
    for change in ({"tokens": 8192.0}, {"imbalance": 2.0}, {"payload_bytes": 14336.0}):
        more = _exchange(group, kernel=kernel, stage=stage, experts=256, **change)
        assert exchange_s(more, _cluster()) > base
    assert base >= exchange_lower_bound_s(_exchange(group, kernel=kernel), _cluster())


def test_a_remote_exchange_carries_its_node_copies_through_the_nic() -> None:
    cluster, work = _cluster(), _exchange(NODES, tokens=1e6)
    far = 1e6 * 7168.0 * 3.5 * (7 / 8) / (cluster.nic_bytes_per_s * FIT.nic_efficiency)
    assert exchange_s(work, cluster, FIT) == pytest.approx(FIT.normal_floor_far_dispatch_s + far, rel=1e-12)


def test_few_multiprocessors_starve_a_normal_kernel() -> None:
    times = [exchange_s(_exchange(NODE, sms=sms), _cluster()) for sms in (4, 8, 16, 24, 0)]
    assert times == sorted(times, reverse=True)
    assert times[0] > 3.0 * times[-1]


def test_sending_every_copy_costs_more_than_one_per_node() -> None:
    plain, once = (exchange_s(_exchange(NODES, kernel=kernel), _cluster()) for kernel in ("all_to_all", "normal"))
    assert plain > 1.5 * once


def test_kernels_that_need_one_domain_say_so() -> None:
    with pytest.raises(FactError, match="one scale-up domain"):
        exchange_s(_exchange(NODES, kernel="one_sided"), _cluster())
    with pytest.raises(FactError, match="did you mean 'normal'"):
        exchange_s(_exchange(NODE, kernel="norml"), _cluster())


@pytest.mark.parametrize(
    ("ranks", "node_copies", "rank_copies", "published_gb_per_s"),
    [(8, 1.0, 5.27, 153), (16, 1.99, 6.45, 43), (32, 3.61, 7.18, 58), (64, 3.98, 7.5, 51)],
)
def test_one_set_of_constants_for_h800(
    ranks: int, node_copies: float, rank_copies: float, published_gb_per_s: float
) -> None:
    """DeepEP's table for H800: EP8 and EP16 bound by NVLink, EP32 and EP64 by the NIC; 4,096 tokens, 8 bits."""
    work = _exchange(Group(ranks, 8), payload_bytes=7392.0, node_copies=node_copies, rank_copies=rank_copies, sms=24)
    seconds = exchange_s(work, build_cluster("hgx-h800", 64))
    copies = rank_copies if ranks == 8 else node_copies
    assert 4096.0 * 7392.0 * copies / seconds / 1e9 == pytest.approx(published_gb_per_s, rel=0.08)


@pytest.mark.parametrize(("ranks", "copies"), [(8, 8), (64, 8), (4, 4)])
@pytest.mark.parametrize("kernel", ["one_sided", "two_sided"])
def test_kernels_of_one_domain_send_a_copy_to_each_rank_but_their_own(kernel: str, ranks: int, copies: int) -> None:
    """What the bytes alone take: 1,000 tokens of 7,168 bytes, copies of (1 - 1 / ranks), at a rate that falls with
    ranks."""
    cluster = build_cluster("gb200-nvl72", 72)
    fit = load_exchange_fit("blackwell")
    bare = replace(
        fit, one_dispatch_s=0.0, one_dispatch_copy_s=0.0, two_copy_s=0.0, two_dispatch_token_s=0.0, two_floor_s=0.0
    )
    work = _exchange(Group(ranks, ranks), tokens=1000.0, kernel=kernel)
    more = replace(work, tokens=2000.0)
    efficiency, fall = (
        (fit.one_link_efficiency, fit.one_fall_exponent)
        if kernel == "one_sided"
        else (fit.two_link_efficiency, fit.two_fall_exponent)
    )
    rate = link_bytes_per_s(cluster) * efficiency * (ranks / 8.0) ** -fall
    each = 1000.0 * 7168.0 * copies * (1.0 - 1.0 / ranks) / rate
    grown = exchange_s(more, cluster, bare) - exchange_s(work, cluster, bare)
    assert grown == pytest.approx(each, rel=1e-6)
