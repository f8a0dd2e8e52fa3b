"""The program of a step: slot orders become timed items, with dependencies along the pipeline, gathers, reductions."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.sim.clock.engine import Dep, Lane, Program
from moesim.sim.layout.pipeline import Slot, orders
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.segment_time import SegmentTime
from moesim.sim.train.segments import Variant


@dataclass(frozen=True, slots=True)
class StepProgram:
    """A step ready for the clock, and what each of its compute items stands for, by item number."""

    program: Program
    slots: dict[int, Slot]
    times: dict[int, SegmentTime]
    variants: dict[int, Variant]


def step_program(prices: StepPrices) -> StepProgram:
    """The step of these prices: one item per slot on every rank's compute lane, plus host and dp lanes."""
    return _Builder(prices).build()


class _Builder:
    """Turns slot orders into a program: dependencies along the pipeline, variants for gathers and reductions."""

    def __init__(self, prices: StepPrices) -> None:
        self.prices = prices
        job = self.job = prices.job
        self.program = Program()
        self.slots: dict[int, Slot] = {}
        self.times: dict[int, SegmentTime] = {}
        self.variants: dict[int, Variant] = {}
        self.gathered: dict[tuple[int, int], int] = {}  # (rank, stage) -> dp item its first forward waits for
        self.done: dict[tuple[str, int, int], tuple[int, ...]] = {}  # items that end a phase: compute, host
        self.orders = orders(job.layout.schedule, job.layout.pp, job.layout.vpp, job.micro_batches)

    def _variant(self, slot: Slot, first: set[Slot], last: set[Slot]) -> Variant:
        lay, stack = self.job.layout, self.job.stack
        if lay.zero >= 3:
            return Variant(gather=slot.phase in ("F", "B", "I", "FB"), reduce=slot.phase in ("B", "FB", "W"))
        if not stack.dp_overlap:
            return Variant()
        return Variant(gather=slot in first and lay.zero >= 1 and lay.pp == 1, reduce=slot in last)

    def _prefetch(self) -> None:
        """Parameter gathers of every virtual stage, in order, from the start of the step (pipelines only).

        Without a pipeline the gathers ride inside the first forward, layer by layer.
        """
        lay, stack = self.job.layout, self.job.stack
        if lay.pp == 1 or not stack.dp_overlap or lay.zero not in (1, 2):
            return
        for rank, order in enumerate(self.orders):
            seen: list[int] = []
            for slot in order:
                if slot.phase in ("F", "FB") and slot.stage not in seen:
                    seen.append(slot.stage)
            for stage in seen:
                seconds = self.prices.gather_s(stage)
                if seconds > 0.0:
                    self.gathered[(rank, stage)] = self.program.add(Lane(rank, "dp"), f"gather {stage}", seconds)

    def build(self) -> StepProgram:
        self._prefetch()
        asked: list[tuple[int, Slot, Variant]] = []
        for rank, order in enumerate(self.orders):
            first, last = _edges(order)
            asked += [(rank, slot, self._variant(slot, first, last)) for slot in order]
        times = self.prices.segment_times((slot, variant) for _, slot, variant in asked)
        self.send_s = self.prices.send_s()
        placed = [(*place, time) for place, time in zip(asked, times, strict=True)]
        host = any(p[3].host_s > p[3].duration_s for p in placed)
        previous_host: dict[int, int] = {}
        for rank, slot, variant, time in placed:
            item = self.program.add(Lane(rank, "compute"), _label(slot), time.duration_s)
            self.slots[item], self.times[item] = slot, time
            self.variants[item] = variant
            ends: tuple[int, ...] = (item,)
            if host:
                issue = self.program.add(Lane(rank, "host"), "issue " + _label(slot), time.host_s)
                ends = (item, issue)
                if rank in previous_host:
                    self.program.set_deps(item, (Dep(previous_host[rank]),))
                previous_host[rank] = issue
            gather = self.gathered.pop((rank, slot.stage), None) if slot.phase in ("F", "FB") else None
            if gather is not None:
                self.program.set_deps(item, (*self.program.deps[item], Dep(gather)))
            self._finish(slot, ends)
            for op in time.background:
                self.program.add(Lane(rank, "dp"), op.name, op.duration_s, (Dep(item, op.ready_s, True),))
        for item, slot in self.slots.items():
            self._link(item, slot)
        return StepProgram(self.program, self.slots, self.times, self.variants)

    def _finish(self, slot: Slot, ends: tuple[int, ...]) -> None:
        if slot.phase in ("F", "FB"):
            self.done[("F", slot.micro_batch, slot.stage)] = ends
        if slot.phase in ("B", "I"):
            self.done[("B", slot.micro_batch, slot.stage)] = ends
        elif slot.phase == "FB":
            self.done[("B", slot.micro_batch_b, slot.stage_b)] = ends

    def _inputs(self, slot: Slot) -> list[Dep]:
        """What the slot's data comes from: the stage before (forward) or after (backward), and its own forward."""
        deps: list[Dep] = []
        last = len(self.prices.chunks) - 1
        if slot.phase in ("F", "FB") and slot.stage > 0:
            deps += self._deps("F", slot.micro_batch, slot.stage - 1, self._lag(slot.stage - 1, slot.stage))
        back = None
        if slot.phase in ("B", "I"):
            back = (slot.micro_batch, slot.stage)
        elif slot.phase == "FB":
            back = (slot.micro_batch_b, slot.stage_b)
        if back is not None:
            if back[1] < last:
                deps += self._deps("B", back[0], back[1] + 1, self._lag(back[1] + 1, back[1]))
            else:
                deps += self._deps("F", back[0], back[1], 0.0)
        return deps

    def _lag(self, source: int, target: int) -> float:
        lay = self.job.layout
        return self.send_s if lay.rank_of(source) != lay.rank_of(target) else 0.0

    def _deps(self, phase: str, micro_batch: int, stage: int, lag: float) -> list[Dep]:
        return [Dep(item, lag) for item in self.done[(phase, micro_batch, stage)]]

    def _link(self, item: int, slot: Slot) -> None:
        inputs = tuple(d for d in self._inputs(slot) if d.item != item)
        self.program.set_deps(item, (*self.program.deps[item], *inputs))


def _label(slot: Slot) -> str:
    if slot.phase == "FB":
        return f"F{slot.micro_batch}.{slot.stage}+B{slot.micro_batch_b}.{slot.stage_b}"
    return f"{slot.phase}{slot.micro_batch}.{slot.stage}"


def _edges(order: list[Slot]) -> tuple[set[Slot], set[Slot]]:
    """First forward and last backward of each stage in a rank's order."""
    first: dict[int, Slot] = {}
    last: dict[int, Slot] = {}
    for slot in order:
        if slot.phase in ("F", "FB"):
            first.setdefault(slot.stage, slot)
        if slot.phase in ("B", "W"):
            last[slot.stage] = slot
        elif slot.phase == "FB":
            last[slot.stage_b] = slot
    return set(first.values()), set(last.values())
