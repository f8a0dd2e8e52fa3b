"""Pipeline schedules: in which order each rank runs the forward and backward of every micro-batch and stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from moesim.sim.layout.v_shape import HOPS, v_shape


class Slot(NamedTuple):
    """One thing a rank runs: `phase` F, B (whole backward), I (input gradients), W (weight gradients) or FB.

    FB runs the forward of (micro_batch, stage) beside the backward of (micro_batch_b, stage_b). `stage` is the
    virtual stage in model order.
    """

    phase: str
    micro_batch: int
    stage: int
    micro_batch_b: int = -1
    stage_b: int = -1


def gpipe(pp: int, micro_batches: int) -> list[list[Slot]]:
    """All forwards, then all backwards."""
    return [
        [Slot("F", i, r) for i in range(micro_batches)] + [Slot("B", i, r) for i in reversed(range(micro_batches))]
        for r in range(pp)
    ]


def one_f_one_b(pp: int, micro_batches: int) -> list[list[Slot]]:
    """Warm up with pp - rank - 1 forwards, then one forward, one backward (PipeDream-flush)."""
    orders = []
    for rank in range(pp):
        warm = min(micro_batches, pp - rank - 1)
        order = [Slot("F", i, rank) for i in range(warm)]
        for i in range(micro_batches - warm):
            order += [Slot("F", warm + i, rank), Slot("B", i, rank)]
        order += [Slot("B", i, rank) for i in range(micro_batches - warm, micro_batches)]
        orders.append(order)
    return orders


def _first_group(pp: int, micro_batches: int) -> int:
    """Micro-batches of the first group: pp, and what is left over when pp does not divide them (at most all)."""
    return min(micro_batches, pp + micro_batches % pp)


def _interleaved_sequence(pp: int, vpp: int, micro_batches: int) -> list[tuple[int, int]]:
    """(micro-batch, chunk) in the order of Megatron's interleaved schedule: groups of pp micro-batches."""
    first = _first_group(pp, micro_batches)
    starts = [0, *range(first, micro_batches, pp)]
    sequence = []
    for start, end in zip(starts, [*starts[1:], micro_batches], strict=True):
        sequence += [(i, chunk) for chunk in range(vpp) for i in range(start, end)]
    return sequence


def interleaved(pp: int, vpp: int, micro_batches: int) -> list[list[Slot]]:
    """Interleaved 1F1B of Megatron-LM: chunk c of rank r is virtual stage c * pp + r.

    Megatron wants a multiple of pp micro-batches. Others run here with a larger first group: a group below pp could
    deadlock, for its backward would be due before its forward.
    """
    sequence = _interleaved_sequence(pp, vpp, micro_batches)
    total, group = len(sequence), _first_group(pp, micro_batches)
    orders = []
    for rank in range(pp):
        forward = [Slot("F", i, c * pp + rank) for i, c in sequence]
        backward = [Slot("B", i, (vpp - 1 - c) * pp + rank) for i, c in sequence]
        warm = total if micro_batches <= pp else min(total, (pp - rank - 1) * 2 + (vpp - 1) * group)
        order = forward[:warm]
        for k in range(total - warm):
            order += [forward[warm + k], backward[k]]
        orders.append(order + backward[total - warm :])
    return orders


def zb_h1(pp: int, micro_batches: int) -> list[list[Slot]]:
    """ZB-H1 (Qi et al. 2024): 1F1B with the weight gradient split off and held back to fill the last bubbles."""
    orders = []
    for rank in range(pp):
        warm = min(micro_batches, pp - rank - 1)
        order = [Slot("F", i, rank) for i in range(warm)]
        held: list[int] = []
        for i in range(micro_batches):
            if warm + i < micro_batches:
                order.append(Slot("F", warm + i, rank))
            order.append(Slot("I", i, rank))
            held.append(i)
            if len(held) > rank:
                order.append(Slot("W", held.pop(0), rank))
        orders.append(order + [Slot("W", i, rank) for i in held])
    return orders


