"""What moves between GPUs and the memory of their hosts in a step, as items and pieces of its program.

Activations move layer by layer: down when a layer's forward is over, one after the other; up one layer ahead of the
backward that needs them, the first of a slot while the slot before it runs. An optimizer in host memory moves stage by
stage: gradients down after the stage's last backward, the CPU's update, weights up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from moesim.hwmodels.gpu import bytes_per_element
from moesim.hwmodels.wires import WIRES, Wire, link_of
from moesim.hwmodels.work import Comm
from moesim.sim.clock.plan import Hold, Lane, Plan, Send
from moesim.sim.clock.script import Piece, Script
from moesim.sim.layout.pipeline import Slot
from moesim.sim.train.activations import fullest_expert_rank, layer_bytes
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.updates import owned_params, serial_gradients

Moves = tuple[tuple[int, float], ...]  # (block of a slot's segment, seconds alone) of layers, in the order they move


def moved_bytes(prices: StepPrices, stage: int) -> list[float]:
    """Bytes that each layer of a virtual stage sends down for one micro-batch, on the GPU that keeps most."""
    layers = prices.chunks[stage].layers
    full, share = fullest_expert_rank(prices.loads, layers), prices.job.offload_activations
    return [layer_bytes(prices.job, prices.loads, place, full) * share for place in layers]


def optimizer_bytes(prices: StepPrices, stages: Sequence[int]) -> tuple[float, float]:
    """(gradients down, weights up) of these virtual stages per GPU and step; 16-bit weights."""
    if not prices.job.offload_optimizer:
        return 0.0, 0.0
    own = owned_params(prices, stages)
    return own * bytes_per_element(prices.job.stack.grad_dtype), own * 2.0


def host_update_seconds_per_param(prices: StepPrices) -> float:
    """The update of one parameter by the CPU, with its gradient's way down and its weight's way up."""
    get, link = prices.tuning.get, prices.job.cluster.gpu.host_link_bytes_per_s * prices.tuning.get("host_link_share")
    moved = bytes_per_element(prices.job.stack.grad_dtype) + 2.0
    return moved / link + get("host_optimizer_bytes_per_param") / get("host_bytes_per_s")


def host_seconds_floor(prices: StepPrices, rank: int) -> float:
    """Seconds that the busier direction of a GPU's link to its host cannot do without, by the data sheet."""
    job, stages = prices.job, prices.job.layout.chunks_of(rank)
    runs = job.micro_batches / (2 if job.layout.schedule == "dualpipe" else 1)
    kept = runs * sum(sum(moved_bytes(prices, stage)) for stage in stages)
    return (kept + max(optimizer_bytes(prices, stages))) / job.cluster.gpu.host_link_bytes_per_s


