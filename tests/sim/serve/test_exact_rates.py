"""Searches for the rate, or the clients, that a deployment sustains, against a known limit; capacity by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from moesim.sim.question.scenario import ScenarioError
from moesim.sim.question.serving_sections import SloAsk
from moesim.sim.serve import sustained
from moesim.sim.serve.capacity import _steady_per_s
from moesim.sim.serve.slo import Slo, slo_of
from moesim.sim.serve.workload import Workload
from moesim.traces.requests import Requests

SLO = Slo(1.0, 0.05)


def load(rate_per_s: float = 4.0, clients: int = 0, after: tuple[int, ...] = (), count: int = 8) -> Workload:
    arrivals = tuple(i / rate_per_s for i in range(count)) if rate_per_s else (0.0,) * count
    requests = Requests(arrivals, (100,) * count, (10,) * count, (0,) * count, after=after)
    return Workload(requests=requests, clients=clients)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A deployment that keeps up with so many requests per second, or so many clients; what was tried is kept."""
    known: dict[str, Any] = {"per_s": 10.0, "clients": 37, "tried": []}

    def held(serve: Any, asked: Workload, slo: Slo, factor: float, settle_s: float) -> bool:
        known["tried"].append(asked.rate_per_s * factor)
        return bool(asked.rate_per_s * factor <= known["per_s"])

    def meets(run: Any, trial: Workload, slo: Slo) -> bool:
        rate = trial.rate_per_s if trial.clients == 0 else 0.0
        span = trial.requests.arrival_s[-1]
        rate = (len(trial.requests) - 1) / span if span else rate
        return bool(trial.clients <= known["clients"] and rate <= known["per_s"])

    monkeypatch.setattr(sustained, "_held", held)
    monkeypatch.setattr(sustained, "_meets", meets)
    monkeypatch.setattr(sustained, "_settle_s", lambda load, slo, now_s: 1.0)
    monkeypatch.setattr(sustained, "warm_latencies", lambda run, load: SimpleNamespace(e2e_s=np.array([1.0])))
    return known


def serve(trial: Workload) -> Any:
    return trial


@pytest.mark.parametrize("per_s", [0.01, 0.9, 3.9, 4.0, 10.0, 700.0])
def test_the_sustained_rate_is_found_within_a_hundredth(limit: dict[str, Any], per_s: float) -> None:
    limit["per_s"] = per_s
    found = sustained.sustained_per_s(serve, load(), SLO, 1e9)
    assert 0.99 * per_s <= found <= per_s


def test_it_is_never_more_than_what_drains_a_full_queue(limit: dict[str, Any]) -> None:
    limit["per_s"] = 1e6
    found = sustained.sustained_per_s(serve, load(), SLO, 50.0)
    assert 0.99 * 50.0 <= found <= 50.0 and max(limit["tried"]) <= 50.0


def test_there_is_none_where_nothing_holds_and_for_clients_and_conversations(limit: dict[str, Any]) -> None:
    limit["per_s"] = 0.0
    assert sustained.sustained_per_s(serve, load(), SLO, 1e9) == 0.0
    limit["per_s"] = 1e6
    assert sustained.sustained_per_s(serve, load(clients=3), SLO, 1e9) == 0.0
    assert sustained.sustained_per_s(serve, load(after=(-1,) * 8), SLO, 1e9) == 0.0
    assert sustained.sustained_per_s(serve, load(rate_per_s=0.0), SLO, 1e9) == 0.0


@pytest.mark.parametrize(
    ("clients", "count"),
    [(1, 64), (6, 64), (7, 70), (100, 1000), (400, 4000), (500, 4000), (1000, 4000), (1001, 4004), (2000, 8000)],
)
def test_requests_of_a_trial(clients: int, count: int) -> None:
    """Ten a client, but 64 at least; beyond 4,000 only four a client."""
    trial = sustained.of_clients(load(clients=9), clients)
    assert len(trial.requests) == count and trial.clients == clients
    assert set(trial.requests.arrival_s) == {0.0}


