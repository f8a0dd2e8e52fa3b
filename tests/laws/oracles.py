"""Closed forms and tiny independent implementations that the laws compare the product with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from moesim.sim.clock.engine import Dep, Lane, Program
from moesim.sim.layout.pipeline import Slot


def recursive_times(program: Program) -> tuple[list[float], list[float]]:
    """Start and end of every item by plain recursion: start = max(lane free, dependencies)."""
    before = {b: a for items in program.lanes.values() for a, b in pairwise(items)}
    start: dict[int, float] = {}

    def begin(item: int) -> float:
        if item not in start:
            waits = [(begin if d.from_start else end)(d.item) + d.lag_s for d in program.deps[item]]
            start[item] = max([end(before[item]) if item in before else 0.0, *waits])
        return start[item]

    def end(item: int) -> float:
        return begin(item) + program.durations_s[item]

    count = range(len(program))
    return [begin(i) for i in count], [end(i) for i in count]


def bubble_gpipe(pp: int, micro_batches: int) -> float:
    """Share of the step in which a rank of GPipe or 1F1B idles: (p-1)/(m+p-1)."""
    return (pp - 1) / (micro_batches + pp - 1)


def bubble_interleaved(pp: int, vpp: int, micro_batches: int) -> float:
    """Idle time over useful time of interleaved 1F1B: (p-1)/(v m)."""
    return (pp - 1) / (vpp * micro_batches)


def constant_program(
    orders: Sequence[Sequence[Slot]], stages: int, duration_s: Callable[[Slot], float], send_s: float = 0.0
) -> Program:
    """A schedule as a program with given durations, written from the definition of a pipeline alone.

    Forward of a stage waits for the stage before; backward for the stage after and for its own forward; weight
    gradients for the backward. Transfers between ranks take `send_s`.
    """
    program, done, slots = Program(), {}, {}
    for rank, order in enumerate(orders):
        for slot in order:
            item = program.add(Lane(rank, "compute"), f"{slot.phase}{slot.micro_batch}.{slot.stage}", duration_s(slot))
            slots[item] = slot
            if slot.phase in ("F", "FB"):
                done["F", slot.micro_batch, slot.stage] = item, rank
            if slot.phase in ("B", "I"):
                done["B", slot.micro_batch, slot.stage] = item, rank
            if slot.phase == "FB":
                done["B", slot.micro_batch_b, slot.stage_b] = item, rank
    for item, slot in slots.items():
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
        found = [done[need] for need in needs]
        rank = program.lane_of[item].rank
        program.set_deps(item, tuple(Dep(i, send_s if r != rank else 0.0) for i, r in found if i != item))
    return program