@dataclass(slots=True)
class HostCopies:
    """Copies of one step; made only where something moves, so that no constant is asked for elsewhere."""

    prices: StepPrices
    bytes_per_s: float = field(init=False)  # that a copy alone reaches; one copy fills its direction
    _known: dict[tuple[int, int], Moves] = field(default_factory=dict)  # by stage and its first block
    _behind: dict[tuple[int, Script], list[tuple[int, Send]]] = field(default_factory=dict)
    _fetches: dict[int, int] = field(default_factory=dict)  # slot -> its last piece that fetches
    _down: dict[tuple[int, int], int] = field(default_factory=dict)  # (micro-batch, stage) -> its last copy down

    def __post_init__(self) -> None:
        gpu = self.prices.job.cluster.gpu
        self.bytes_per_s = gpu.host_link_bytes_per_s * self.prices.tuning.get("host_link_share")

    @property
    def activations(self) -> bool:
        """Whether layers' activations move."""
        return self.prices.job.offload_activations > 0.0

    def _send(self, seconds: float, rank: int, wire: Wire) -> Send:
        return Send(seconds, ((link_of(rank, wire), 1.0),))

    def _moves(self, stage: int, first: int = 0) -> Moves:
        """Layers of a stage in forward order; its blocks are numbered from `first` on."""
        found = self._known.get((stage, first))
        if found is None:
            start = first + (1 if self.prices.chunks[stage].embedding else 0)
            sizes = enumerate(moved_bytes(self.prices, stage), start)
            found = tuple((block, size / self.bytes_per_s) for block, size in sizes if size > 0.0)
            self._known[stage, first] = found
        return found

    def _down_of(self, slot: Slot, script: Script, rank: int) -> list[tuple[int, Send]]:
        """(piece that it follows, copy) of every layer of a slot's forward."""
        if slot.phase not in ("F", "FB"):
            return []
        found = self._behind.get((rank, script))
        if found is None:
            moves = self._moves(slot.stage)
            found = [(_span(script, block)[1], self._send(seconds, rank, "down")) for block, seconds in moves]
            self._behind[rank, script] = found
        return found

    def _up_of(self, slot: Slot) -> Moves:
        if slot.phase in ("B", "I"):
            return self._moves(slot.stage)[::-1]
        if slot.phase != "FB":
            return ()
        ahead = len(self.prices.chunks[slot.stage].blocks(self.prices.job.arch))
        return self._moves(slot.stage_b, ahead)[::-1]

    # -- activations ------------------------------------------------------------------------------------------

    def fetching(self, script: Script, slot: Slot) -> Script:
        """The script of a slot with what its backward fetches, but for its first layer, which is there before it.

        A layer's copy begins when the backward of the layer before it begins; its own backward waits for it.
        """
        ups = self._up_of(slot)
        pieces = list(script.pieces)
        count = len(pieces)
        spans = [_span(script, block) for block, _ in ups]
        for number, (_, seconds) in enumerate(ups[1:], 1):
            first = spans[number][0]
            after = (spans[number - 2][1],) if number > 1 else ()
            place = len(pieces)
            pieces.append(
                Piece(
                    f"fetch {pieces[first].name}", "transfer", "up", seconds, "offload", after,
                    loads=((WIRES.index("up"), 1.0),), spent=(("offload", seconds),),
                )
            )  # fmt: skip
            pieces[first] = replace(pieces[first], after=(*pieces[first].after, place))
        return Script(script.name, tuple(pieces), script.tail) if len(pieces) > count else script

    def add_slot(self, plan: Plan, item: int, slot: Slot, script: Script, rank: int) -> None:
        """Copies down behind the layers of a slot, and the first one up before it; asked in the order of the rank."""
        for piece, send in self._down_of(slot, script, rank):
            down = plan.add(Lane(rank, "down"), f"F{slot.micro_batch}.{slot.stage} down", send, "offload")
            plan.follow(down, item, piece)
            self._down[slot.micro_batch, slot.stage] = down
        ups = self._up_of(slot)
        if not ups:
            return
        back = (slot.micro_batch_b, slot.stage_b) if slot.phase == "FB" else (slot.micro_batch, slot.stage)
        up = plan.add(Lane(rank, "up"), f"B{back[0]}.{back[1]} up", self._send(ups[0][1], rank, "up"), "offload")
        plan.wait(up, (self._down.pop(back),))
        before = plan.queue[item]  # the slot that runs while this copy does
        if before >= 0:
            if before in self._fetches:  # its own copies come first
                plan.follow(up, before, self._fetches[before])
            elif plan.queue[before] >= 0:
                plan.wait(up, (plan.queue[before],))
        plan.wait(item, (up,))
        if len(ups) > 1:
            self._fetches[item] = len(script.pieces) - 1

    # -- optimizer --------------------------------------------------------------------------------------------

    def add_updates(
        self, plan: Plan, backward: Mapping[tuple[int, int], Sequence[int]], sent: Callable[[Comm, int], Send]
    ) -> None:
        """Updates on the CPU of every stage on its rank.

        `backward`: by (rank, stage) its last backward and what sums gradients after it. Sums that nothing overlapped
        come before the rank's first copy, gathers of parameters after its last; `sent` makes items of both.
        """
        for rank in range(self.prices.job.layout.pp):
            ends = {stage: items for (of_rank, stage), items in backward.items() if of_rank == rank}
            serial = serial_gradients(self.prices, rank)
            every = [item for items in ends.values() for item in items]
            summed = [
                plan.add(Lane(rank, "dp"), comm.kind, sent(comm, rank), "dp_comm", every)
                for comm in serial
                if comm.kind != "all_gather"
            ]
            updated = [self._update(plan, rank, stage, [*items, *summed]) for stage, items in ends.items()]
            for comm in serial:
                if comm.kind == "all_gather":
                    plan.add(Lane(rank, "dp.after"), comm.kind, sent(comm, rank), "dp_comm", updated)

    def _update(self, plan: Plan, rank: int, stage: int, after: Sequence[int]) -> int:
        """Gradients of a stage down when `after` are over, the CPU's update, weights up; returns the last item."""
        get, stages = self.prices.tuning.get, (stage,)
        down_bytes, up_bytes = optimizer_bytes(self.prices, stages)
        update_s = owned_params(self.prices, stages) * get("host_optimizer_bytes_per_param") / get("host_bytes_per_s")
        down = self._send(down_bytes / self.bytes_per_s, rank, "down")
        gone = plan.add(Lane(rank, "down"), f"gradients {stage}", down, "offload", after)
        updated = plan.add(Lane(rank, "cpu"), f"update {stage}", Hold(update_s), "offload", (gone,))
        up = self._send(up_bytes / self.bytes_per_s, rank, "up")
        return plan.add(Lane(rank, "up"), f"weights {stage}", up, "offload", (updated,))


def _span(script: Script, block: int) -> tuple[int, int]:
    """(first, last) piece of one layer of a slot: the first of its own stream, the last of any."""
    own = [n for n, piece in enumerate(script.pieces) if piece.layer == block and piece.stream != "gather"]
    return next(n for n in own if script.pieces[n].stream == "compute"), own[-1]
