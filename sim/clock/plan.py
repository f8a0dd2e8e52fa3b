"""The plan of a step for the walker: items on lanes (slots, transfers between slots, holds) and who waits for whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from moesim.sim.clock.script import Piece, Script
from moesim.sim.clock.values import Seconds


class Lane(NamedTuple):
    """One stream of one rank; items on it run one after another in program order."""

    rank: int
    stream: str  # compute | dp | host | send.RANK | down, up (copies to and from the host's memory) | cpu


@dataclass(frozen=True, slots=True)
class ScriptRun:
    """A rank runs a script; `seconds` of its pieces, asked for as it begins, where members differ from it."""

    script: Script
    seconds: Callable[[float], Sequence[Seconds]] | None = None


@dataclass(frozen=True, slots=True)
class Send:
    """A transfer between slots: seconds alone (or how they follow the second at which it starts), the links that it
    loads, by number over all ranks, and its flows."""

    seconds: Seconds | Callable[[float], Seconds]
    loads: tuple[tuple[int, float], ...]
    flow_weight: float = 1.0
    sms_share: float = 0.0  # of its lane's rank, while it runs
    before_s: float = 0.0  # what the host needs before it starts


@dataclass(frozen=True, slots=True)
class Hold:
    """Something that takes its time and nothing else: the host issuing a slot, or updating parameters."""

    seconds: float


Item = ScriptRun | Send | Hold


@dataclass
class Plan:
    """Items by number, with label, lane, what waiting for them is called, and what they wait for."""

    items: list[Item] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    lane_of: list[Lane] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    preds: list[list[int]] = field(default_factory=list)  # items that must have ended
    queue: list[int] = field(default_factory=list)  # the item before on the lane, -1 for the first
    pieces: dict[tuple[int, int], list[int]] = field(default_factory=dict)  # (slot, piece): items that follow it
    lanes: dict[Lane, list[int]] = field(default_factory=dict)

    def add(self, lane: Lane, label: str, item: Item, category: str, after: Sequence[int] = ()) -> int:
        """Append an item to `lane`; returns its number. It also waits for `after` and for the item before it."""
        number = len(self.items)
        self.items.append(item)
        self.labels.append(label)
        self.lane_of.append(lane)
        self.categories.append(category)
        self.preds.append(list(after))
        row = self.lanes.setdefault(lane, [])
        self.queue.append(row[-1] if row else -1)
        row.append(number)
        return number

    def wait(self, item: int, after: Sequence[int]) -> None:
        """Make `item` wait for more items."""
        self.preds[item].extend(after)

    def follow(self, item: int, slot: int, piece: int) -> None:
        """Make `item` wait for one piece of a slot."""
        self.pieces.setdefault((slot, piece), []).append(item)

    def __len__(self) -> int:
        return len(self.items)


def piece_send(piece: Piece, links: Sequence[int]) -> Send:
    """A transfer of a script's tail as an item of its own; `links` translates its wires to links."""
    loads = tuple((links[wire], share) for wire, share in piece.loads)
    return Send(piece.seconds, loads, piece.flow_weight, piece.sms_share)
