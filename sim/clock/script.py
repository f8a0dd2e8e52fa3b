"""Scripts: the pieces that one rank runs in one slot, on its streams, and what each must wait for.

A piece is a stretch of compute, a transfer over wires, a wait for the host, or a delay. Seconds may be one number, or
an array [groups, members] where the ranks of a stage differ; the walker (sim/clock/walker.py) runs both alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["compute", "transfer", "host", "delay"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One stretch on one stream.

    `seconds` alone; `after` pieces of the script that must have ended; `loads` the share of each wire (by number) that
    a transfer fills alone and `flow_weight` its flows there; `sms_share` the multiprocessors that it holds while it
    runs; `barrier` how many neighbouring members start together (0: each for itself). A host piece ends `seconds` after
    piece `since` began and host piece `behind` ended (there is one CPU thread), or at once. `spent` and `sources` say
    what its seconds are booked as, and sum to them; `ops` are the operations of the segment that it consists of,
    `layer` the block of the stage (in order) whose rows its seconds follow.
    """

    name: str
    kind: Kind
    stream: str
    seconds: float
    category: str
    after: tuple[int, ...] = ()
    loads: tuple[tuple[int, float], ...] = ()
    flow_weight: float = 1.0
    sms_share: float = 0.0
    barrier: int = 0
    since: int = -1
    behind: int = -1
    spent: tuple[tuple[str, float], ...] = ()
    sources: tuple[tuple[str, float], ...] = ()
    ops: tuple[int, ...] = ()
    layer: int = -1


@dataclass(frozen=True, eq=False)
class Script:
    """Pieces in program order; on every stream they run in this order. The slot is over when `blocking` are done.

    `tail`: transfers that may outlast the slot, one after the other on a lane of their rank; each starts after the
    piece that `after` names.
    """

    name: str
    pieces: tuple[Piece, ...]
    tail: tuple[Piece, ...] = ()
    preds: tuple[tuple[int, ...], ...] = field(init=False)
    succs: tuple[tuple[int, ...], ...] = field(init=False)
    heads: tuple[int, ...] = field(init=False)
    blocking: frozenset[int] = field(init=False)
    alone: bool = field(init=False)  # one piece of compute and nothing else
    lasts: tuple[int, ...] = field(init=False)  # the last piece of every stream that the slot waits for

    def __post_init__(self) -> None:
        """Who waits for whom: the pieces before on the same stream, and those named."""
        preds: list[tuple[int, ...]] = []
        last: dict[str, int] = {}
        for number, piece in enumerate(self.pieces):
            before = set(piece.after)
            if piece.stream in last:
                before.add(last[piece.stream])
            preds.append(tuple(sorted(before)))
            last[piece.stream] = number
        succs: list[list[int]] = [[] for _ in self.pieces]
        for number, before_it in enumerate(preds):
            for other in before_it:
                succs[other].append(number)
        derived: Mapping[str, object] = {
            "preds": tuple(preds),
            "succs": tuple(map(tuple, succs)),
            "heads": tuple(i for i, p in enumerate(preds) if not p),
            "alone": len(self.pieces) == 1 and (self.pieces[0].kind, self.pieces[0].stream) == ("compute", "compute"),
            "blocking": frozenset(i for i, p in enumerate(self.pieces) if p.kind != "delay"),
            "lasts": tuple(sorted(i for stream, i in last.items() if self.pieces[i].kind != "delay")),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)
