"""V-shaped schedules: a rank holds one stage of each arm of a V, and its order grows from one repeated building block.

Qi et al. 2024, "Pipeline Parallelism with Controllable Memory": forward, input gradient and weight gradient of a stage
take one tick each, so that a micro-batch fills six ticks of every rank. The block says at which tick a micro-batch's
parts run on which rank; the next micro-batch follows six ticks later. How many ticks a hop takes decides how long
activations live, and with them the memory. What the fill and the drain leave idle is then squeezed out. The order is
that of equal parts; ranks run it at whatever their parts take.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, product
from typing import NamedTuple

_PERIOD = 6  # ticks between micro-batches: two stages, three parts each
Part = tuple[str, int, int]  # phase F, I or W; micro-batch; virtual stage


class Hops(NamedTuple):
    """Ticks from one stage to the next: forward down and up the V, input gradients down and up."""

    forward_down: int
    forward_up: int
    back_down: int
    back_up: int


# A rank's two stages hold activations for (hops of the outer arm + hops of the inner arm) / 12 of a micro-batch per
# rank passed; equal sums of the two arms load all ranks alike: 4 ticks in all are a third of 1F1B, 6 a half, 12 all.
HOPS = {"v-min": Hops(1, 1, 1, 1), "v-half": Hops(2, 1, 2, 1), "zb-v": Hops(3, 3, 3, 3)}


def v_rank(stage: int, pp: int) -> int:
    """The pipeline rank of a virtual stage: down the V from rank 0, and up again."""
    return stage if stage < pp else 2 * pp - 1 - stage


def v_shape(schedule: str, pp: int, micro_batches: int) -> list[list[Part]]:
    """Every rank's parts in program order. KeyError for a schedule without HOPS."""
    return _squeezed(_pattern(HOPS[schedule], pp, micro_batches), pp)


def _pattern(hops: Hops, pp: int, micro_batches: int) -> list[list[Part]]:
    """The block of every micro-batch, six ticks apart; weight gradients as soon as a tick is free."""
    orders = []
    for rank, block in enumerate(_block(hops, pp)):
        up, down = 2 * pp - 1 - rank, rank
        free = set(range(_PERIOD)) - {tick % _PERIOD for tick in block}
        first = next(tick for tick in count(block[2] + 1) if tick % _PERIOD in free)
        free.remove(first % _PERIOD)
        second = next(tick for tick in count(block[3] + 1) if tick % _PERIOD in free)
        parts = (("F", down), ("F", up), ("I", up), ("I", down), ("W", up), ("W", down))
        ticks = (*block, first, second)
        runs = [
            (tick + _PERIOD * i, (phase, i, stage))
            for i in range(micro_batches)
            for tick, (phase, stage) in zip(ticks, parts, strict=True)
        ]
        orders.append([part for _, part in sorted(runs)])
    return orders


def _block(hops: Hops, pp: int) -> list[tuple[int, int, int, int]]:
    """Ticks of a micro-batch on every rank: forward of its outer and inner stage, input gradient of inner and outer.

    At each turn of the V a micro-batch may have to wait, for no rank runs two parts in a tick: as little in all, and
    then as little at one turn, as does.
    """
    for waits in sorted(product(range(_PERIOD), repeat=3), key=lambda w: (sum(w), max(w), w)):
        block = _placed(hops, pp, waits)
        if all(len({tick % _PERIOD for tick in ticks}) == len(ticks) for ticks in block):
            return block
    raise AssertionError(f"no building block for {hops} on {pp} ranks")


def _placed(hops: Hops, pp: int, waits: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    last = pp - 1
    turn = last * hops.forward_down + 1 + waits[0]
    loss = turn + last * hops.forward_up + 1 + waits[1]
    back = loss + last * hops.back_down + 1 + waits[2]
    return [
        (
            rank * hops.forward_down,
            turn + (last - rank) * hops.forward_up,
            loss + rank * hops.back_down,
            back + (last - rank) * hops.back_up,
        )
        for rank in range(pp)
    ]


def _most_held(order: list[Part]) -> int:
    """Stages' activations held at once, each from its forward to its weight gradient."""
    held = most = 0
    for phase, _, _ in order:
        held += {"F": 1, "I": 0, "W": -1}[phase]
        most = max(most, held)
    return most


class _Rank:
    """One rank while its order is squeezed: forwards and input gradients in pattern order, the rest as it fits."""

    def __init__(self, pattern: list[Part], most: int) -> None:
        self.order: list[Part] = []
        self.left = len(pattern)
        self._queue = [part for part in pattern if part[0] != "W"]
        self._next = 0
        self._early: set[Part] = set()
        self._weights: list[Part] = []
        self._paid = 0  # weight gradients that have run
        self._live = self._held = 0  # stages without their input gradient yet; without their weight gradient yet
        self._most = most

    def step(self, done: set[Part], pp: int) -> Part | None:
        """What this rank runs in this tick, given the parts that are done."""
        part = self._choice(done, pp)
        if part is not None:
            self.order.append(part)
            self.left -= 1
        return part

    def _choice(self, done: set[Part], pp: int) -> Part | None:
        while self._next < len(self._queue) and self._queue[self._next] in self._early:
            self._early.remove(self._queue[self._next])
            self._next += 1
        if self._next < len(self._queue):
            part = self._queue[self._next]
            if _ready(part, done, pp) and (part[0] == "I" or self._held < self._most):
                self._next += 1
                return self._run(part)
        if self._paid < len(self._weights):
            self._paid += 1
            self._held -= 1
            return self._weights[self._paid - 1]
        if self._held < self._most:
            for part in self._forwards():
                if _ready(part, done, pp):
                    self._early.add(part)
                    return self._run(part)
        return None

    def _run(self, part: Part) -> Part:
        if part[0] == "F":
            self._live, self._held = self._live + 1, self._held + 1
        else:
            self._live -= 1
            self._weights.append(("W", *part[1:]))
        return part

    def _forwards(self) -> Iterator[Part]:
        """The next forward of either stage, if those before it in the order still find room when it runs now."""
        live, stages = self._live + 1, set()
        for part in self._queue[self._next :]:
            if part in self._early:
                continue
            if part[0] == "F" and part[2] not in stages:
                stages.add(part[2])
                yield part
            live += 1 if part[0] == "F" else -1
            if live > self._most or len(stages) == 2:
                return


def _ready(part: Part, done: set[Part], pp: int) -> bool:
    phase, i, stage = part
    if phase == "F":
        return stage == 0 or ("F", i, stage - 1) in done
    return (("I", i, stage + 1) if stage < 2 * pp - 1 else ("F", i, stage)) in done


def _squeezed(pattern: list[list[Part]], pp: int) -> list[list[Part]]:
    """Orders of a run in ticks without the pattern's gaps, that holds nowhere more than the pattern does somewhere.

    A rank runs the next forward or input gradient of its pattern when it can; else a weight gradient that is due; else
    a later forward, where it finds room. Weight gradients so wait until a gap comes or memory is needed.
    """
    most = max(map(_most_held, pattern))
    ranks = [_Rank(order, most) for order in pattern]
    done: set[Part] = set()
    while any(rank.left for rank in ranks):
        done |= {part for part in [rank.step(done, pp) for rank in ranks] if part is not None}
    return [rank.order for rank in ranks]
