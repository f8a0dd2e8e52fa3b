"""Scripts of segments: operations with seconds, wires and multiprocessors, joined where nothing can come between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from moesim.hwmodels.cost import CostModel
from moesim.hwmodels.wires import WIRES, Wire, flows
from moesim.hwmodels.work import Comm, ExpertExchange, Transfer
from moesim.sim.clock.script import Piece, Script
from moesim.sim.layers.graph import Op, Segment


@dataclass(frozen=True, slots=True)
class Rules:
    """How operations become pieces: costs, gaps between kernels, what transfers beside compute hold and lose.

    `sms` gives the share of the multiprocessors that a transfer holds where it runs beside compute; `slowdown` how many
    times as long transfers on the comm stream take there; `barrier` how many members a transfer joins.
    """

    model: CostModel
    wires: Callable[[Transfer], Mapping[Wire, float]]  # seconds at full rate on the wires that a transfer uses
    gap_s: float
    sms: Callable[[Op], float]
    barrier: Callable[[Op], int] = lambda op: 0
    slowdown: Mapping[str, float] = field(default_factory=dict)
    by_layer: bool = False  # pieces end where a layer does: their seconds follow its own rows


Wires = Mapping[Wire, float]  # seconds at full rate
_NONE: Wires = {}


def wires_of(op: Op, wire_seconds: Callable[[Transfer], Wires]) -> Wires:
    """Seconds at full rate on the wires that an operation uses."""
    if not isinstance(op.work, Comm | ExpertExchange):
        return _NONE
    return {wire: seconds * op.scale for wire, seconds in wire_seconds(op.work).items()}


def shared_wires(segment: Segment, wires: Sequence[Wires]) -> frozenset[Wire]:
    """Wires on which transfers of two streams of the segment may meet; `wires` of every operation."""
    streams: dict[Wire, set[str]] = {}
    for op, used in zip(segment.ops, wires, strict=True):
        for wire in used:
            streams.setdefault(wire, set()).add(op.stream)
    return frozenset(w for w, found in streams.items() if len(found) > 1)


class _Compiler:
    """Walks the operations of a segment once and joins those of the compute stream that nothing separates."""

    def __init__(self, segment: Segment, rules: Rules, wires: Sequence[Wires], apart: Callable[[int], bool]) -> None:
        self.segment, self.rules, self.wires, self.apart = segment, rules, wires, apart
        self.costs = [rules.model.cost(op.work) for op in segment.ops]
        self.pieces: list[Piece] = []
        self.tail: list[Piece] = []
        self.piece_of: list[int] = []  # by operation; those of the tail have none (-1)
        self.first_of: dict[int, int] = {}
        self._heads = {b.first for b in segment.blocks}
        self._block_of = {b.last: b for b in segment.blocks}
        named = {j for op in segment.ops for j in op.after}
        self._ends = {j for j in named if segment.ops[j].stream == "compute"} | set(self._block_of)
        self._host_piece = -1
        self._open: list[int] = []
        self._open_after: tuple[int, ...] = ()

    def seconds(self, index: int) -> float:
        """Alone, gaps between kernels included."""
        op, rules = self.segment.ops[index], self.rules
        gaps = rules.gap_s * op.kernels if op.stream == "compute" else 0.0
        return self.costs[index].time_s * op.scale * rules.slowdown.get(op.stream, 1.0) + gaps

    def script(self) -> Script:
        for index, op in enumerate(self.segment.ops):
            if op.stream == "compute" and not self.apart(index):
                self._join(index, op)
            else:
                if op.stream == "compute":
                    self._close()
                self._transfer(index, op)
            if index in self._ends:
                self._close()
            if index in self._block_of:
                self._host(index)
        self._close()
        return Script(self.segment.name, tuple(self.pieces), tuple(self.tail))

    def _after(self, op: Op) -> tuple[int, ...]:
        return tuple(sorted({self.piece_of[j] for j in op.after}))

    def _join(self, index: int, op: Op) -> None:
        other_layer = self.rules.by_layer and self._open and self.segment.ops[self._open[0]].block != op.block
        if self._open and (op.after or index in self._heads or other_layer):
            self._close()
        if not self._open:
            self._open_after = self._after(op)
        self._open.append(index)
        self.piece_of.append(len(self.pieces))

    def _close(self) -> None:
        if not self._open:
            return
        spent: dict[str, float] = {}
        sources: dict[str, float] = {}
        total = 0.0
        for index in self._open:
            op, seconds = self.segment.ops[index], self.seconds(index)
            total += seconds
            spent[op.category] = spent.get(op.category, 0.0) + seconds
            source = self.costs[index].source
            sources[source] = sources.get(source, 0.0) + seconds
        longest = max(spent, key=lambda name: spent[name])
        first = self.segment.ops[self._open[0]]
        self.pieces.append(
            Piece(
                first.name if len(self._open) == 1 else f"{first.name}..", "compute", "compute", total, longest,
                self._open_after, spent=tuple(spent.items()), sources=tuple(sources.items()),
                ops=tuple(self._open), layer=first.block,
            )
        )  # fmt: skip
        self._open = []

    def _transfer(self, index: int, op: Op) -> None:
        seconds, rules = self.seconds(index), self.rules
        loads = tuple(
            (WIRES.index(wire), min(1.0, wire_s / seconds))
            for wire, wire_s in self.wires[index].items()
            if seconds > 0.0
        )
        moves = isinstance(op.work, Comm | ExpertExchange)
        piece = Piece(
            op.name,
            "transfer" if moves else "compute",
            op.stream,
            seconds,
            op.category,
            self._after(op),
            loads=loads,
            flow_weight=float(flows(op.work)) if isinstance(op.work, Comm | ExpertExchange) else 1.0,
            sms_share=rules.sms(op) if op.stream != "compute" else 0.0,
            barrier=rules.barrier(op) if moves else 0,
            spent=((op.category, seconds),),
            sources=((self.costs[index].source, seconds),),
            ops=(index,),
            layer=op.block,
        )
        if op.stream == "dp":
            self.tail.append(piece)
            self.piece_of.append(-1)
            return
        self.piece_of.append(len(self.pieces))
        self.pieces.append(piece)

    def _host(self, index: int) -> None:
        """The CPU and the GPU wait for each other: compute goes on when the CPU has issued the stretch."""
        block = self._block_of[index]
        since = self.piece_of[block.first]
        self.pieces.append(
            Piece(
                "host", "host", "compute", block.host_s, "host", since=since, behind=self._host_piece,
                spent=(("host", block.host_s),),
            )
        )  # fmt: skip
        self._host_piece = len(self.pieces) - 1


def compile_script(
    segment: Segment, rules: Rules, wires: Sequence[Wires] = (), apart: Callable[[int], bool] | None = None
) -> Script:
    """The script of a segment. `wires` of every operation, where they are known; `apart`: which operations of the
    compute stream, by number, are pieces of their own (by default transfers on wires that two streams use)."""
    known = wires or [wires_of(op, rules.wires) for op in segment.ops]
    if apart is None:
        shared = shared_wires(segment, known)
        return _Compiler(segment, rules, known, lambda i: not shared.isdisjoint(known[i])).script()
    return _Compiler(segment, rules, known, apart).script()
