"""Closed forms and tiny independent implementations that the laws compare the product with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moesim.sim.clock.events import HeapClock, SimpyClock
from moesim.sim.clock.plan import Hold, Lane, Plan, ScriptRun, Send
from moesim.sim.clock.timeline import Timeline
from moesim.sim.clock.walker import Walker
from moesim.sim.layout.pipeline import Slot


def seconds_of(plan: Plan, item: int) -> float:
    """What an item takes alone."""
    it = plan.items[item]
    if isinstance(it, ScriptRun):
        return sum(piece.seconds for piece in it.script.pieces)
    return it.seconds


def recursive_times(plan: Plan) -> tuple[list[float], list[float]]:
    """Start and end of every item by plain recursion, where no wire is shared: start = max(lane free, dependencies)."""
    start: dict[int, float] = {}

    def begin(item: int) -> float:
        if item not in start:
            before = plan.queue[item]
            start[item] = max([end(before) if before >= 0 else 0.0, *map(end, plan.preds[item])])
        return start[item]

    def end(item: int) -> float:
        return begin(item) + seconds_of(plan, item)

    count = range(len(plan))
    return [begin(i) for i in count], [end(i) for i in count]


def walk(plan: Plan, events: bool = True) -> Timeline:
    """Run a plan on SimPy's clock, or on the heap."""
    ranks = 1 + max((lane.rank for lane in plan.lane_of), default=0)
    ran = Walker(plan, SimpyClock() if events else HeapClock(), ranks, 2).run()
    return Timeline(plan, ran.start_s, ran.end_s)


def bubble_gpipe(pp: int, micro_batches: int) -> float:
    """Share of the step in which a rank of GPipe or 1F1B idles: (p-1)/(m+p-1)."""
    return (pp - 1) / (micro_batches + pp - 1)


def bubble_interleaved(pp: int, vpp: int, micro_batches: int) -> float:
    """Idle time over useful time of interleaved 1F1B: (p-1)/(v m)."""
    return (pp - 1) / (vpp * micro_batches)


def _needs(slot: Slot, stages: int) -> list[tuple[str, int, int]]:
    """What a slot waits for: (F or B, micro-batch, stage)."""
    needs = []
    if slot.phase in ("F", "FB") and slot.stage > 0:
        needs.append(("F", slot.micro_batch, slot.stage - 1))
    back = {"B": slot[1:3], "I": slot[1:3], "FB": slot[3:5]}.get(slot.phase)
    if back is not None:
        number, stage = back
        needs.append(("F", number, stage))
        if stage < stages - 1:
            needs.append(("B", number, stage + 1))
    if slot.phase == "W":
        needs.append(("B", slot.micro_batch, slot.stage))
    return needs


def constant_plan(
    orders: Sequence[Sequence[Slot]], stages: int, duration_s: Callable[[Slot], float], send_s: float = 0.0
) -> Plan:
    """A schedule as a plan with given durations, written from the definition of a pipeline alone.

    Forward of a stage waits for the stage before; backward for the stage after and for its own forward; weight
    gradients for the backward. Every transfer between ranks takes `send_s` on a lane of its own.
    """
    plan, done, slots = Plan(), {}, {}
    for rank, order in enumerate(orders):
        for slot in order:
            label = f"{slot.phase}{slot.micro_batch}.{slot.stage}"
            item = plan.add(Lane(rank, "compute"), label, Hold(duration_s(slot)), "bubble")
            slots[item] = slot
            if slot.phase in ("F", "FB"):
                done["F", slot.micro_batch, slot.stage] = item, rank
            if slot.phase in ("B", "I"):
                done["B", slot.micro_batch, slot.stage] = item, rank
            if slot.phase == "FB":
                done["B", slot.micro_batch_b, slot.stage_b] = item, rank
    for item, slot in slots.items():
        needs = _needs(slot, stages)
        for need in needs:
            source, rank = done[need]
            if rank == plan.lane_of[item].rank or send_s == 0.0:
                plan.wait(item, [source] if source != item else [])
                continue
            sent = plan.add(Lane(rank, f"send of {need}"), f"send of {need}", Send(send_s, ()), "pp_comm", (source,))
            plan.wait(item, (sent,))
    return plan