@pytest.mark.parametrize("most", [2, 37, 60])
def test_the_most_clients_that_meet_the_limits(limit: dict[str, Any], most: int) -> None:
    limit["clients"], limit["per_s"] = most, 1e9
    found = sustained._most_clients(serve, load(clients=64), SLO)
    assert most - 1 <= found <= most  # seven trials halve a factor of 64


def test_the_largest_rate_between_one_that_meets_them_and_one_that_does_not(limit: dict[str, Any]) -> None:
    limit["per_s"] = 2.0
    found = sustained._most_per_s(serve, load(rate_per_s=4.0), SLO, 0.5)
    assert found is not None and 2.0 * 0.98 <= found <= 2.0
    limit["per_s"] = 0.1
    assert sustained._most_per_s(serve, load(rate_per_s=4.0), SLO, 0.5) is None


def test_a_load_at_another_rate_keeps_what_people_think() -> None:
    """Arrivals move; gaps of those who wait for an answer do not."""
    asked = load(rate_per_s=4.0, after=(-1, 0, -1, -1, 2, -1, -1, -1))
    slow = sustained.at_rate(asked, asked.rate_per_s / 2.0).requests.arrival_s
    assert slow == (0.0, 0.25, 1.0, 1.5, 1.0, 2.5, 3.0, 3.5)


@pytest.mark.parametrize(("factor", "least_s", "rounds"), [(1.0, 0.0, 1), (1.0, 5.0, 3), (2.0, 5.0, 5), (0.5, 5.0, 2)])
def test_a_faster_load_goes_round_until_it_lasts(factor: float, least_s: float, rounds: int) -> None:
    """Eight requests a quarter of a second apart last two seconds up to the ninth."""
    times = np.array(sustained.faster(load(), factor, least_s).requests.arrival_s)
    assert len(times) == 8 * rounds and np.allclose(np.diff(times), 0.25 / factor)


def _run(finish: list[float], first: list[float]) -> Any:
    return SimpleNamespace(log=SimpleNamespace(finish_s=finish, first_s=first))


@pytest.mark.parametrize(
    ("finish", "first", "per_s"),
    [
        ([1.0, 2.0, 3.0, 6.0], [0.5, 1.0, 2.0, 4.0], 3.5 / 4.0),  # three have ended when the last begins, half of one
        ([1.0, 2.0, 5.0, 6.0], [0.5, 1.0, 2.0, 4.0], 3.0 / 4.0),
        ([5.0, 5.0, 5.0, 6.0], [0.5, 1.0, 2.0, 4.0], 4.0 / 6.0),  # most ran at once
        ([5.0, 6.0], [0.0, 0.0], 2.0 / 6.0),
        ([1.0, 6.0, 6.0], [0.5, 1.0, 4.0], 3.0 / 6.0),
    ],
)
def test_what_a_full_queue_is_served_at(finish: list[float], first: list[float], per_s: float) -> None:
    assert _steady_per_s(cast(Any, _run(finish, first))) == pytest.approx(per_s)


@pytest.mark.parametrize(
    ("text", "slo"),
    [
        ("ttft=2s", Slo(2.0, 0.05)),
        ("tpot=50ms", Slo(1.0, 0.05)),
        ("ttft=9.9,tpot=0.02", Slo(9.9, 0.02)),  # seconds without a unit, as long as they may be
        ("ttft=0.5min, share=0.99", Slo(30.0, 0.05, 0.99)),
        ("tpot=800us", Slo(1.0, 0.0008)),
        ("ttft=10s", Slo(10.0, 0.05)),
    ],
)
def test_limits_in_words(text: str, slo: Slo) -> None:
    found = slo_of(text, SloAsk())
    assert (found.ttft_s, found.tpot_s, found.share) == pytest.approx((slo.ttft_s, slo.tpot_s, slo.share))


@pytest.mark.parametrize("text", ["ttft=10", "tpot=50", "ttft=0s", "ttft=-1s", "ttft=inf", "share=0", "share=1.01"])
def test_limits_that_are_none(text: str) -> None:
    with pytest.raises(ScenarioError, match="slo: "):
        slo_of(text, SloAsk())
