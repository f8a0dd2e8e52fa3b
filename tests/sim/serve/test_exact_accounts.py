"""Latencies, labels, warm-up and rates of a run to the digit, from logs written by hand."""

from __future__ import annotations

from math import gamma, pi, sqrt
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moesim.sim.question.request_sections import RequestsAsk
from moesim.sim.serve.accounts import (
    BACKLOGGED,
    BEGINNING,
    MISSES,
    OVERLOADED,
    STABLE,
    Latencies,
    goodput_per_s,
    label_of,
    latencies,
    span_s,
    spread,
    steady_tokens_per_s,
)
from moesim.sim.serve.slo import Slo
from moesim.sim.serve.warmup import _T_DRIFT, BATCHES, T_BATCHES
from moesim.sim.serve.workload import REJECTED, SERVED, TIMED_OUT, RequestLog, enough_of


def log_of(*rows: tuple[float, float, float, int], status: dict[int, int] | None = None) -> RequestLog:
    """(arrival, first token, last token, output tokens) of each request."""
    log = RequestLog([r[0] for r in rows], [10] * len(rows), [r[3] for r in rows], [0] * len(rows))
    for number, row in enumerate(rows):
        log.first_s[number], log.finish_s[number] = row[1], row[2]
        log.status[number] = (status or {}).get(number, SERVED)
    return log


LOG = log_of((0.0, 1.0, 5.0, 5), (1.0, 1.5, 1.5, 1), (2.0, 4.0, 10.0, 4), (3.0, 3.5, 4.5, 2))


def test_latencies_of_requests() -> None:
    seen = latencies(LOG)
    assert seen.ttft_s.tolist() == [1.0, 0.5, 2.0, 0.5]
    assert seen.tpot_s.tolist() == [1.0, 2.0, 1.0]  # a request of one token has none
    assert seen.e2e_s.tolist() == [5.0, 0.5, 8.0, 1.5]
    assert seen.turned_away == 0 and seen.tokens.tolist() == [5, 1, 4, 2]


def test_the_warm_up_counts_requests_of_all_kinds() -> None:
    log = log_of(
        (0.0, 1.0, 5.0, 5), (1.0, 0.0, 0.0, 1), (2.0, 4.0, 10.0, 4), (3.0, 0.0, 0.0, 2),
        status={1: REJECTED, 3: TIMED_OUT},
    )  # fmt: skip
    assert latencies(log).turned_away == 2 and latencies(log).arrival_s.tolist() == [0.0, 2.0]
    assert latencies(log, 1).turned_away == 2 and latencies(log, 2).turned_away == 1
    assert latencies(log, 2).ttft_s.tolist() == [2.0]
    assert latencies(log, 4).turned_away == 0 and not len(latencies(log, 9).ttft_s)


def test_tokens_that_leave_in_groups_delay_the_first() -> None:
    seen = latencies(LOG, stream_tokens=3.0)
    # two more gaps of 1 s; a single token waits for none; two gaps of 2 s; one gap of 1 s, for there are but two tokens
    assert seen.ttft_s.tolist() == [3.0, 0.5, 6.0, 1.5]
    assert seen.tpot_s.tolist() == [0.5, pytest.approx(2.0 / 3.0), 0.0]
    assert seen.e2e_s.tolist() == latencies(LOG).e2e_s.tolist()


def run_of(log: RequestLog) -> Any:
    return SimpleNamespace(log=log, stream_tokens=1.0)


def test_rates() -> None:
    run = run_of(LOG)
    assert span_s(run) == 10.0
    assert goodput_per_s(run, 0.5) == pytest.approx(0.5 * 4 / 10.0)
    # from the first arrival (0 s) to the last one (3 s) only the second request ends
    assert steady_tokens_per_s(run) == pytest.approx(1.0 / 3.0)
    assert steady_tokens_per_s(run, 2) is None  # from 2 s to 3 s nothing ends
    assert steady_tokens_per_s(run_of(log_of((1.0, 2.0, 3.0, 4), (1.0, 2.0, 3.0, 4)))) is None


def test_what_ends_as_the_last_comes_still_counts_and_what_ends_as_the_first_comes_does_not() -> None:
    log = log_of((0.0, 0.5, 1.0, 8), (1.0, 1.5, 3.0, 4), (3.0, 4.0, 5.0, 2))
    assert steady_tokens_per_s(run_of(log)) == pytest.approx((8 + 4) / 3.0)
    assert steady_tokens_per_s(run_of(log), 1) == pytest.approx(4 / 2.0)  # begins at 1 s, when the first one ends
    away = log_of((0.0, 0.5, 1.0, 8), (1.0, 1.5, 2.0, 4), (3.0, 4.0, 5.0, 2), status={0: TIMED_OUT})
    assert steady_tokens_per_s(run_of(away)) == pytest.approx(4 / 3.0)


def timings(ttft_s: list[float], span: float = 10.0) -> Latencies:
    count = len(ttft_s)
    empty = np.zeros(count)
    return Latencies(np.linspace(0.0, span, count), np.array(ttft_s), empty, empty, empty)


