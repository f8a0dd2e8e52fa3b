"""Which worker a request is sent to, by hand: the fewest requests for how fast a worker is, the first of equals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from moesim.sim.serve.router import LeastLoaded, Router
from moesim.sim.serve.simulate import _pace, prompt_weight
from moesim.sim.serve.workload import Workload
from moesim.traces.requests import Requests


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


class _Costs:
    """A prompt token takes a millisecond; a token in the cache adds so much to every pass."""

    def __init__(self, held_s: float) -> None:
        self.held_s = held_s

    def mixed(self, chunks: list[tuple[int, int]], batch: int, cached: float) -> float:
        return 1e-3 * sum(new for new, _ in chunks)

    def decode(self, batch: int) -> tuple[float, float]:
        return 1e-2, self.held_s


@pytest.mark.parametrize(
    ("held_s", "answer", "weight"),
    [
        (1e-6, 200, 10.0),  # 1 ms over 100 passes, half of those of an answer, of a microsecond
        (1e-4, 1, 10.0),  # one pass at least
        (1e-3, 200, 1.0),  # never less than a token that is held
        (0.0, 200, 64.0),  # what holds nothing costs nothing
        (1e-12, 200, 64.0),
    ],
)
def test_what_a_prompt_token_weighs_against_one_that_is_held(held_s: float, answer: int, weight: float) -> None:
    worker: Any = SimpleNamespace(engine=SimpleNamespace(token_budget=512), costs=_Costs(held_s))
    load: Any = SimpleNamespace(requests=Requests((0.0, 1.0), (10, 10), (answer, answer), (0, 0)))
    assert prompt_weight(worker, load) == pytest.approx(weight)


@pytest.mark.parametrize(("attention_dp", "batch"), [(1, 8), (4, 32)])
def test_the_pace_of_a_decode_worker(attention_dp: int, batch: int) -> None:
    """Eight requests a rank: tokens of a pass over its seconds, 10 ms and a microsecond for each of 100 tokens held."""
    machine: Any = SimpleNamespace(job=SimpleNamespace(attention_dp=attention_dp), costs=_Costs(1e-6))
    load: Any = SimpleNamespace(mean_tokens=100)
    assert _pace(machine, load) == pytest.approx(batch / (1e-2 + 1e-6 * batch * 100))


def test_the_rate_of_a_load_is_of_its_gaps_wherever_it_begins() -> None:
    """Five requests two seconds apart: a gap more than there are between them, as if the last had one."""
    for begin in (0.0, 100.0):
        times = tuple(begin + 2.0 * n for n in range(5))
        found = Workload(Requests(times, (10,) * 5, (20, 20, 20, 20, 40), (0,) * 5))
        assert found.rate_per_s == pytest.approx(0.5)
        assert (found.longest, found.mean_tokens, found.contexts) == (50, 34, (8, 35))
    assert Workload(Requests((3.0,) * 5, (10,) * 5, (20,) * 5, (0,) * 5)).rate_per_s == 0.0
