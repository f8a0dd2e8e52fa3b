"""The program of a step: slot orders become items of a plan, with dependencies along the pipeline, gathers, sends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

from moesim.hwmodels.wires import HOST_WIRES, LEAF_WIRES, WIRES, Wire, link_of
from moesim.hwmodels.work import Comm
from moesim.sim.clock.plan import Hold, Lane, Plan, ScriptRun, Send
from moesim.sim.clock.script import Piece, Script
from moesim.sim.clock.values import Seconds
from moesim.sim.layout.pipeline import Slot, orders
from moesim.sim.train.members import StageMembers
from moesim.sim.train.offload import HostCopies
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.scripts import shared_wires
from moesim.sim.train.segment_time import SegmentTime, add_tail, held_share
from moesim.sim.train.segments import Variant

# share of a step: transfers between slots that fill a wire for less meet others too seldom to matter there
_SELDOM: dict[Wire, float] = {**dict.fromkeys(WIRES, 0.0), "link": 0.02}
# the same in estimates, which run by the hundred
_SELDOM_ESTIMATE: dict[Wire, float] = dict.fromkeys(WIRES, 0.05)


_Made = tuple[str, int, int]  # F or B, micro-batch, stage: what a slot brings about


@dataclass(slots=True, eq=False)
class _Kind:
    """What slots of one phase and stages have in common."""

    variant: Variant
    compute_s: float
    hold: Hold  # the CPU issues it
    run: ScriptRun | None = None


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
        self.done: dict[_Made, tuple[int, tuple[int, ...]]] = {}  # rank, and items that end a phase: compute, host
        self._kinds: dict[tuple[str, int, int, bool, bool], _Kind] = {}
        self.orders = orders(job.layout.schedule, job.layout.pp, job.layout.vpp, job.micro_batches, job.hides_exchanges)
        self._scripts: dict[object, Script] = {}
        self._sends: dict[tuple[int, int], Send] = {}
        self.sent: dict[_Made, tuple[int, ...]] = {}  # items with which a stage's data is there
        self.copies = HostCopies(prices) if job.offloads else None
        self._moves = self.copies is not None and self.copies.activations
        self._backward: dict[tuple[int, int], list[int]] = {}  # (rank, stage): last backward, what sums its gradients

    def _rides(self, slot: Slot, first: bool, last: bool) -> tuple[bool, bool]:
        """Whether parameter gathers and gradient reductions ride along with a slot, its stage's first or last here."""
        lay, stack = self.job.layout, self.job.stack
        if lay.zero >= 3:
            return slot.phase in ("F", "B", "I", "FB"), slot.phase in ("B", "FB", "W")
        if not stack.dp_overlap:
            return False, False
        return first and lay.zero >= 1 and lay.pp == 1, last

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
        wires = self.prices.wires(comm)
        loads = tuple((link_of(rank, w), min(1.0, s / seconds)) for w, s in wires.items()) if seconds > 0.0 else ()
        return self._joint(Send(seconds, loads, sms_share=sms), rank)

    def _joint(self, send: Send, rank: int) -> Send:
        """A collective of all GPUs of a stage: where links are bad it takes as long as over the worst of them."""
        if self.members is None or not self.members.unlike.links:
            return send
        assert not callable(send.seconds)
        members, own = self.members, [(link % len(WIRES), share) for link, share in send.loads]
        alone_s = float(send.seconds)
        return replace(send, seconds=lambda now_s: members.joint_s(alone_s, rank, own, now_s))

    def _tail(self, slot: int, script: Script, rank: int, links: tuple[int, ...]) -> list[int]:
        """What may outlast a slot, as items."""
        items = add_tail(self.plan, slot, script, rank, links)
        for item in items:
            self.plan.items[item] = self._joint(cast(Send, self.plan.items[item]), rank)
        return items

    def build(self) -> StepProgram:
        """The finished program."""
        self._prefetch()
        asked = list(self._asked())
        shared = self._shared_wires(asked)
        host = self._host_binds()
        previous_host: dict[int, int] = {}
        made: list[_Made] = []
        add, wires = self.plan.add, [tuple(link_of(r, w) for w in WIRES) for r in range(self.job.layout.pp)]
        for rank, slot, kind in asked:
            if kind.run is None:
                kind.run = ScriptRun(self._script(slot, kind, shared))
            run, label, script = kind.run, _label(slot), kind.run.script
            if self.members is not None:
                run = ScriptRun(script, partial(self.members.seconds, rank, slot, kind.variant, script))
            item = add(Lane(rank, "compute"), label, run, "bubble")
            self.slots[item], self.variants[item] = slot, kind.variant
            ends: tuple[int, ...] = (item,)
            if host:
                issue = add(Lane(rank, "host"), "issue " + label, kind.hold, "host")
                ends = (item, issue)
                if rank in previous_host:
                    self.plan.wait(item, (previous_host[rank],))
                previous_host[rank] = issue
            if self.gathered and slot.phase in ("F", "FB"):
                gather = self.gathered.pop((rank, slot.stage), None)
                if gather is not None:
                    self.plan.wait(item, (gather,))
            for what in _made(slot):
                self.done[what] = (rank, ends)
                made.append(what)
            tail = self._tail(item, script, rank, wires[rank]) if script.tail else []
            if self.copies is not None:
                self._copy(self.copies, rank, slot, script, [item, *tail])
        if self.copies is not None and self.job.offload_optimizer:
            self.copies.add_updates(self.plan, self._backward, lambda comm, r: self._collective(comm, r, 0.0))
        self._send_all(made, shared if self.prices.coarse else None)
        for item, slot in self.slots.items():
            self._receive_all(item, slot)
        return StepProgram(self.plan, self.slots, self.variants, self.members)

    def _copy(self, copies: HostCopies, rank: int, slot: Slot, script: Script, items: list[int]) -> None:
        """What moves to and from the host's memory with a slot; `items`: the slot, and what sums gradients after it."""
        if slot.phase not in ("F", "I"):
            self._backward[rank, slot.stage_b if slot.phase == "FB" else slot.stage] = items
        if self._moves:
            copies.add_slot(self.plan, items[0], slot, script, rank)

    def _asked(self) -> Iterator[tuple[int, Slot, _Kind]]:
        """Slots of every rank in order, with what those of their kind have in common."""
        kinds = self._kinds
        for rank, order in enumerate(self.orders):
            first, last = _edges(order)
            for place, slot in enumerate(order):
                gather, reduce = self._rides(slot, place in first, place in last)
                key = (slot.phase, slot.stage, slot.stage_b, gather, reduce)
                kind = kinds.get(key)
                if kind is None:
                    kind = kinds[key] = self._kind(slot, Variant(gather, reduce))
                yield rank, slot, kind

    def _kind(self, slot: Slot, variant: Variant) -> _Kind:
        host_s = self.prices.segment(slot, variant).host_s
        return _Kind(variant, self.prices.compute_s(slot), Hold(host_s))

    # -- scripts ----------------------------------------------------------------------------------------------

    def _shared_wires(self, asked: list[tuple[int, Slot, _Kind]]) -> frozenset[Wire]:
        """Wires on which transfers of a slot may meet those of another: sends, gathers and reductions.

        A wire that those fill for less than _SELDOM of the step is left out: slots stay whole, and cost less.
        """
        lay = self.job.layout
        used: dict[Wire, float] = dict.fromkeys(WIRES, 0.0)
        busy_s, seen = 0.0, set()
        for rank, slot, kind in asked:
            if rank:
                break
            busy_s += kind.compute_s
            if kind.variant.reduce and kind not in seen:
                seen.add(kind)
                for wire, seconds in self.prices.tail_wires(slot, kind.variant).items():
                    used[wire] += seconds
        for a in range(lay.pp if lay.pp > 1 else 0):
            _, seconds, shares = self.prices.send(a, (a + 1) % lay.pp)
            for wire in shares:  # in and out, forward and backward, of every micro-batch and virtual stage
                used[wire] = max(used[wire], 2.0 * self.job.micro_batches * lay.vpp * seconds)
        if self.gathered:
            for comm in (comm for chunk in range(lay.chunks) for comm in self.prices.gathers(chunk)):
                for wire, seconds in self.prices.wires(comm).items():
                    used[wire] += seconds / lay.pp
        seldom = _SELDOM_ESTIMATE if self.prices.coarse else _SELDOM
        uplinks = self.prices.uplinks
        meets = LEAF_WIRES if uplinks is not None and (uplinks.met or uplinks.met_jobs) else ()
        found = {wire for wire, s in used.items() if wire in meets or s > seldom[wire] * busy_s}
        return frozenset(found | {*HOST_WIRES} if self._moves else found)

    def _script(self, slot: Slot, kind: _Kind, shared: frozenset[Wire]) -> Script:
        """A slot's pieces: one, where no transfer of it can meet another slot's, else every transfer apart."""
        variant = kind.variant
        key: object = self.prices.key(slot, variant)
        if self._moves:  # layers that run alike may keep more or less
            key = (key, slot.stage, slot.stage_b)
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
            elif crosses or variant.reduce or variant.gather or self._moves:
                script = self.prices.script(slot, variant, meets.__contains__, by_layer=self._moves)
            else:
                script = _folded(segment.name, self.prices.segment_time(slot, variant))
            if self._moves and self.copies is not None:
                script = self.copies.fetching(script, slot)
            self._scripts[key] = script
        return script

    def _host_binds(self) -> bool:
        """Whether the CPU may take longer to issue a slot than the slot itself takes."""
        return any(kind.hold.seconds > kind.compute_s for kind in self._kinds.values())

    # -- who waits for whom -----------------------------------------------------------------------------------

    def _send_all(self, made: list[_Made], met: frozenset[Wire] | None) -> None:
        """Transfers to the stages that come next, in the order in which their senders get there.

        met: the wires on which they may meet others; None: all.
        """
        last = len(self.prices.chunks) - 1
        for what in made:
            phase, micro_batch, stage = what
            target = stage + 1 if phase == "F" else stage - 1
            if not 0 <= target <= last:
                continue
            (a, ends), b = self.done[what], self.done[(phase, micro_batch, target)][0]
            if a == b:
                self.sent[what] = ends
                continue
            send = self._sends.get((a, b))
            if send is None:
                send = self._sends[(a, b)] = self._hop(a, b, met)
            item = self.plan.add(Lane(a, f"send.{b}"), f"{phase}{micro_batch}.{stage} to {b}", send, "pp_comm", ends)
            self.sent[what] = (item,)

    def _receive_all(self, item: int, slot: Slot) -> None:
        """What the slot's data comes from: the stage before (forward) or after (backward), and its own forward."""
        last = len(self.prices.chunks) - 1
        preds = self.plan.preds[item]
        if slot.phase in ("F", "FB") and slot.stage > 0:
            preds.extend(i for i in self.sent[("F", slot.micro_batch, slot.stage - 1)] if i != item)
        if slot.phase in ("B", "I", "FB"):
            micro_batch, stage = (slot.micro_batch_b, slot.stage_b) if slot.phase == "FB" else slot[1:3]
            ends = self.sent[("B", micro_batch, stage + 1)] if stage < last else self.done[("F", micro_batch, stage)][1]
            preds.extend(i for i in ends if i != item)

    def _hop(self, a: int, b: int, met: frozenset[Wire] | None) -> Send:
        """The transfer from one pipeline rank to another, over the sender's and the receiver's wire."""
        host, seconds, shares = self.prices.send(a, b)
        if met is not None:
            shares = {wire: share for wire, share in shares.items() if wire in met}
        ends: dict[Wire, tuple[int, ...]] = {"down": (a,), "up": (b,)}
        loads = tuple((link_of(rank, wire), share) for wire, share in shares.items() for rank in ends.get(wire, (a, b)))
        if self.members is None or not self.members.unlike.links:
            return Send(seconds, loads, before_s=host)
        own, members = [(WIRES.index(wire), share) for wire, share in shares.items()], self.members

        def slower(now_s: float) -> Seconds:
            return members.stretched(members.stretched(seconds, a, own, now_s), b, own, now_s)

        return Send(slower, loads, before_s=host)


