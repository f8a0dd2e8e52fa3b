"""The front of a serving plan: tokens per second of a GPU against those of a user, over loads and deployments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from moesim.sim.plan.serve.judge import Served, ServeJudge
from moesim.sim.plan.serve.space import ServeCandidate
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.serve.frontier import frontier

_CLIENTS = (1, 4, 16, 64, 256, 1024)
_MOST = 8  # deployments whose front is drawn


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """One deployment under `clients` clients that ask again as soon as they are answered."""

    gpus: int
    deployment: str
    clients: int
    tokens_per_s_per_user: float
    tokens_per_s_per_gpu: float
    ttft_s: float

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def front(pairs: Iterable[tuple[ServeJudge, Sequence[Served]]], longest_s: float) -> tuple[FrontPoint, ...]:
    """Points that no other beats in both, slowest for a user first, whose first token takes less than `longest_s`."""
    every = [point for judge, served in pairs for c in _varied(served) for point in _points(judge, c)]
    points = [p for p in every if p.ttft_s < longest_s]
    points.sort(key=lambda p: (-p.tokens_per_s_per_user, -p.tokens_per_s_per_gpu, p.deployment))
    best: list[FrontPoint] = []
    for point in points:
        if not best or point.tokens_per_s_per_gpu > best[-1].tokens_per_s_per_gpu:
            best.append(point)
    return tuple(best[::-1])


def _varied(served: Sequence[Served]) -> list[ServeCandidate]:
    """The best by throughput and the best by pace, one batch limit each."""
    chosen: dict[str, ServeCandidate] = {}
    by_rate = sorted(served, key=lambda s: (-s.output_tokens_per_s, s.candidate.title, -s.candidate.max_batch))
    by_pace = sorted(served, key=lambda s: (s.tpot_s, s.candidate.title, -s.candidate.max_batch))
    for pair in zip(by_rate, by_pace, strict=True):
        for s in pair:
            if len(chosen) < _MOST:
                chosen.setdefault(s.candidate.title, s.candidate)
    return list(chosen.values())


def _points(judge: ServeJudge, c: ServeCandidate) -> list[FrontPoint]:
    try:
        points = frontier(judge.resolved(c), _CLIENTS)
    except DoesNotFit:
        return []
    return [
        FrontPoint(c.gpus, c.title, p.clients, 1.0 / p.tpot_s, p.output_tokens_per_s_per_gpu, p.ttft_s) for p in points
    ]
