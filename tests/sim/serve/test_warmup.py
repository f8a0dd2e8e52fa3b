"""The warm-up: a rule that finds a start where there is one, on made-up series and on runs; what a share leaves out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from moesim.sim.question.scenario import ScenarioError
from moesim.sim.serve.accounts import latencies_of, span_s, spread
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.warmup import start_of
from moesim.traces.rng import stream

Floats = npt.NDArray[np.float64]
LOAD: dict[str, Any] = {
    "kind": "closed", "concurrency": 32, "count": 320, "input_tokens": 600, "output_tokens": 120, "jitter": 0.3,
}  # fmt: skip


def asked(change: dict[str, Any], **serve: Any) -> dict[str, Any]:
    requests = {k: v for k, v in {**LOAD, **change}.items() if v is not None}
    return {
        "model": "llama-3.1-8b",
        "cluster": {"node": "dgx-h100", "gpus": 1},
        "serve": {"engine": "vllm", "requests": requests, **serve},
    }


def noise(count: int, seed: int, memory: float = 0.5) -> Floats:
    """Values around zero; each keeps `memory` of the one before, as requests in one batch do."""
    drawn, values = stream(seed, "test.warmup").standard_normal(count), np.zeros(count)
    for n in range(1, count):
        values[n] = memory * values[n - 1] + drawn[n]
    return values


@pytest.mark.parametrize("count", [200, 600, 3000])
@pytest.mark.parametrize("sign", [1.0, -0.45])
def test_a_start_that_fades_is_left_out(count: int, sign: float) -> None:
    """What is left is within a tenth of the start's height of where it settles, and most of it is kept."""
    lasts = count / 20
    for seed in range(20):
        start = start_of(10.0 + sign * 20.0 * np.exp(-np.arange(count) / lasts) + noise(count, seed))
        assert start is not None and lasts <= start <= 10 * lasts, (seed, start)


def test_without_a_start_hardly_anything_is_left_out() -> None:
    for count in (200, 600, 3000):
        starts = [start_of(10.0 + noise(count, seed)) for seed in range(60)]
        assert all(start is not None for start in starts)
        assert sum(start or 0 for start in starts) < 0.03 * count * len(starts)
        assert sum(bool(start) for start in starts) < 0.2 * len(starts)


@pytest.mark.parametrize("count", [200, 600, 3000])
def test_a_trend_has_no_steady_state(count: int) -> None:
    starts = [start_of(10.0 + 20.0 * np.arange(count) / count + noise(count, seed)) for seed in range(20)]
    assert starts.count(None) >= 19


def test_equal_values_have_no_start_and_a_step_has_one() -> None:
    assert start_of(np.full(100, 3.0)) == 0
    assert start_of(np.concatenate([np.full(30, 9.0), np.full(270, 3.0)])) == 30


def test_the_first_second_of_a_closed_loop_is_not_its_percentiles() -> None:
    whole, warm = (predict_serve(asked({"warmup": share})) for share in (0, "auto"))
    assert whole.ttft_s.p99 > 4 * whole.ttft_s.p50 > 4 * 0.5 * warm.ttft_s.p50
    assert warm.ttft_s.p99 < 4 * warm.ttft_s.p50
    assert 32 <= warm.warmup_requests <= 160 and whole.warmup_requests == 0
    assert warm.requests == 320 and warm.output_tokens_per_s == whole.output_tokens_per_s and warm.cost == whole.cost
    told = f"warm-up: the first {warm.warmup_requests} of 320 requests are left out of latencies"
    assert any(line.startswith(told) for line in warm.assumptions)
    assert not any(line.startswith("warm-up") for line in whole.assumptions)
    again = predict_serve(asked({}))
    assert json.dumps(again.to_dict()) == json.dumps(warm.to_dict())  # and it is the default


def test_a_share_of_the_scenario_stands() -> None:
    answer = predict_serve(asked({"warmup": 0.25}))
    assert answer.warmup_requests == 80
    assert answer.ttft_s == spread(latencies_of(answer.run, 80).ttft_s)
    assert "warm-up: the first 80 of 320 requests are left out" in answer.assumptions


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"count": 40}, "40 requests are too few"),
        ({"kind": "offline", "concurrency": None}, "all requests come at once"),
        ({"kind": "poisson", "concurrency": None, "rate_per_s": 300.0, "count": 600}, "no steady state"),
        ({"kind": "poisson", "concurrency": None, "rate_per_s": 1.0, "count": 300}, "are like the others"),
    ],
)
def test_what_has_no_warm_service_leaves_nothing_out_and_says_so(change: dict[str, Any], says: str) -> None:
    answer = predict_serve(asked(change))
    assert answer.warmup_requests == 0
    assert any(line.startswith("warm-up: nothing is left out") and says in line for line in answer.assumptions)


def test_the_steady_rate_is_that_of_a_longer_run() -> None:
    """Start and end of a closed loop weigh less the longer it is; the steady rate is without them from the first."""
    short, long = predict_serve(asked({})), predict_serve(asked({"count": 6400}))
    assert short.steady_output_tokens_per_s == pytest.approx(long.output_tokens_per_s, rel=0.015)
    assert short.output_tokens_per_s < 0.98 * long.output_tokens_per_s
    assert short.output_tokens_per_s == pytest.approx(short.run.log.output_total / span_s(short.run))
    assert predict_serve(asked({"kind": "offline", "concurrency": None})).steady_output_tokens_per_s is None


@pytest.mark.parametrize("share", ["none", True, 1.0, -0.1, "0.2"])
def test_other_words_and_numbers_are_refused(share: object) -> None:
    with pytest.raises(ScenarioError, match="warmup: must be auto, or a share"):
        predict_serve(asked({"warmup": share}))