def _made(slot: Slot) -> list[_Made]:
    """What a slot brings about: (F or B, micro-batch, stage)."""
    made = [("F", slot.micro_batch, slot.stage)] if slot.phase in ("F", "FB") else []
    if slot.phase in ("B", "I"):
        made.append(("B", slot.micro_batch, slot.stage))
    elif slot.phase == "FB":
        made.append(("B", slot.micro_batch_b, slot.stage_b))
    return made


def _folded(name: str, time: SegmentTime) -> Script:
    """A slot whose transfers meet no other slot's, as one piece."""
    longest = max(time.by_category, key=lambda category: time.by_category[category], default="bubble")
    spent, sources = tuple(time.by_category.items()), tuple(time.by_source.items())
    return Script(name, (Piece(name, "compute", "compute", time.duration_s, longest, spent=spent, sources=sources),))


def _label(slot: Slot) -> str:
    if slot.phase == "FB":
        return f"F{slot.micro_batch}.{slot.stage}+B{slot.micro_batch_b}.{slot.stage_b}"
    return f"{slot.phase}{slot.micro_batch}.{slot.stage}"


def _edges(order: list[Slot]) -> tuple[set[int], set[int]]:
    """Where a rank's order has the first forward and the last backward of each stage."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for place, slot in enumerate(order):
        if slot.phase in ("F", "FB"):
            first.setdefault(slot.stage, place)
        if slot.phase in ("B", "W"):
            last[slot.stage] = place
        elif slot.phase == "FB":
            last[slot.stage_b] = place
    return set(first.values()), set(last.values())
