"""WireView: how full the wires of every stage's GPUs are, in the whole step and over its time."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.hwmodels.wires import Wire, wire_of
from moesim.sim.clock.plan import Send
from moesim.sim.layout.pipeline import Slot
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.segments import Variant
from moesim.sim.train.step import StepResult

Floats = npt.NDArray[np.float64]
SHOWN: tuple[Wire, ...] = ("nic", "link")  # of each GPU; uplinks, which ranks share, are in sim/train/wire_use.py
_BINS = 240


@dataclass(frozen=True, slots=True, eq=False)
class WireLoad:
    """One kind of wire of one GPU of every pipeline rank, the mean of the GPUs of a stage.

    `share` [ranks] of the step's seconds at full rate; `over_time` [ranks, bins] the same in equal parts of the
    pipeline's time, each `bin_s` long: what a slot moves is spread evenly over it.
    """

    wire: Wire
    share: Floats
    over_time: Floats
    bin_s: float

    @property
    def busiest_rank(self) -> int:
        """The pipeline rank whose GPUs use it most; of several the first."""
        return int(self.share.argmax())


@dataclass(frozen=True, eq=False)
class WireView:
    """Wires of one step, reckoned when first looked at."""

    prices: StepPrices = field(repr=False)
    step: StepResult = field(repr=False)

    @cached_property
    def loads(self) -> tuple[WireLoad, ...]:
        """NICs first, then scale-up links; only wires that anything travels on."""
        ranks, end_s = self.prices.job.layout.pp, self.step.timeline.makespan_s
        spans: dict[tuple[Wire, int], list[tuple[float, float, float]]] = {}
        for rank, wire, busy_s, start, end in self._busy():
            spans.setdefault((wire, rank), []).append((busy_s, start, end))
        found = []
        for wire in SHOWN:
            if not any(on == wire for on, _ in spans):
                continue
            of_ranks = [np.array(spans.get((wire, r), [(0.0, 0.0, end_s)])) for r in range(ranks)]
            share = np.array([s[:, 0].sum() for s in of_ranks]) / self.step.step_time_s
            over_time = np.array([_binned(s, end_s) for s in of_ranks])
            found.append(WireLoad(wire, share, over_time, end_s / _BINS))
        return tuple(found)

    def _busy(self) -> list[tuple[int, Wire, float, float, float]]:
        """(rank, wire, seconds at full rate, from, to) of every slot's own transfers and of those between slots."""
        plan, timeline = self.step.timeline.program, self.step.timeline
        own: dict[tuple[Slot, Variant], dict[Wire, float]] = {}
        found = []
        for item, slot in self.step.slots.items():
            variant = self.step.variants[item]
            kind = (slot._replace(micro_batch=0, micro_batch_b=0), variant)
            if kind not in own:
                own[kind] = self._own_wires(slot, variant)
            rank = plan.lane_of[item].rank
            found += [(rank, w, s, timeline.start_s[item], timeline.end_s[item]) for w, s in own[kind].items()]
        for item, send in enumerate(plan.items):
            if isinstance(send, Send):
                start, end = timeline.start_s[item], timeline.end_s[item]
                seconds = send.seconds(start) if callable(send.seconds) else send.seconds
                alone_s = float(np.mean(seconds))  # not until its end: those that share a wire take turns
                for link, share in send.loads:
                    found.append((*wire_of(link), share * alone_s, start, end))
        return found

    def _own_wires(self, slot: Slot, variant: Variant) -> dict[Wire, float]:
        """Seconds at full rate of the transfers inside a slot; reductions that outlast it are items of their own."""
        total: dict[Wire, float] = {}
        ops = self.prices.segment(slot, variant).ops
        for op, wires in zip(ops, self.prices.op_wires(slot, variant), strict=True):
            if op.stream != "dp":
                for wire, seconds in wires.items():
                    total[wire] = total.get(wire, 0.0) + seconds
        return total

    def to_dict(self) -> dict[str, Any]:
        """Share of the step in use of every wire, by pipeline rank."""
        return {
            load.wire: {"busiest_stage": load.busiest_rank, "share_by_stage": load.share.tolist()}
            for load in self.loads
        }


def _binned(spans: Floats, end_s: float) -> Floats:
    """Share of each of _BINS equal parts of [0, end_s] that spans [n, (seconds, from, to)] fill."""
    edges = np.linspace(0.0, end_s, _BINS + 1)
    busy, start, end = spans[:, :1], spans[:, 1:2], spans[:, 2:3]
    with np.errstate(over="ignore"):  # what lies endlessly far behind is done
        done = np.clip((edges - start) / np.maximum(end - start, 1e-300), 0.0, 1.0)
    return np.asarray(np.diff((busy * done).sum(axis=0)) / (end_s / _BINS if end_s > 0.0 else 1.0))
