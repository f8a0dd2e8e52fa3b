"""Which worker a request is sent to, by hand: the fewest requests for how fast a worker is, the first of equals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from moesim.sim.serve.router import LeastLoaded, Router


def workers(count: int) -> Any:
    return [SimpleNamespace(load=0, queued_tokens=0) for _ in range(count)]


def sent(router: Router, count: int) -> list[int]:
    chosen = []
    for request in range(count):
        worker = router.choose(request, 0.0)
        router.sent(worker)
        chosen.append(worker)
    return chosen


def test_alike_workers_take_turns_and_who_has_ended_comes_first() -> None:
    router = LeastLoaded(workers(3))
    assert sent(router, 5) == [0, 1, 2, 0, 1]
    router.left(1)
    router.left(1)
    assert sent(router, 3) == [1, 1, 2]


@pytest.mark.parametrize(
    ("weights", "order"),
    [
        # (requests + 1) / weight: 1/3 and 1; 2/3 and 1; 3/3 and 1, the first of equals; 4/3 and 1; 4/3 and 2
        ([3.0, 1.0], [0, 0, 0, 1, 0, 0, 0, 1]),
        ([1.0, 2.0], [1, 0, 1, 1, 0, 1]),
        ([2.0, 2.0], [0, 1, 0, 1]),
    ],
)
def test_faster_workers_get_more_by_how_fast_they_are(weights: list[float], order: list[int]) -> None:
    assert sent(LeastLoaded(workers(2), weights), len(order)) == order


def test_a_closed_worker_gets_nothing_and_one_that_joins_again_does() -> None:
    router = LeastLoaded(workers(2))
    router.closed(0)
    assert sent(router, 3) == [1, 1, 1]
    router.joined(0)
    assert sent(router, 2) == [0, 0]


def test_round_robin_counts_nothing() -> None:
    assert sent(Router(workers(3)), 7) == [0, 1, 2, 0, 1, 2, 0]
