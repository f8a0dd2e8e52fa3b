"""The program of a step: slot orders become items of a plan, with dependencies along the pipeline, gathers, sends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from moesim.hwmodels.wires import WIRES, Wire, wire_seconds
from moesim.hwmodels.work import Comm
from moesim.sim.clock.plan import Hold, Lane, Plan, ScriptRun, Send
from moesim.sim.clock.script import Piece, Script
from moesim.sim.clock.values import Seconds
from moesim.sim.layout.pipeline import Slot, orders
from moesim.sim.train.members import StageMembers
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.scripts import shared_wires
from moesim.sim.train.segment_time import SegmentTime, add_tail, held_share
from moesim.sim.train.segments import Variant

# share of a step: transfers between slots that fill a wire for less meet others too seldom to matter there
_SELDOM: dict[Wire, float] = {"nic": 0.0, "link": 0.02}
_SELDOM_ESTIMATE: dict[Wire, float] = {"nic": 0.05, "link": 0.05}  # in estimates, which run by the hundred


@dataclass(frozen=True, slots=True)
class StepProgram:
    """A step ready for the walker, and what each of its slots stands for, by item number."""

    plan: Plan
    slots: dict[int, Slot]
    variants: dict[int, Variant]
    members: StageMembers | None = None  # where the ranks of a stage differ


def step_program(prices: StepPrices, exact: bool = False, members: StageMembers | None = None) -> StepProgram:
    """The step of these prices: one item per slot on every rank's compute lane, transfers between slots, hosts.

    exact: every operation is a piece of its own. members: what sets the ranks of a stage apart.
    """
    return _Builder(prices, exact, members).build()


class _Builder:
    """Turns slot orders into a plan: dependencies along the pipeline, variants for gathers and reductions."""

    def __init__(self, prices: StepPrices, exact: bool, members: StageMembers | None) -> None:
        self.prices, self.exact, self.members = prices, exact, members
        job = self.job = prices.job
        self.plan = Plan()
        self.slots: dict[int, Slot] = {}
        self.variants: dict[int, Variant] = {}
        self.gathered: dict[tuple[int, int], int] = {}  # (rank, stage) -> dp item its first forward waits for
        self.done: dict[tuple[str, int, int], tuple[int, ...]] = {}  # items that end a phase: compute, host
        self.orders = orders(job.layout.schedule, job.layout.pp, job.layout.vpp, job.micro_batches, job.hides_exchanges)
        self._scripts: dict[object, Script] = {}
        self._sends: dict[tuple[int, int], Send] = {}
        self.sent: dict[tuple[str, int, int], tuple[int, ...]] = {}  # items with which a stage's data is there

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
        sms = held_share("collective_sms", stack.constants_of, self.prices.tuning, self.job.cluster)
        for rank, order in enumerate(self.orders):
            stages = dict.fromkeys(slot.stage for slot in order if slot.phase in ("F", "FB"))
            for stage in stages:
                for comm in self.prices.gathers(stage):
                    send = self._collective(comm, rank, sms)
                    item = self.plan.add(Lane(rank, "dp"), f"gather {stage}", send, "dp_comm")
                    self.gathered[(rank, stage)] = item

    def _collective(self, comm: Comm, rank: int, sms: float) -> Send:
        seconds = self.prices.model.cost(comm).time_s
        wires = wire_seconds(comm, self.job.cluster)
        loads = tuple((_link(rank, w), min(1.0, s / seconds)) for w, s in wires.items()) if seconds > 0.0 else ()
        return Send(seconds, loads, sms_share=sms)

    def build(self) -> StepProgram:
        """The finished program."""
        self._prefetch()
        asked: list[tuple[int, Slot, Variant]] = []
        for rank, order in enumerate(self.orders):
            first, last = _edges(order)
            asked += [(rank, slot, self._variant(slot, first, last)) for slot in order]
        shared = self._shared_wires(asked)
        host = self._host(asked)
        previous_host: dict[int, int] = {}
        for rank, slot, variant in asked:
            script = self._script(slot, variant, shared)
            ran = ScriptRun(script, self._seconds(rank, slot, variant, script))
            item = self.plan.add(Lane(rank, "compute"), _label(slot), ran, "bubble")
            self.slots[item], self.variants[item] = slot, variant
            ends: tuple[int, ...] = (item,)
            if host is not None:
                hold = Hold(host[self.prices.key(slot, variant)])
                issue = self.plan.add(Lane(rank, "host"), "issue " + _label(slot), hold, "host")
                ends = (item, issue)
                if rank in previous_host:
                    self.plan.wait(item, (previous_host[rank],))
                previous_host[rank] = issue
            gather = self.gathered.pop((rank, slot.stage), None) if slot.phase in ("F", "FB") else None
            if gather is not None:
                self.plan.wait(item, (gather,))
            self._finish(slot, ends)
            add_tail(self.plan, item, script, rank, tuple(_link(rank, w) for w in WIRES))
        self._send_all()
        for item, slot in self.slots.items():
            self._receive_all(item, slot)
        return StepProgram(self.plan, self.slots, self.variants, self.members)

    # -- scripts ----------------------------------------------------------------------------------------------

    def _shared_wires(self, asked: list[tuple[int, Slot, Variant]]) -> frozenset[Wire]:
        """Wires on which transfers of a slot may meet those of another: sends, gathers and reductions.

        A wire that those fill for less than _SELDOM of the step is left out: slots stay whole, and cost less.
        """
        lay, cluster = self.job.layout, self.job.cluster
        used: dict[Wire, float] = dict.fromkeys(WIRES, 0.0)
        busy_s, seen = 0.0, set()
        for rank, slot, variant in asked:
            if rank:
                continue
            busy_s += self.prices.compute_s(slot)
            key = self.prices.key(slot, variant)
            if variant.reduce and key not in seen:
                seen.add(key)
                for wire, seconds in self.prices.tail_wires(slot, variant).items():
                    used[wire] += seconds
        for a in range(lay.pp if lay.pp > 1 else 0):
            _, seconds, shares = self.prices.send(lay.hop_crosses(cluster, a, (a + 1) % lay.pp))
            for wire in shares:  # in and out, forward and backward, of every micro-batch and virtual stage
                used[wire] = max(used[wire], 2.0 * self.job.micro_batches * lay.vpp * seconds)
        if self.gathered:
            for comm in (comm for chunk in range(lay.chunks) for comm in self.prices.gathers(chunk)):
                for wire, seconds in wire_seconds(comm, cluster).items():
                    used[wire] += seconds / lay.pp
        seldom = _SELDOM_ESTIMATE if self.prices.coarse else _SELDOM
        return frozenset(wire for wire, seconds in used.items() if seconds > seldom[wire] * busy_s)

    def _script(self, slot: Slot, variant: Variant, shared: frozenset[Wire]) -> Script:
        """A slot's pieces: one, where no transfer of it can meet another slot's, else every transfer apart."""
        key = self.prices.key(slot, variant)
        script = self._scripts.get(key)
        if script is None:
            segment, wires = self.prices.segment(slot, variant), self.prices.op_wires(slot, variant)
            own = shared | shared_wires(segment, wires)
            meets = {i for i, used in enumerate(wires) if not own.isdisjoint(used)}
            crosses = any(
                op.stream != "dp" and not shared.isdisjoint(w) for op, w in zip(segment.ops, wires, strict=True)
            )
            if self.exact:
                meet = None if self.members is None else self.members.apart
                script = self.prices.script(slot, variant, lambda _: True, meet)
            elif self.members is not None:
                meets |= {i for i, op in enumerate(segment.ops) if self.members.apart(op)}
                script = self.prices.script(slot, variant, meets.__contains__, self.members.apart)
            elif crosses or variant.reduce or variant.gather:
                script = self.prices.script(slot, variant, meets.__contains__)
            else:
                script = _folded(segment.name, self.prices.segment_time(slot, variant))
            self._scripts[key] = script
        return script

    def _seconds(
        self, rank: int, slot: Slot, variant: Variant, script: Script
    ) -> Callable[[float], Sequence[Seconds]] | None:
        """How the pieces of a slot take their time where members differ."""
        return None if self.members is None else partial(self.members.seconds, rank, slot, variant, script)

    def _host(self, asked: list[tuple[int, Slot, Variant]]) -> dict[object, float] | None:
        """The CPU's seconds to issue every kind of slot, where one of them may take longer than the slot itself."""
        host: dict[object, float] = {}
        binds = False
        for _, slot, variant in asked:
            key = self.prices.key(slot, variant)
            if key not in host:
                host[key] = self.prices.segment(slot, variant).host_s
                binds = binds or host[key] > self.prices.compute_s(slot)
        return host if binds else None

    # -- who waits for whom -----------------------------------------------------------------------------------

    def _finish(self, slot: Slot, ends: tuple[int, ...]) -> None:
        for phase, micro_batch, stage in _made(slot):
            self.done[(phase, micro_batch, stage)] = ends

    def _send_all(self) -> None:
        """Transfers to the stages that come next, in the order in which their senders get there."""
        last = len(self.prices.chunks) - 1
        for slot in self.slots.values():
            for phase, micro_batch, stage in _made(slot):
                target = stage + 1 if phase == "F" else stage - 1
                if not 0 <= target <= last:
                    continue
                ends, taker = self.done[(phase, micro_batch, stage)], self.done[(phase, micro_batch, target)][0]
                a, b = self.plan.lane_of[ends[0]].rank, self.plan.lane_of[taker].rank
                if a == b:
                    self.sent[(phase, micro_batch, stage)] = ends
                    continue
                if (a, b) not in self._sends:
                    self._sends[(a, b)] = self._hop(a, b)
                label = f"{phase}{micro_batch}.{stage} to {b}"
                item = self.plan.add(Lane(a, f"send.{b}"), label, self._sends[(a, b)], "pp_comm", ends)
                self.sent[(phase, micro_batch, stage)] = (item,)

    def _receive_all(self, item: int, slot: Slot) -> None:
        """What the slot's data comes from: the stage before (forward) or after (backward), and its own forward."""
        last = len(self.prices.chunks) - 1
        needs = []
        if slot.phase in ("F", "FB") and slot.stage > 0:
            needs.append(self.sent[("F", slot.micro_batch, slot.stage - 1)])
        back = (slot.micro_batch, slot.stage) if slot.phase in ("B", "I") else (slot.micro_batch_b, slot.stage_b)
        if slot.phase in ("B", "I", "FB"):
            own = self.done[("F", *back)]
            needs.append(self.sent[("B", back[0], back[1] + 1)] if back[1] < last else own)
        for ends in needs:
            self.plan.wait(item, [i for i in ends if i != item])

    def _hop(self, a: int, b: int) -> Send:
        """The transfer from one pipeline rank to another, over the sender's and the receiver's wire."""
        host, seconds, shares = self.prices.send(self.job.layout.hop_crosses(self.job.cluster, a, b))
        loads = tuple((_link(rank, wire), share) for wire, share in shares.items() for rank in (a, b))
        if self.members is None or not self.members.unlike.links:
            return Send(seconds, loads, before_s=host)
        own, members = [(WIRES.index(wire), share) for wire, share in shares.items()], self.members

        def slower(now_s: float) -> Seconds:
            return members.stretched(members.stretched(seconds, a, own, now_s), b, own, now_s)

        return Send(slower, loads, before_s=host)


def _made(slot: Slot) -> list[tuple[str, int, int]]:
    """What a slot brings about: (F or B, micro-batch, stage)."""
    made = [("F", slot.micro_batch, slot.stage)] if slot.phase in ("F", "FB") else []
    if slot.phase in ("B", "I"):
        made.append(("B", slot.micro_batch, slot.stage))
    elif slot.phase == "FB":
        made.append(("B", slot.micro_batch_b, slot.stage_b))
    return made


def _link(rank: int, wire: Wire) -> int:
    """The number of one wire of the GPUs of a pipeline rank."""
    return rank * len(WIRES) + WIRES.index(wire)


def _folded(name: str, time: SegmentTime) -> Script:
    """A slot whose transfers meet no other slot's, as one piece."""
    longest = max(time.by_category, key=lambda category: time.by_category[category], default="bubble")
    spent, sources = tuple(time.by_category.items()), tuple(time.by_source.items())
    return Script(name, (Piece(name, "compute", "compute", time.duration_s, longest, spent=spent, sources=sources),))


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
