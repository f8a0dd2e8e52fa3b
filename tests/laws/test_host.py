"""The CPU beside the GPU: what it holds up survives overlap and splitting, and CUDA graphs take it away."""

from __future__ import annotations

import pytest
from checks import check_segment
from jobs import MOE, job, prices_of

from moesim.sim.layers.graph import Segment
from moesim.sim.layout.pipeline import Slot
from moesim.sim.train.segment_time import merge
from moesim.sim.train.segments import Variant
from moesim.sim.train.step import simulate_step

DROPLESS = job(MOE, 32, {"ep": 8, "pp": 4})
PLAIN = Variant()


def _host_s(segment: Segment) -> float:
    return sum(block.host_s for block in segment.blocks)


def test_overlapped_segments_keep_the_stretches_of_both() -> None:
    prices = prices_of(DROPLESS)
    forward, backward = (prices.segment(Slot(phase, 0, 1), PLAIN) for phase in "FB")
    both = merge(forward, backward)
    check_segment(both)
    assert _host_s(both) == pytest.approx(_host_s(forward) + _host_s(backward))
    for old, new in zip(forward.blocks, both.blocks, strict=False):
        assert both.ops[new.last].name == forward.ops[old.last].name


def test_split_backward_costs_the_cpu_as_much_as_a_whole_one() -> None:
    prices = prices_of(DROPLESS)
    whole, half, rest = (_host_s(prices.segment(Slot(phase, 0, 1), PLAIN)) for phase in "BIW")
    pipeline = prices.tuning.get("host_pipeline_s", prices.job.stack.name)  # each segment hands over once
    assert half + rest - pipeline == pytest.approx(whole, rel=1e-9)


def test_graphs_take_the_host_away() -> None:
    steps = [
        simulate_step(prices_of({**DROPLESS, "stack": {"name": "megatron-tuned", "cuda_graphs": graphs}}))
        for graphs in ("none", "partial", "full")
    ]
    host = [step.breakdown_s.get("host", 0.0) for step in steps]
    assert host[0] > host[1] > host[2]
    assert steps[0].step_time_s > steps[1].step_time_s > steps[2].step_time_s


def test_more_local_experts_cost_more_launches() -> None:
    few, many = (
        _host_s(prices_of(job(MOE, 32, {"ep": ep, "pp": 2})).segment(Slot("F", 0, 0), PLAIN)) for ep in (16, 4)
    )
    assert many > few


def test_waiting_for_parameters_is_communication_and_not_a_bubble() -> None:
    """On a slow network the first forward waits for its gathered parameters: that is no idle pipeline."""
    slow, fast = (job(MOE, 32, {"ep": 8, "pp": 2}, global_batch=16) for _ in range(2))
    slow["cluster"]["nic_bytes_per_s"] = 1e9
    steps = [simulate_step(prices_of(scenario)) for scenario in (slow, fast)]
    more = {k: steps[0].breakdown_s.get(k, 0.0) - steps[1].breakdown_s.get(k, 0.0) for k in ("dp_comm", "bubble")}
    assert more["dp_comm"] > 0.05
    assert more["dp_comm"] > more["bubble"] / 2


def test_experts_that_run_again_keep_the_cpu_busy_again() -> None:
    """The books of an expert layer are kept in its forward, and once more where the backward repeats it."""
    kept, again = (prices_of(job(MOE, 16, {"ep": 8, "pp": 2}, recompute=r)) for r in ("none", "full"))
    forward_s, kept_s, again_s = (
        sum(block.host_s for block in prices.factory.segment(way, prices.chunks[0]).blocks)
        for prices, way in ((kept, "F"), (kept, "B"), (again, "B"))
    )
    name = kept.job.stack.name
    books_s = kept.tuning.get("host_moe_layer_s", name, "dropless") * kept.tuning.get("host_moe_forward_share", name)
    layers = len(kept.chunks[0].layers)
    assert kept_s + layers * books_s < again_s <= kept_s + forward_s
