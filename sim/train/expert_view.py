"""ExpertView: who gets the tokens of one step, by expert, layer and rank, and what ranks send each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.hwmodels.work import ExpertExchange
from moesim.sim.layers.exchange import exchange_matrix
from moesim.sim.layout.pipeline import Slot
from moesim.sim.layout.routed_rows import RoutedRows
from moesim.sim.train.prices import StepPrices, uneven

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LayerLoad:
    """One layer with routed experts over one step, all expert-parallel groups and micro-batches together.

    `expert_rows` [experts] token-expert pairs routed to each expert, before drops; `rank_rows` [ranks] rows that each
    rank of a group computes, mean over groups; ratios are over the mean: `busiest_rank_ratio` averaged over
    micro-batches and groups (each waits for its own busiest rank), `worst_rank_ratio` the largest of them.
    """

    place: int  # of the layer in the model, from 0
    expert_rows: Floats
    rank_rows: Floats
    busiest_rank_ratio: float
    worst_rank_ratio: float
    dropped_share: float

    @property
    def over_mean(self) -> Floats:
        """Rows of every expert over the mean of the layer [experts]."""
        return np.asarray(self.expert_rows / self.expert_rows.mean())

    @property
    def busiest_expert(self) -> int:
        """Number of the expert with the most rows; of several the first."""
        return int(self.expert_rows.argmax())


@dataclass(frozen=True, eq=False)
class ExpertView:
    """Rows of one step of a model with routed experts. Drawn when first looked at, from the step's own streams.

    An answer that nobody looks into pays nothing; the draw is the one that the clock ran with.
    """

    prices: StepPrices = field(repr=False)
    step: int = 0

    per = "step"  # what rows and bytes are of, for figures

    @cached_property
    def layers(self) -> tuple[LayerLoad, ...]:
        """Every layer with routed experts, in model order."""
        rows = self.prices.routed(self.step)
        return tuple(_layer(rows, place) for place in rows.layers)

    @property
    def drawn(self) -> bool:
        """True where experts do not all get as many rows."""
        moe = self.prices.job.arch.moe
        return moe is not None and moe.router != "expert_choice" and uneven(self.prices.job.routing)

    @property
    def over_mean(self) -> Floats:
        """[layers, experts] rows of an expert over the mean of its layer; NaN beyond the experts of a smaller layer."""
        most = max(len(layer.expert_rows) for layer in self.layers)
        table = np.full((len(self.layers), most), np.nan)
        for row, layer in zip(table, self.layers, strict=True):
            row[: len(layer.expert_rows)] = layer.over_mean
        return table

    @property
    def busiest_expert_ratio(self) -> float:
        """Rows of the busiest expert over the mean, averaged over layers."""
        return float(np.mean([layer.over_mean.max() for layer in self.layers]))

    @property
    def busiest_rank_ratio(self) -> float:
        """Rows of the busiest rank over the mean, averaged over layers, micro-batches and groups."""
        return float(np.mean([layer.busiest_rank_ratio for layer in self.layers]))

    @property
    def rank_rows(self) -> Floats:
        """Rows that each rank of an expert-parallel group computes in the step, all layers together [ranks]."""
        return np.asarray(sum(layer.rank_rows for layer in self.layers), dtype=np.float64)

    @property
    def dropped_share(self) -> float:
        """Of all token-expert pairs, mean over layers; 0 without a capacity factor."""
        return float(np.mean([layer.dropped_share for layer in self.layers]))

    @cached_property
    def exchange_bytes(self) -> Floats:
        """Bytes of all dispatches of the step's forward, from each rank of a group (row) to each other (column).

        [ranks, ranks], or [domains, domains] for more than 64 ranks, see `exchange_matrix`. Zeros where ep = 1.
        """
        work = self._dispatch()
        return np.zeros((1, 1)) if work is None else exchange_matrix(work, self.rank_rows)

    @property
    def between(self) -> str | None:
        """What rows and columns of the exchange are; None where nothing is sent."""
        if not self.exchange_bytes.any():
            return None
        return "ranks" if len(self.exchange_bytes) == self.prices.job.layout.ep else "domains"

    def _dispatch(self) -> ExpertExchange | None:
        """A dispatch as the step prices it."""
        for chunk in self.prices.chunks:
            for op in self.prices.segment(Slot("F", 0, chunk.index)).ops:
                if isinstance(op.work, ExpertExchange) and op.work.stage == "dispatch":
                    return op.work
        return None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: totals, and each layer."""
        sent = self.exchange_bytes
        received = sent.sum(axis=0)
        return {
            "drawn": self.drawn,
            "ranks": self.prices.job.layout.ep,
            "busiest_expert_over_mean": self.busiest_expert_ratio,
            "busiest_rank_over_mean": self.busiest_rank_ratio,
            "rows_per_step": float(sum(layer.expert_rows.sum() for layer in self.layers)),
            "dropped_share": self.dropped_share,
            "dispatched_bytes": {
                "between": self.between or "ranks",
                "received_by_each": [float(size) for size in received],
                "matrix": sent.tolist(),
            },
            "layers": [
                {
                    "layer": layer.place,
                    "busiest_expert": layer.busiest_expert,
                    "busiest_expert_over_mean": float(layer.over_mean.max()),
                    "busiest_rank_over_mean": layer.busiest_rank_ratio,
                    "worst_rank_over_mean": layer.worst_rank_ratio,
                }
                for layer in self.layers
            ],
        }


def _layer(rows: RoutedRows, place: int) -> LayerLoad:
    drawn = rows.layer(place)
    return LayerLoad(
        place=place,
        expert_rows=drawn.expert_rows.astype(np.float64),
        rank_rows=drawn.rows.mean(axis=1).sum(axis=0),
        busiest_rank_ratio=drawn.imbalance,
        worst_rank_ratio=float(drawn.rows.max() / drawn.rows.mean()),
        dropped_share=drawn.dropped_share,
    )


def expert_view(prices: StepPrices, step: int = 0) -> ExpertView | None:
    """The view of one step; None for a model without routed experts."""
    return ExpertView(prices, step) if prices.job.arch.moe is not None and any(prices.balanced) else None
