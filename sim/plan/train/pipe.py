"""Shapes of pipelines: which layers each virtual stage holds, which ranks run it, what every rank keeps at its peak."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.sim.layout.layout import Layout, layers_per_chunk
from moesim.sim.layout.pipeline import in_flight, orders
from moesim.sim.model.arch import ModelArch

_TURNS = 4  # of the pipeline, after which no rank holds more than before

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pipe:
    """One pipeline: layers before each virtual stage, and matrices [rank, virtual stage]."""

    starts: npt.NDArray[np.intp]
    runs: Floats  # 1 where the rank runs (and holds) the stage
    kept: Floats  # micro-batches whose activations the rank holds at its peak
    forwards: Floats  # of those that run beside another micro-batch's backward (DualPipe)
    backwards: Floats  # of those that run beside another micro-batch's forward


class Pipes:
    """Pipelines of one model, each built once."""

    def __init__(self, arch: ModelArch, mtp: bool) -> None:
        self._arch, self._mtp = arch, mtp
        self._seen: dict[tuple[str, int, int, int], Pipe] = {}

    def of(self, layout: Layout, micro_batches: int) -> Pipe:
        """The pipeline of a layout that runs `micro_batches` of them."""
        paired = layout.schedule == "dualpipe"  # whose pairs are counted; elsewhere a few turns show all there is
        count = micro_batches if paired else min(micro_batches, _TURNS * layout.pp * layout.vpp)
        key = (layout.schedule, layout.pp, layout.vpp, count)
        pipe = self._seen.get(key)
        if pipe is None:
            pipe = self._seen[key] = self._build(layout, count)
        return pipe

    def _build(self, layout: Layout, micro_batches: int) -> Pipe:
        starts = np.cumsum([0, *layers_per_chunk(self._arch, layout, self._mtp)])
        runs, kept, forwards, backwards = (np.zeros((layout.pp, layout.chunks)) for _ in range(4))
        for rank, order in enumerate(orders(layout.schedule, layout.pp, layout.vpp, micro_batches)):
            runs[rank, list(layout.chunks_of(rank))] = 1.0
            for stage, count in in_flight(order).items():
                kept[rank, stage] = count
            for slot in order:
                if slot.phase == "FB":
                    forwards[rank, slot.stage] += 1.0
                    backwards[rank, slot.stage_b] += 1.0
        return Pipe(starts, runs, kept, forwards, backwards)