class _DualRank:
    """Emits DualPipe slots of one rank: direction 0 enters at rank 0, direction 1 at the last rank."""

    def __init__(self, rank: int, pp: int, micro_batches: int) -> None:
        self.order: list[Slot] = []
        self._second = rank >= pp // 2
        self._stages = (rank, pp - 1 - rank)
        self._half = micro_batches // 2
        self._forwards = [0, 0]
        self._backwards = [0, 0]
        self._weights: list[tuple[int, int]] = []

    def _direction(self, phase: int) -> int:
        return phase ^ int(self._second)

    def _next(self, counters: list[int], phase: int) -> tuple[int, int]:
        d = self._direction(phase)
        number = counters[d] + d * self._half
        counters[d] += 1
        return number, self._stages[d]

    def forward(self, phase: int) -> None:
        self.order.append(Slot("F", *self._next(self._forwards, phase)))

    def backward(self, phase: int, split: bool = False) -> None:
        number, stage = self._next(self._backwards, phase)
        self.order.append(Slot("I" if split else "B", number, stage))
        if split:
            self._weights.append((number, stage))

    def both(self, forward: int, backward: int) -> None:
        f, b = self._next(self._forwards, forward), self._next(self._backwards, backward)
        self.order.append(Slot("FB", *f, *b))

    def weight(self) -> None:
        self.order.append(Slot("W", *self._weights.pop(0)))


