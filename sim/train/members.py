"""Members: what sets the GPUs of one pipeline stage apart (drawn routing, slow GPUs, jitter), as seconds per piece.

The GPUs of a stage are [groups, members]: neighbours that meet inside a step are members of one group, and groups meet
only when gradients are summed. How long an expert layer takes on a member follows the rows that its rank was sent, from
a table per operation over rows; balanced rows give the folded seconds to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import lcm

import numpy as np
import numpy.typing as npt

from moesim.hwmodels.wires import WIRES
from moesim.hwmodels.work import Comm, ExpertExchange
from moesim.sim.clock.script import Script
from moesim.sim.clock.values import Moments, Seconds, gathered
from moesim.sim.layers.graph import Op
from moesim.sim.layout.layout import Chunk
from moesim.sim.layout.pipeline import Slot
from moesim.sim.layout.placement import load_at
from moesim.sim.layout.routed_rows import RoutedRows
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.segments import SegmentFactory, Variant
from moesim.traces.rng import stream

Floats = npt.NDArray[np.float64]
Shares = Sequence[tuple[int, float]]  # (wire, share of it that a transfer fills alone)

# rows over their mean at which operations are priced; balanced rows lie on the grid, beyond its end lines go on
_STEPS_PER_MEAN, _MOST_MEANS = 8, 5
_GRID = np.arange(_MOST_MEANS * _STEPS_PER_MEAN + 1) / _STEPS_PER_MEAN
_LEAST_FACTOR = 0.5  # of a piece's seconds under jitter: a normal draw is cut there


def shape_of(prices: StepPrices) -> tuple[int, int]:
    """(groups, members) of a stage: GPUs that tensor, context or expert parallel transfers join are in one group."""
    lay = prices.job.layout
    stage = lay.gpus // lay.pp
    members = lcm(lay.tp * lay.cp, lay.ep * lay.etp)
    return (stage // members, members) if stage % members == 0 else (1, stage)


_Name = tuple[str, int]  # of an operation in its layer, and how many of that name come before it there
Table = dict[_Name | None, Floats]


@dataclass
class RowTables:
    """How the seconds of operations of one expert layer follow its rows: by phase and kind of layer, as differences
    from the balanced seconds at every point of the grid; operations that do not follow them are left out.

    Operations go by name: a prediction module has those of a layer among others, so that places would not agree."""

    prices: StepPrices
    factories: list[SegmentFactory] = field(init=False)
    _seen: dict[tuple[str, object], Table] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """One factory of segments per point of the grid."""
        loads = self.prices.balanced
        job, tuning = self.prices.job, self.prices.tuning
        self.factories = [SegmentFactory(job, tuning, [load_at(load, s) for load in loads]) for s in _GRID]

    def of(self, phase: str, place: int) -> Table:
        """Seconds by operation over the grid, balanced seconds taken off."""
        arch = self.prices.job.arch
        key = (phase, (arch.layers[place], self.prices.balanced[place]))
        found = self._seen.get(key)
        if found is None:
            found = self._seen[key] = self._priced(phase, place)
        return found

    def _priced(self, phase: str, place: int) -> Table:
        chunk, cost = Chunk(0, (place,), False, False), self.prices.model.cost
        segments = [factory.segment(phase, chunk) for factory in self.factories]
        middle = segments[_STEPS_PER_MEAN].ops
        table: Table = {}
        for number, (op, name) in enumerate(zip(middle, _names_in_block(middle), strict=True)):
            works = [segment.ops[number].work for segment in segments]
            if name is not None and any(work != op.work for work in works):
                seconds = np.array([cost(work).time_s * op.scale for work in works])
                table[name] = seconds - seconds[_STEPS_PER_MEAN]
        return table


_Following = tuple[int, int, list[int], Floats]  # micro-batch, place of the layer, numbers of pieces, their tables


class StageMembers:
    """Seconds of every piece of a slot for all members of its stage, in one step."""

    def __init__(self, prices: StepPrices, rows: RoutedRows | None, tables: RowTables | None, step: int = 0) -> None:
        self.prices, self.unlike, self.tables, self.step = prices, prices.job.unlike, tables, step
        self.shape = shape_of(prices)
        self._shares: dict[int, Floats] = {}
        self._plans: dict[object, list[tuple[bool, int, list[int], Floats]]] = {}
        if rows is not None:
            for place in rows.layers:
                drawn = rows.layer(place).rows
                self._shares[place] = drawn / drawn.mean()
        self.slow = self._of_gpus(self.unlike.slow_gpus, 1.0 / self.unlike.speed_factor)
        self._bad_links = [
            (self._of_gpus((bad.gpu,), bad.left_share), bad.wire, bad.from_s) for bad in self.unlike.links
        ]

    def _of_gpus(self, gpus: Sequence[int], value: float) -> dict[int, Floats]:
        """By pipeline rank that holds one of them: `value` at these GPUs, 1 elsewhere."""
        stage = self.shape[0] * self.shape[1]
        found: dict[int, Floats] = {}
        for gpu in gpus:
            factors = found.setdefault(gpu // stage, np.ones(self.shape))
            factors[divmod(gpu % stage, self.shape[1])] = value
        return found

    def apart(self, op: Op) -> bool:
        """True for operations of the compute stream at which members meet."""
        return isinstance(op.work, ExpertExchange) or (isinstance(op.work, Comm) and self.unlike.any)

    def seconds(self, rank: int, slot: Slot, variant: Variant, script: Script, now_s: float) -> list[Seconds]:
        """Seconds of every piece of the slot's script, by its number; numbers where all members are alike."""
        found: list[Seconds] = [piece.seconds for piece in script.pieces]
        for micro_batch, place, numbers, tables in self._following(slot, variant, script):
            for number, change in zip(numbers, self._along(tables, place, micro_batch), strict=True):
                found[number] = found[number] + change
        if self.unlike.any:
            self._differ(found, rank, slot, script, now_s)
        return found

    def _differ(self, found: list[Seconds], rank: int, slot: Slot, script: Script, now_s: float) -> None:
        """Slow GPUs, jitter and bad links, into the seconds of a slot's pieces."""
        slow, jitter = self.slow.get(rank), self.unlike.jitter_share
        rng = stream(self.unlike.seed, f"jitter.{self.step}.{rank}.{slot}") if jitter else None
        for number, piece in enumerate(script.pieces):
            if piece.kind == "compute":
                if slow is not None:
                    found[number] = found[number] * slow
                if rng is not None:
                    draw = 1.0 + jitter * rng.standard_normal(self.shape)
                    found[number] = found[number] * np.maximum(_LEAST_FACTOR, draw)
            elif piece.kind == "transfer" and self._bad_links:
                found[number] = self._met(found[number], rank, piece.loads, piece.barrier, now_s)

    def stretched(self, seconds: Seconds, rank: int, loads: Shares, now_s: float) -> Seconds:
        """Seconds of a transfer that fills these shares of its wires, over the wires that are left."""
        for left, wire, from_s in self._bad_links:
            share = dict(loads).get(WIRES.index(wire), 0.0)
            if rank in left and share > 0.0 and now_s >= from_s:
                seconds = seconds * np.maximum(1.0, share / left[rank])
        return seconds

    def _met(self, seconds: Seconds, rank: int, loads: Shares, barrier: int, now_s: float) -> Seconds:
        """Seconds of a transfer that joins members: none has all of it before what the worst link carries is there."""
        alone = self.stretched(seconds, rank, loads, now_s)
        if alone is seconds:
            return seconds
        worst = gathered(Moments(np.where(alone > seconds, alone, 0.0)), barrier, self.shape[1])
        if isinstance(worst, Moments):
            return np.maximum(seconds, worst.array)
        return np.maximum(seconds, worst) if isinstance(seconds, np.ndarray) else max(seconds, worst)

    def joint_s(self, seconds: float, rank: int, loads: Shares, now_s: float) -> float:
        """Seconds of a transfer that joins all GPUs of a stage, for which all wait: those over its worst link."""
        return float(np.max(self.stretched(seconds, rank, loads, now_s)))

    def slowest(self, rank: int) -> float:
        """How many times as long the slowest GPU of a pipeline rank computes."""
        return float(self.slow[rank].max()) if rank in self.slow else 1.0

    def _along(self, tables: Floats, place: int, micro_batch: int) -> Floats:
        """What rows change in the seconds of pieces, [pieces, groups, members], by their tables [pieces, grid]."""
        share = self._shares[place][micro_batch] * _STEPS_PER_MEAN
        cell = np.minimum(share.astype(np.int64), len(_GRID) - 2)
        below = tables[:, cell]
        change = below + (share - cell) * (tables[:, cell + 1] - below)
        etp = self.prices.job.layout.etp
        return (np.repeat(change, etp, axis=-1) if etp > 1 else change).reshape(len(tables), *self.shape)

    def _following(self, slot: Slot, variant: Variant, script: Script) -> list[_Following]:
        """Pieces whose seconds follow the same rows, with the micro-batch and the place of the layer that has them."""
        if self.tables is None:
            return []
        key = (slot.phase, slot.stage, slot.stage_b, variant.gather, variant.reduce)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = _together(self._sum_tables(self.tables, slot, variant, script))
        return [(slot.micro_batch_b if back else slot.micro_batch, place, n, t) for back, place, n, t in plan]

    def _sum_tables(
        self, tables: RowTables, slot: Slot, variant: Variant, script: Script
    ) -> list[tuple[int, bool, int, Floats]]:
        """The tables of a script's pieces: those of their operations together."""
        parts = self._parts(slot)
        names = _names_in_block(self.prices.segment(slot, variant).ops)
        slowdown = self.prices.rules(slot.phase).slowdown
        summed = []
        for number, piece in enumerate(script.pieces):
            if not piece.ops or piece.layer not in parts:
                continue
            phase, back, place = parts[piece.layer]
            table, factor = tables.of(phase, place), slowdown.get(piece.stream, 1.0)
            own = [table[name] * factor for name in (names[op] for op in piece.ops) if name in table]
            if own:
                summed.append((number, back, place, np.sum(own, axis=0)))
        return summed

    def _parts(self, slot: Slot) -> dict[int, tuple[str, bool, int]]:
        """Blocks of a slot with experts: phase, whether of the backward's micro-batch, place of the layer."""
        arch, chunks = self.prices.job.arch, self.prices.chunks
        ahead = len(chunks[slot.stage].blocks(arch))
        halves: Sequence[tuple[str, bool, int, int]] = ((slot.phase, False, slot.stage, 0),)
        if slot.phase == "FB":
            halves = (("F", False, slot.stage, 0), ("B", True, slot.stage_b, ahead))
        found = {}
        for phase, back, stage, first in halves:
            chunk = chunks[stage]
            before = 1 if chunk.embedding else 0
            for i, place in enumerate(chunk.layers):
                if place in self._shares:
                    found[first + before + i] = (phase, back, place)
            if chunk.mtp and arch.num_layers - 1 in self._shares:  # prediction modules route like the last layer
                start = before + len(chunk.layers) + (1 if chunk.head else 0)
                for module in range(chunk.mtp):
                    found[first + start + module] = (phase, back, arch.num_layers - 1)
        return found


