"""How full wires are: what two independent counts say, and what must hold whatever the layout."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.job import resolve
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import simulate_step
from moesim.sim.train.wire_load import WireView
from moesim.sim.train.wire_use import wire_use

TRAIN: dict[str, Any] = {
    "model": "mixtral-8x7b", "cluster": {"node": "dgx-h100", "gpus": 64}, "routing": "balanced",
    "train": {"global_batch": 128, "seq_len": 4096},
}  # fmt: skip
LAYOUTS = ({"pp": 4, "ep": 8}, {"pp": 2, "vpp": 4, "ep": 8}, {"ep": 8, "zero": 3}, {"pp": 4, "tp": 2, "ep": 8})


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_two_counts_agree(layout: dict[str, Any]) -> None:
    """From slots and their operations; and from every flow that the clock recorded, when all are flows."""
    resolved = resolve(parse_scenario({**TRAIN, "layout": layout}))
    prices = StepPrices(resolved.job, resolved.kernels, resolved.tuning())
    step = simulate_step(prices, events=False, exact=True, record=True)
    recorded = wire_use(step)
    loads = {load.wire: load for load in WireView(prices, step).loads}
    assert loads
    for (rank, wire), rows in recorded.items():
        seconds = sum(share * (after - now) for (now, share), (after, _) in itertools.pairwise(rows))
        assert loads[wire].share[rank] * step.step_time_s == pytest.approx(seconds, rel=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_no_wire_is_fuller_than_full_and_parts_sum_to_the_whole(layout: dict[str, Any]) -> None:
    p = predict_train({**TRAIN, "layout": layout}, check_memory=False)
    for load in p.wires.loads:
        assert load.share.min() >= 0.0 and load.share.max() <= 1.0
        whole = load.over_time.sum(axis=1) * load.bin_s / p.step_time_s
        assert np.allclose(whole, load.share, rtol=1e-9)
        assert load.share[load.busiest_rank] == load.share.max()


@pytest.mark.parametrize("layout", [{"pp": 4, "schedule": "dualpipe"}, {"pp": 4, "vpp": 2}], ids=str)
def test_sends_over_a_bad_link_that_take_turns_are_counted_once(layout: dict[str, Any]) -> None:
    """All four directions of a NIC that is nearly nothing wait for each other: it is full, and no fuller."""
    slow = {**TRAIN["cluster"], "nic_bytes_per_s": 1e6}
    question = {**TRAIN, "cluster": slow, "layout": layout, "links": {"degraded": {"link0": 0.5}}}
    p = predict_train(question, check_memory=False)
    nic = next(load for load in p.wires.loads if load.wire == "nic")
    assert 0.5 < nic.share.max() <= 1.0 + 1e-9


def test_a_faster_nic_is_used_for_less_of_the_step() -> None:
    def nic(rate: float) -> float:
        question = {**TRAIN, "layout": {"pp": 4, "ep": 8, "tp": 2}}
        p = predict_train({**question, "cluster": {**TRAIN["cluster"], "nic_bytes_per_s": rate}}, check_memory=False)
        return float(next(load for load in p.wires.loads if load.wire == "nic").share.max())

    assert nic(200e9) < nic(50e9) < nic(10e9) <= 1.0


def test_one_gpu_has_no_wires() -> None:
    alone = {"node": "dgx-h100", "gpus": 1}
    question = {"model": "llama-2-7b", "cluster": alone, "train": {"global_batch": 1, "seq_len": 512}}
    p = predict_train(question, check_memory=False)
    assert p.wires.loads == () and p.to_dict()["wires"] == {}