def _dualpipe_rank(rank: int, pp: int, micro_batches: int) -> list[Slot]:
    """The eight steps of the published DualPipe schedule (deepseek-ai/DualPipe, README and paper figure 5)."""
    half_ranks = pp // 2
    h = min(rank, pp - 1 - rank)
    half = micro_batches // 2
    r = _DualRank(rank, pp, micro_batches)
    for _ in range((half_ranks - h - 1) * 2):
        r.forward(0)
    for _ in range(h + 1):
        r.forward(0)
        r.forward(1)
    for _ in range(half_ranks - h - 1):
        r.backward(1, split=True)
        r.weight()
        r.forward(1)
    for i in range(half - pp + h + 1):
        if i == 0 and h == half_ranks - 1:
            r.forward(0)
            r.backward(1)
        else:
            r.both(0, 1)
        r.both(1, 0)
    for _ in range(half_ranks - h - 1):
        r.backward(1)
        r.both(1, 0)
    split = False
    for i in range(h + 1):
        split = split or (i == (h + 1) // 2 and h % 2 == 1)
        r.backward(1, split)
        split = split or (i == (h + 1) // 2 and h % 2 == 0)
        r.backward(0, split)
    for _ in range(half_ranks - h - 1):
        r.weight()
        r.backward(0, split=True)
    while r._weights:
        r.weight()
    return r.order


def dualpipe(pp: int, micro_batches: int) -> list[list[Slot]]:
    """Bidirectional DualPipe; needs an even pp and an even number of micro-batches of at least 2 pp."""
    if micro_batches % 2 or micro_batches < 2 * pp:
        raise ValueError(f"dualpipe needs an even number of micro-batches of at least {2 * pp}, not {micro_batches}")
    return [_dualpipe_rank(rank, pp, micro_batches) for rank in range(pp)]


def v_shaped(schedule: str, pp: int, micro_batches: int) -> list[list[Slot]]:
    """ZB-V, V-Half or V-Min (Qi et al. 2024): two stages per rank along a V, weight gradients split off (`v_shape`)."""
    return [[Slot(*part) for part in order] for order in v_shape(schedule, pp, micro_batches)]


# every schedule by name: (pp, vpp, micro-batches) -> slots of every pipeline rank in program order
_SCHEDULES: dict[str, Callable[[int, int, int], list[list[Slot]]]] = {
    "gpipe": lambda pp, vpp, micro_batches: gpipe(pp, micro_batches),
    "1f1b": lambda pp, vpp, micro_batches: one_f_one_b(pp, micro_batches),
    "interleaved": interleaved,
    "zb-h1": lambda pp, vpp, micro_batches: zb_h1(pp, micro_batches),
    "dualpipe": lambda pp, vpp, micro_batches: dualpipe(pp, micro_batches),
    "zb-v": lambda pp, vpp, micro_batches: v_shaped("zb-v", pp, micro_batches),
    "v-half": lambda pp, vpp, micro_batches: v_shaped("v-half", pp, micro_batches),
    "v-min": lambda pp, vpp, micro_batches: v_shaped("v-min", pp, micro_batches),
}
SCHEDULES = tuple(_SCHEDULES)
V_SHAPED = tuple(HOPS)  # two stages per rank, the model down the ranks and up again
SPLIT = ("zb-h1", *V_SHAPED)  # every weight gradient is a slot of its own, which may wait
PAIRABLE = ("1f1b", "interleaved")  # can run a forward beside a backward of another micro-batch


def orders(schedule: str, pp: int, vpp: int, micro_batches: int, hidden: bool = False) -> list[list[Slot]]:
    """Slots of every pipeline rank in program order. KeyError for a schedule that is not in SCHEDULES.

    hidden: exchanges hide behind another micro-batch's compute, where the schedule does not see to that itself.
    """
    plain = _SCHEDULES[schedule](pp, vpp, micro_batches)
    return paired(plain, schedule == "1f1b") if hidden and schedule in PAIRABLE else plain


def paired(plain: list[list[Slot]], one_chunk: bool) -> list[list[Slot]]:
    """1F1B in which a forward and a backward of other micro-batches run beside each other, so that one computes while
    the other's tokens travel.

    A pair cannot hold a micro-batch's own forward: every rank warms up with one forward more (as Megatron-Core does for
    overlap_moe_expert_parallel_comm). Without virtual stages a rank's backward waits for its neighbour's pair and that
    for this rank's forward: the warm-up takes another forward per following rank.
    """
    paired_orders = []
    for rank, order in enumerate(plain):
        forward = [slot for slot in order if slot.phase == "F"]
        backward = [slot for slot in order if slot.phase == "B"]
        warm = next((i for i, slot in enumerate(order) if slot.phase == "B"), len(order))
        warm = min(len(forward), warm + (len(plain) - rank - 1 if one_chunk else 0))
        pairs = [
            Slot("FB", f.micro_batch, f.stage, b.micro_batch, b.stage)
            for f, b in zip(forward[warm:], backward, strict=False)
        ]
        paired_orders.append([*forward[:warm], *pairs, *backward[len(pairs) :]])
    return paired_orders


def in_flight(order: list[Slot], layer_by_layer: bool = False) -> dict[int, int]:
    """Largest number of micro-batches whose activations a rank holds at once, per virtual stage at that moment.

    Where a backward is split they are held until the weight gradient, which needs the inputs of the linear layers; that
    the input gradient frees some of the rest is not counted.
    layer_by_layer: in pairs the backward frees a layer as the forward fills one (Megatron-Core), so that they count as
    one; otherwise the forward is there before the backward has gone (DualPipe: pp + 1).
    """
    held: dict[int, int] = {}
    peak: dict[int, int] = {}
    best = 0
    for slot in order:
        if slot.phase == "FB" and layer_by_layer:
            held[slot.stage_b] -= 1
        if slot.phase in ("F", "FB"):
            held[slot.stage] = held.get(slot.stage, 0) + 1
        if sum(held.values()) > best:
            best, peak = sum(held.values()), dict(held)
        if slot.phase in ("B", "W"):
            held[slot.stage] -= 1
        elif slot.phase == "FB" and not layer_by_layer:
            held[slot.stage_b] -= 1
    return peak
