"""Links that are slow or dead: what they cost, what is refused, and what the refusal says would do."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.hwmodels.facts import FactError
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.transfer.predict import CommAnswer, predict_comm


def _asked(*degrade: str, **changes: Any) -> CommAnswer:
    ask = {"node": "dgx-h100", "op": "all_reduce", "ranks": 64, "size_bytes": 4e9, "degrade": degrade}
    return predict_comm({**ask, **changes})


@pytest.mark.parametrize("link", ["gpu3 -> nic3", "nic3 -> leaf3", "leaf3 -> nic3", "nic3 - leaf3"])
def test_a_large_ring_takes_as_long_as_its_slowest_nic(link: str) -> None:
    healthy, slow = _asked(algorithm="ring"), _asked(f"{link}=0.25", algorithm="ring")
    factor = 4.0 if "gpu" not in link else 50.0 / (0.25 * 63.0)  # the slot carries more than the NIC
    assert slow.prediction.time_s == pytest.approx(factor * healthy.prediction.time_s, rel=0.02)
    assert slow.degraded_factor > 3.0 and healthy.degraded_factor == 1.0
    assert slow.loads.bottleneck()[0] in (link, "nic3 -> leaf3", "leaf3 -> nic3")
    assert slow.prediction.time_s >= slow.loads.seconds


def test_a_small_transfer_only_waits() -> None:
    healthy, slow = (_asked(*d, size_bytes=64.0) for d in ((), ("nic3 - leaf3=0.25",)))
    assert healthy.prediction.time_s <= slow.prediction.time_s < 1.01 * healthy.prediction.time_s


def test_the_slower_the_link_the_longer_it_takes() -> None:
    for op in ("all_to_all", "all_gather", "broadcast"):
        times = [_asked(f"nic3 - leaf3={f}", op=op).prediction.time_s for f in (1.0, 0.9, 0.5, 0.1, 0.01)]
        assert times == sorted(times)
        assert times[0] == _asked(op=op).prediction.time_s


def test_a_slow_scale_up_link_slows_what_stays_inside() -> None:
    healthy, slow = (_asked(*d, ranks=8, algorithm="ring") for d in ((), ("gpu3 - switch0=0.5",)))
    assert slow.prediction.time_s == pytest.approx(2.0 * healthy.prediction.time_s, rel=0.02)


def test_exchanges_of_few_and_many_ranks_notice() -> None:
    ask = {"op": "moe_dispatch", "size_bytes": 0.0, "tokens": 4096, "hidden": 7168, "top_k": 8, "algorithm": "normal"}
    for ranks in (64, 1024):
        healthy, slow = (_asked(*d, **ask, ranks=ranks, experts=1024) for d in ((), ("leaf3 -> nic3=0.5",)))
        assert slow.prediction.time_s == pytest.approx(2.0 * healthy.prediction.time_s, rel=0.1)
        assert slow.loads.bottleneck()[0] == "leaf3 -> nic3"
        assert slow.to_dict()["degraded"] == {"leaf3 -> nic3": 0.5}


def test_a_dead_spine_link_sends_its_share_another_way() -> None:
    ask = {"op": "all_to_all", "fabric": "fat-tree-ib-400", "algorithm": "direct"}
    loads = _asked("leaf0 - spine0=0", **ask).loads
    names = [loads.classes[-1].title(i) for i in range(len(loads.classes[-1].load_bytes))]
    assert loads.classes[-1].name == "fabric" and "leaf0 -> spine0" not in names
    healthy = _asked(**ask).loads.classes[-1]
    assert loads.classes[-1].load_bytes.sum() == pytest.approx(healthy.load_bytes.sum())


@pytest.mark.parametrize(
    ("degrade", "message"),
    [
        ("nic3 -> leaf9=0.5", "has no link nic3 -> leaf9: there is no leaf9; use leaf0 to leaf7"),
        ("nic3 -> leaf4=0.5", "has no link nic3 -> leaf4: nic3 is joined to gpu3, leaf3"),
        ("nic99 - leaf3=0.5", "there is no nic99; use nic0 to nic63"),
        ("nik3 -> leaf3=0.5", "nothing is called nik3; did you mean 'nic'"),
        ("nic3 -> leaf3=2", "a share of the link's rate, 0 .dead. to 1"),
        ("nic3 -> leaf3=half", "'half' is not a number"),
        ("nic3", "cannot be read: write LINK=FACTOR"),
        ("nic3 - leaf3=0", "nic3 -> leaf3 has failed and gpu3 has no other path"),
        ("gpu3 - switch0=0", "gpu3 -> switch0 has failed"),
    ],
)
def test_what_cannot_be_is_refused_with_what_could(degrade: str, message: str) -> None:
    with pytest.raises(FactError, match=message):
        _asked(degrade)


def test_a_leaf_without_a_way_up_says_so() -> None:
    dead = [f"leaf0 - spine{i}=0" for i in range(4)]
    with pytest.raises(FactError, match=r"no path is left where leaf0 -> spine0, .* failed"):
        _asked(*dead, op="all_to_all", ranks=256, fabric="fat-tree-ib-400", algorithm="direct")


def test_degrade_is_a_list_of_texts() -> None:
    with pytest.raises(ScenarioError, match="a list of LINK=FACTOR; one of them is of type int"):
        _asked(3)  # type: ignore[arg-type]  # on purpose