def _together(pieces: list[tuple[int, bool, int, Floats]]) -> list[tuple[bool, int, list[int], Floats]]:
    """(of the backward, place, numbers of pieces, their tables [pieces, grid]) of (number, backward, place, table)."""
    found: dict[tuple[bool, int], tuple[list[int], list[Floats]]] = {}
    for number, back, place, table in pieces:
        numbers, tables = found.setdefault((back, place), ([], []))
        numbers.append(number)
        tables.append(table)
    return [(*key, numbers, np.array(tables)) for key, (numbers, tables) in found.items()]


def _names_in_block(ops: Sequence[Op]) -> list[_Name | None]:
    """Every operation by its name in its block (one that runs again comes twice); None: parameters and gradients."""
    counts: dict[tuple[int, str], int] = {}
    names: list[_Name | None] = []
    for op in ops:
        if op.stream in ("dp", "gather"):
            names.append(None)
            continue
        count = counts.get((op.block, op.name), 0)
        counts[op.block, op.name] = count + 1
        names.append((op.name, count))
    return names


def stage_members(prices: StepPrices, step: int = 0) -> StageMembers | None:
    """What sets the GPUs of stages apart in this step; None where they are all alike and one stands for all."""
    if not prices.varies and not prices.job.unlike.any:
        return None
    if not prices.varies:
        return StageMembers(prices, None, None, step)
    if prices.row_tables is None:
        prices.row_tables = RowTables(prices)
    return StageMembers(prices, prices.routed(step), prices.row_tables, step)
