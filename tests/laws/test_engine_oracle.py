"""The event engine gives the bits of a ten-line recursion; slower items never make a program faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from checks import check_timeline
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import constant_program, recursive_times

from moesim.sim.clock.engine import Deadlock, Dep, Lane, Program, recursion, run
from moesim.sim.layout.pipeline import orders

SECONDS = st.one_of(st.just(0.0), st.floats(1e-9, 1e3), st.integers(1, 5).map(float))


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Items on up to six lanes; dependencies point to earlier items, some from their start, some with a lag."""
    lanes = [Lane(r, s) for r in range(3) for s in ("compute", "comm")]
    program = Program()
    for item in range(draw(st.integers(0, 25))):
        count = draw(st.integers(0, min(3, item)))
        deps = tuple(Dep(draw(st.integers(0, item - 1)), draw(SECONDS), draw(st.booleans())) for _ in range(count))
        program.add(draw(st.sampled_from(lanes)), f"item {item}", draw(SECONDS), deps)
    return program


@given(programs())
def test_engine_and_recursion_give_the_same_bits(program: Program) -> None:
    start, end = recursive_times(program)
    for timeline in (run(program), recursion(program)):
        assert timeline.start_s == start
        assert timeline.end_s == end
        check_timeline(timeline)


@given(programs(), st.integers(-40, 40))
def test_scaling_every_second_by_a_power_of_two_scales_every_time(program: Program, power: int) -> None:
    factor = 2.0**power
    scaled = Program()
    for item in range(len(program)):
        deps = tuple(Dep(d.item, d.lag_s * factor, d.from_start) for d in program.deps[item])
        scaled.add(program.lane_of[item], program.labels[item], program.durations_s[item] * factor, deps)
    assert run(scaled).end_s == [t * factor for t in run(program).end_s]
    assert run(scaled).start_s == [t * factor for t in run(program).start_s]


@given(programs(), st.data())
def test_a_slower_item_never_makes_anything_earlier(program: Program, data: st.DataObject) -> None:
    if not len(program):
        return
    before = recursion(program)
    program.durations_s[data.draw(st.integers(0, len(program) - 1))] += data.draw(st.floats(0.0, 100.0))
    after = recursion(program)
    assert all(new >= old for new, old in zip(after.end_s, before.end_s, strict=True))
    assert after.makespan_s >= before.makespan_s


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved", "zb-h1", "dualpipe"])
@pytest.mark.parametrize("send_s", [0.0, 0.013])
def test_all_schedules_with_uneven_stages(schedule: str, send_s: float) -> None:
    vpp = 3 if schedule == "interleaved" else 1
    plan = orders(schedule, 4, vpp, 16)
    program = constant_program(plan, 4 * vpp, lambda s: 0.1 * len(s.phase) + 0.017 * (s.stage + 1), send_s)
    start, end = recursive_times(program)
    assert run(program).start_s == recursion(program).start_s == start
    assert run(program).end_s == recursion(program).end_s == end


@pytest.mark.parametrize("engine", [run, recursion])
def test_items_that_wait_for_each_other_are_a_deadlock(engine: Callable[[Program], Any]) -> None:
    program = Program()
    program.add(Lane(0, "comm"), "all-reduce A on rank 0", 1.0, (Dep(3),))
    program.add(Lane(0, "comm"), "all-reduce B on rank 0", 1.0)
    program.add(Lane(1, "comm"), "all-reduce B on rank 1", 1.0, (Dep(1),))
    program.add(Lane(1, "comm"), "all-reduce A on rank 1", 1.0)
    with pytest.raises(Deadlock, match="4 items never ran, the first: all-reduce A on rank 0"):
        engine(program)


@pytest.mark.parametrize("engine", [run, recursion])
def test_an_empty_program_takes_no_time(engine: Callable[[Program], Any]) -> None:
    assert engine(Program()).makespan_s == 0.0


@settings(max_examples=10)
@given(st.integers(2, 40))
def test_fifo_lane_is_lindleys_recursion(count: int) -> None:
    """Arrivals on one lane, service on another: D_i = max(A_i, D_{i-1}) + S_i, bit for bit."""
    program, arrived, done = Program(), 0.0, 0.0
    for i in range(count):
        gap, service = 0.1 + 0.37 * (i * 7 % 5), 0.2 + 0.53 * (i * 3 % 4)
        customer = program.add(Lane(0, "host"), f"arrival {i}", gap)
        served = program.add(Lane(1, "compute"), f"service {i}", service, (Dep(customer),))
        arrived += gap
        done = max(arrived, done) + service
        assert recursion(program).end_s[served] == done
    assert run(program).makespan_s == done
