"""The walker gives the bits of a ten-line recursion where no wire is shared; slower items never make a plan faster."""

from __future__ import annotations

from dataclasses import replace

import pytest
from checks import check_timeline
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import constant_plan, recursive_times, walk

from moesim.sim.clock.plan import Hold, Lane, Plan, Send
from moesim.sim.clock.walked import Deadlock
from moesim.sim.layout.pipeline import V_SHAPED, orders

SECONDS = st.one_of(st.just(0.0), st.floats(1e-9, 1e3), st.integers(1, 5).map(float))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Items on up to six lanes that wait for earlier items."""
    lanes = [Lane(r, s) for r in range(3) for s in ("compute", "host")]
    plan = Plan()
    for item in range(draw(st.integers(0, 25))):
        count = draw(st.integers(0, min(3, item)))
        after = [draw(st.integers(0, item - 1)) for _ in range(count)]
        plan.add(draw(st.sampled_from(lanes)), f"item {item}", Hold(draw(SECONDS)), "bubble", after)
    return plan


def _scaled(plan: Plan, factor: float, slower: int = -1, by_s: float = 0.0) -> Plan:
    """The same plan with every second times `factor`, and one item slower."""
    items = [
        replace(it, seconds=it.seconds * factor + (by_s if i == slower else 0.0)) for i, it in enumerate(plan.items)
    ]
    return replace(plan, items=items)


@given(plans())
def test_walker_and_recursion_give_the_same_bits(plan: Plan) -> None:
    start, end = recursive_times(plan)
    for events in (True, False):
        timeline = walk(plan, events)
        assert timeline.end_s == end
        assert timeline.start_s == start
        check_timeline(timeline)


@given(plans(), st.integers(-40, 40))
def test_scaling_every_second_by_a_power_of_two_scales_every_time(plan: Plan, power: int) -> None:
    factor = 2.0**power
    assert walk(_scaled(plan, factor)).end_s == [t * factor for t in walk(plan).end_s]


@given(plans(), st.data())
def test_a_slower_item_never_makes_anything_earlier(plan: Plan, data: st.DataObject) -> None:
    if not len(plan):
        return
    before = walk(plan)
    after = walk(_scaled(plan, 1.0, data.draw(st.integers(0, len(plan) - 1)), data.draw(st.floats(0.0, 100.0))))
    assert all(new >= old for new, old in zip(after.end_s, before.end_s, strict=True))


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved", "zb-h1", "dualpipe", *V_SHAPED])
@pytest.mark.parametrize("send_s", [0.0, 0.013])
def test_all_schedules_with_uneven_stages(schedule: str, send_s: float) -> None:
    vpp = {"interleaved": 3}.get(schedule, 2 if schedule in V_SHAPED else 1)
    slots = orders(schedule, 4, vpp, 16)
    plan = constant_plan(slots, 4 * vpp, lambda s: 0.1 * len(s.phase) + 0.017 * (s.stage + 1), send_s)
    start, end = recursive_times(plan)
    assert walk(plan).start_s == walk(plan, events=False).start_s == start
    assert walk(plan).end_s == end


@pytest.mark.parametrize("events", [True, False])
def test_items_that_wait_for_each_other_are_a_deadlock(events: bool) -> None:
    plan = Plan()
    for rank, names in ((0, "AB"), (1, "BA")):
        for name in names:
            plan.add(Lane(rank, "compute"), f"all-reduce {name} on rank {rank}", Hold(1.0), "bubble")
    plan.wait(0, (3,))
    plan.wait(2, (1,))
    with pytest.raises(Deadlock, match="4 items never ran, the first: all-reduce A on rank 0"):
        walk(plan, events)


def test_an_empty_plan_takes_no_time() -> None:
    assert walk(Plan()).makespan_s == 0.0


@settings(max_examples=10)
@given(st.integers(2, 40))
def test_fifo_lane_is_lindleys_recursion(count: int) -> None:
    """Arrivals on one lane, service on another: D_i = max(A_i, D_{i-1}) + S_i, bit for bit."""
    plan, arrived, done = Plan(), 0.0, 0.0
    served = []
    for i in range(count):
        gap, service = 0.1 + 0.37 * (i * 7 % 5), 0.2 + 0.53 * (i * 3 % 4)
        customer = plan.add(Lane(0, "host"), f"arrival {i}", Hold(gap), "host")
        served.append(plan.add(Lane(1, "compute"), f"service {i}", Hold(service), "bubble", (customer,)))
        arrived += gap
        done = max(arrived, done) + service
    assert walk(plan).end_s[served[-1]] == done


@pytest.mark.parametrize(("other", "ends"), [(0, [2.0, 2.0]), (1, [1.0, 1.0])])
def test_transfers_of_two_ranks_share_the_wires_that_both_load(other: int, ends: list[float]) -> None:
    plan = Plan()
    plan.add(Lane(0, "send.1"), "a", Send(1.0, ((0, 1.0), (2, 1.0))), "pp_comm")
    plan.add(Lane(2, "send.1"), "b", Send(1.0, ((4, 1.0), (2 if other == 0 else 3, 1.0))), "pp_comm")
    assert walk(plan).end_s == pytest.approx(ends)


@given(st.integers(2, 8), st.integers(0, 40))
def test_pairs_of_1f1b_never_wait_for_each_other_in_turn(pp: int, extra: int) -> None:
    """Equal pairs run one after the other on every rank: what is not a pair is the fill and the drain."""
    count = 4 * pp + extra
    slots = orders("1f1b", pp, 1, count, hidden=True)
    plan = constant_plan(slots, pp, lambda s: 2.0 if s.phase == "FB" else 1.0)
    assert walk(plan).makespan_s <= 2.0 * count + 4.0 * pp
    for order in slots:  # every forward and backward once
        assert sorted(s.micro_batch for s in order if s.phase in ("F", "FB")) == list(range(count))
        back = [s.micro_batch_b if s.phase == "FB" else s.micro_batch for s in order if s.phase in ("B", "FB")]
        assert sorted(back) == list(range(count))
