"""Moves of the fine part of the search: one feature, the batch limit or the number of workers changed at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from moesim.sim.plan.serve.features import FEATURE_AXES, Open, feature_values, moved
from moesim.sim.plan.serve.judge import ServeJudge
from moesim.sim.plan.serve.space import BATCHES, Given, ServeCandidate, Shape

_WORKERS = (
    (-1, 0),
    (0, -1),
    (-1, 1),
    (1, -1),
    (1, 0),
    (0, 1),
)  # changes of (prefill workers, replicas or decode workers)


class Moves:
    """What may be changed about candidates of one question; axes that were given stay inside their values."""

    axes = (*FEATURE_AXES, "max_batch", "workers")

    def __init__(self, judge: ServeJudge, given: Given) -> None:
        self._judge, self._given = judge, given
        base, moe = judge.base, judge.base.arch.moe
        self._open = Open(
            scenario=judge.scenario,
            experts=moe.experts if moe is not None else 0,
            uneven=base.routing.kind != "balanced",
            modules=base.arch.mtp_layers,
            token_budget=base.engine.token_budget,
            kv=base.formats.kv,
            fp8=base.cluster.gpu.supports("fp8"),
        )
        self._whole = set(given.get("idle", ())) == {"no"}
        self._values: dict[tuple[tuple[int, ...], int], dict[str, list[Any]]] = {}

    def values(self, c: ServeCandidate) -> dict[str, list[Any]]:
        """Values of every feature that a candidate's shapes may have, the first to start with."""
        both = [s for s in (c.shape, c.prefill) if s is not None]
        key = tuple(s.ep for s in both), max(s.attention_dp for s in both)
        if key not in self._values:
            self._values[key] = feature_values(self._open, self._given, *key)
        return self._values[key]

    def start(self, c: ServeCandidate) -> ServeCandidate:
        """The candidate with the first value of every feature."""
        features = c.features
        for name, values in self.values(c).items():
            features = moved(features, name, values[0])
        return self._batched(replace(c, features=features), None if "max_batch" in self._given or c.limited else 0)

    @property
    def open(self) -> bool:
        """Whether any feature may have another value than the one to start with, of any shape."""
        wide = ServeCandidate(Shape(1, 1, 2, 2), 1, 1)
        return any(len(values) > 1 for values in self.values(wide).values())

    def dressed(self, c: ServeCandidate, like: ServeCandidate, halves: bool) -> ServeCandidate:
        """A layout with the features and the batch limit of another candidate, as far as its shapes may have them.

        Spare slots: as many for every rank; halves: two batches overlapped, where that may be chosen.
        """
        features = self.start(c).features
        for name, values in self.values(c).items():
            wanted = getattr(like.features, name)
            if name == "expert_slots" and wanted:
                wanted = values[-1]
            if name == "two_batch_overlap" and len(values) > 1:
                wanted = next(v for v in values if self._halves(v) == halves)
            if wanted in values:
                features = moved(features, name, wanted)
        return self._batched(replace(c, features=features), like.max_batch)

    def _halves(self, value: bool | None) -> bool:
        serve = self._judge.scenario.serve
        return value if value is not None else bool(serve and serve.two_batch_overlap)

    def of(self, c: ServeCandidate, axis: str) -> Iterator[ServeCandidate]:
        """All candidates that differ from this one along an axis."""
        if axis == "workers":
            yield from self._other_workers(c)
        elif axis == "max_batch":
            engine = self._judge.on(c.features).deployment.job.engine.max_batch
            given = [int(str(v)) for v in self._given[axis]] if axis in self._given else [engine, *BATCHES]
            yield from (self._batched(c, n) for n in dict.fromkeys(given) if n <= engine or axis in self._given)
        else:
            for value in self.values(c)[axis]:
                other = replace(c, features=moved(c.features, axis, value))
                yield (fresh := self._batched(other, None if c.limited else 0))
                if (
                    axis == "speculative"
                    and "max_batch" not in self._given
                    and fresh.max_batch < min(BATCHES[0], c.max_batch)
                ):
                    yield self._batched(other, BATCHES[0])  # engines that draft start with fewer sequences

    def _batched(self, c: ServeCandidate, batch: int | None) -> ServeCandidate:
        """With this batch limit; 0: the engine's own under the features; None: as it is."""
        own = self._judge.on(c.features).deployment.job.engine.max_batch
        limit = c.max_batch if batch is None else batch or own
        return replace(c, max_batch=limit, limited=limit != own)

    def _other_workers(self, c: ServeCandidate) -> Iterator[ServeCandidate]:
        gpus = self._judge.base.cluster.gpus
        for prompts, replicas in _WORKERS:
            if c.prefill is None and prompts:
                continue
            other = replace(c, prefill_workers=c.prefill_workers + prompts, replicas=c.replicas + replicas)
            least = min(other.replicas, other.prefill_workers) if c.prefill else other.replicas
            used = other.gpus == gpus if self._whole else other.gpus <= gpus
            if least >= 1 and used and ("replicas" not in self._given or not replicas):
                yield other