CALM = timings([1.0] * 20)
GROWN = timings([1.0] * 18 + [3.1, 3.1])  # the last tenth waits 2.1 s longer, over 10 s
JUST = timings([1.0] * 18 + [3.0, 3.0])  # a fifth of the run: not yet


@pytest.mark.parametrize(
    ("seen", "rate", "capacity", "changes", "label"),
    [
        (CALM, 1.0, 2.0, {}, STABLE),
        (CALM, 2.0, 2.0, {}, STABLE),  # as much as can be served
        (CALM, 2.1, 2.0, {}, OVERLOADED),
        (CALM, 2.1, 2.0, {"misses": True}, OVERLOADED),
        (CALM, 2.1, 2.0, {"closed": True}, STABLE),
        (CALM, 0.0, 2.0, {}, STABLE),  # all at once
        (GROWN, 1.0, 2.0, {}, BACKLOGGED),
        (GROWN, 1.0, 2.0, {"misses": True}, BACKLOGGED),
        (GROWN, 1.0, 2.0, {"closed": True}, STABLE),
        (JUST, 1.0, 2.0, {}, STABLE),
        (CALM, 1.0, 2.0, {"misses": True}, MISSES),
        (CALM, 1.0, 2.0, {"misses": True, "closed": True}, MISSES),
        (CALM, 1.0, 2.0, {"beginning": True}, BEGINNING),
        (CALM, 1.0, 2.0, {"beginning": True, "misses": True}, MISSES),
        (CALM, 0.0, 2.0, {"beginning": True, "misses": True, "closed": True}, BEGINNING),
        (timings([]), 1.0, 2.0, {}, STABLE),
        (timings([1.0, 9.0], span=0.0), 1.0, 2.0, {}, STABLE),
    ],
)
def test_labels(seen: Latencies, rate: float, capacity: float, changes: dict[str, bool], label: str) -> None:
    assert label_of(seen, rate, capacity, **{"closed": False, **changes}) == label


@pytest.mark.parametrize(
    ("asked", "turns", "enough"),
    [
        ({"rate_per_s": 2.0, "sessions": {"think_s": 10.0}}, 5.0, 2267),  # 2 x 5 x 4 x 10 s x 0.85 / 0.15
        ({"rate_per_s": 2.0, "sessions": {"think_s": 10.0, "tool_calls": 0.5, "tool_s": 2.0}}, 5.0, 1360),  # 6 s
        ({"rate_per_s": 2.0, "sessions": {"think_s": 10.0}}, 1.0, 0),  # nothing comes later
        ({"concurrency": 7, "sessions": {}}, 3.5, 25),
        ({"rate_per_s": 2.0, "sessions": {}}, 0.0, 0),  # no conversations
    ],
)
def test_requests_of_conversations_that_show_more_than_how_they_begin(
    asked: dict[str, Any], turns: float, enough: int
) -> None:
    assert enough_of(RequestsAsk.model_validate({"kind": "sessions", **asked}), turns) == enough


def test_quantiles() -> None:
    got = spread(np.arange(101.0))
    assert (got.mean, got.p50, got.p90, got.p99) == (50.0, 50.0, 90.0, 99.0)
    assert spread(np.array([])).to_dict() == {"mean": 0.0, "p50": 0.0, "p90": 0.0, "p99": 0.0}


def test_served_well_are_those_within_both_limits_of_all_that_came() -> None:
    """First tokens after 1.0, 0.5, 2.0, 0.5 s; 1.0, none, 2.0, 1.0 s a token."""
    assert Slo(1.0, 1.0).attained(latencies(LOG)) == 0.75
    assert Slo(0.99, 1.0).attained(latencies(LOG)) == 0.5
    assert Slo(2.0, 0.99).attained(latencies(LOG)) == 0.25  # the one of a single token
    turned = log_of((0.0, 1.0, 5.0, 5), (1.0, 0.0, 0.0, 1), status={1: REJECTED})
    assert Slo(1.0, 1.0).attained(latencies(turned)) == 0.5
    nobody = log_of((0.0, 0.0, 0.0, 5), status={0: REJECTED})
    assert Slo(1.0, 1.0).attained(latencies(nobody)) == 0.0


def test_quantiles_of_students_t_are_those_of_the_law() -> None:
    """The density integrated by hand: 95 % in the middle for 19 degrees of freedom, 99 % for 18."""

    def middle(t: float, freedom: int) -> float:
        x = np.linspace(-t, t, 20_001)
        scale = gamma((freedom + 1) / 2) / (sqrt(freedom * pi) * gamma(freedom / 2))
        return float(np.trapezoid(scale * (1.0 + x * x / freedom) ** (-(freedom + 1) / 2), x))

    assert middle(T_BATCHES, BATCHES - 1) == pytest.approx(0.95, abs=1e-4)
    assert middle(_T_DRIFT, 18) == pytest.approx(0.99, abs=1e-4)
