"""Over random layouts and NICs from 1 B/s to 800 GB/s: no step beats its own bounds, less hardware never helps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import DENSE, MOE, job

from moesim.refusal import Refusal
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.job import resolve
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import StepResult, lower_bounds_s, simulate_step

RATES = st.floats(0.0, 1.0).map(lambda x: float(8e11**x))  # 1 B/s to 800 GB/s, evenly on a logarithm
_ANOMALY = 1.005  # shared wires allow small ones: another order of transfers may suit the pipeline better


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, Any]:
    """Small jobs on one to eight hosts: experts or none, every schedule, exchanges hidden or not."""
    experts = draw(st.booleans())
    pp = draw(st.sampled_from([1, 2, 4]))
    layout: dict[str, Any] = {"pp": pp, "tp": draw(st.sampled_from([1, 2])), "zero": draw(st.sampled_from([0, 1, 3]))}
    if experts:
        layout["ep"] = draw(st.sampled_from([1, 4, 16]))
    schedules = ["1f1b", "gpipe"] + (["zb-h1", "interleaved", "zb-v"] if pp > 1 else [])
    layout["schedule"] = draw(st.sampled_from(schedules))
    if layout["schedule"] in ("interleaved", "zb-v"):
        layout["vpp"] = 2
    stack = {"name": "megatron-tuned", "ep_overlap": draw(st.sampled_from(["none", "hidden"])), "cuda_graphs": "full"}
    words = {"routing": draw(st.sampled_from(["balanced", "balanced", {"lognormal": 0.4}]))} if experts else {}
    gpus = draw(st.sampled_from([16, 32, 64]))
    return job(MOE if experts else DENSE, gpus, layout, global_batch=gpus * 2, stack=stack, **words)


def _step(scenario: dict[str, Any], **cluster: Any) -> tuple[StepPrices, StepResult] | None:
    try:
        resolved = resolve(parse_scenario({**scenario, "cluster": {**scenario["cluster"], **cluster}}))
    except Refusal:  # a layout that cannot be: not this law's business
        return None
    prices = StepPrices(resolved.job, resolved.kernels, resolved.tuning())
    return prices, simulate_step(prices, events=False)


@settings(max_examples=40)
@given(jobs(), RATES)
def test_no_step_is_faster_than_its_own_bounds(scenario: dict[str, Any], rate: float) -> None:
    found = _step(scenario, nic_bytes_per_s=rate)
    if found is not None:
        prices, step = found
        for kind, bound_s in lower_bounds_s(prices).items():
            assert step.step_time_s >= bound_s * (1 - 1e-9), kind


@settings(max_examples=30)
@given(jobs(), RATES, st.floats(1.01, 100.0))
def test_a_slower_nic_never_makes_a_step_faster(scenario: dict[str, Any], rate: float, times: float) -> None:
    fast, slow = (_step(scenario, nic_bytes_per_s=r) for r in (rate, max(1.0, rate / times)))
    if fast is not None and slow is not None:
        assert fast[1].step_time_s <= slow[1].step_time_s * _ANOMALY


@settings(max_examples=20)
@given(jobs(), st.integers(0, 15), st.floats(0.3, 0.99))
def test_a_slower_gpu_never_makes_a_step_faster(scenario: dict[str, Any], gpu: int, factor: float) -> None:
    whole, slow = _step(scenario), _step({**scenario, "slow": {"ids": [gpu], "factor": factor}})
    if whole is not None and slow is not None:
        assert whole[1].step_time_s <= slow[1].step_time_s * _ANOMALY


@settings(max_examples=20)
@given(jobs())
def test_work_of_the_clock_is_linear_in_micro_batches(scenario: dict[str, Any]) -> None:
    """Twice the micro-batches are no more than twice the items and twice the pieces, whoever meets on the wires."""
    counts = []
    for times in (1, 2, 4):
        batch = scenario["train"]["global_batch"] * 4 * times
        found = _recorded({**scenario, "train": {**scenario["train"], "global_batch": batch}})
        if found is None:
            return
        counts.append(found)
    for few, more in pairwise(counts):
        assert all(b <= 2 * a for a, b in zip(few, more, strict=True)), counts


def _recorded(scenario: dict[str, Any]) -> tuple[int, int] | None:
    try:
        resolved = resolve(parse_scenario(scenario))
    except Refusal:
        return None
    prices = StepPrices(resolved.job, resolved.kernels, resolved.tuning())
    step = simulate_step(prices, events=False, record=True)
    return len(step.timeline.program), len(step.pieces)


@pytest.mark.parametrize("rate", [5e10, 1e9, 1e8])
def test_sends_of_an_estimate_meet_where_they_fill_a_wire(rate: float) -> None:
    """Estimates leave out wires that sends hardly use; where they rule, the step is that of the whole network."""
    scenario = job(DENSE, 32, {"pp": 4, "vpp": 2, "schedule": "interleaved"}, global_batch=64)
    resolved = resolve(parse_scenario({**scenario, "cluster": {**scenario["cluster"], "nic_bytes_per_s": rate}}))
    whole, coarse = (
        simulate_step(
            StepPrices(resolved.job, resolved.kernels, resolved.tuning(), drawn=drawn), events=False
        ).step_time_s
        for drawn in (True, False)
    )
    assert coarse == pytest.approx(whole, rel=2e-3)
