"""As many requests as it takes: intervals that hold what they say, and runs that grow until they do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moesim.sim.question.scenario import ScenarioError
from moesim.sim.serve.accounts import latencies_of
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.sure import is_sure, most_requests, percentile_of
from moesim.traces.rng import stream

LOAD: dict[str, Any] = {"kind": "poisson", "rate_per_s": 20.0, "input_tokens": 300, "output_tokens": 20, "jitter": 0.5}


def asked(**load: Any) -> dict[str, Any]:
    requests = {k: v for k, v in {**LOAD, **load}.items() if v is not None}
    return {
        "model": "llama-3.1-8b",
        "cluster": {"node": "dgx-h100", "gpus": 1},
        "serve": {"engine": "vllm", "requests": requests},
    }


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.0])
def test_intervals_hold_the_percentile_as_often_as_they_say(percentile: float) -> None:
    """Each value keeps 0.7 of the one before: requests of one batch are alike. Of 100 intervals, 95 hold on average."""

    def drawn(count: int, seed: int) -> Any:
        values = stream(seed, "test.sure").standard_normal(count)
        for n in range(1, count):
            values[n] += 0.7 * values[n - 1]
        return 20.0 + values

    true, held = float(np.quantile(drawn(200_000, 999), percentile / 100)), 0
    for seed in range(100):
        found = percentile_of(drawn(3000, seed), percentile)
        assert found is not None and found.low <= found.value <= found.high
        held += found.low <= true <= found.high
    assert 88 <= held <= 99


def test_a_tail_needs_requests_in_it() -> None:
    values = np.full(1000, 2.0)
    found = percentile_of(values, 99.0)
    assert found is not None and found.within == 0.0
    assert not is_sure(found, 1000, 0.05) and is_sure(found, 6000, 0.05)
    assert percentile_of(values[:19], 50.0) is None
    assert most_requests(2000, 99.0) == 128_000 and most_requests(100_000, 99.0) == 200_000
    assert is_sure(percentile_of(values, 99.9), most_requests(40, 99.9) // 2, 0.05)  # however few there were at first


def test_requests_are_drawn_until_the_percentile_is_sure() -> None:
    answer = predict_serve(asked(sure_of={"percentile": 90, "within": 0.005}))
    count = answer.requests
    assert count in {2000 * 2**n for n in range(1, 7)}
    assert any(line.startswith(f"requests.count = {count:,}: so many make p90") for line in answer.assumptions)
    assert sum(line.startswith("requests.count") for line in answer.assumptions) == 1
    said = answer.to_dict()["percentiles"]
    seen = latencies_of(answer.run, answer.warmup_requests)
    for name, values in (("ttft_s", seen.ttft_s), ("tpot_s", seen.tpot_s)):
        assert set(said[name]) == {"p", "value", "low", "high"} and said[name]["p"] == 90
        assert said[name]["value"] == float(np.quantile(values, 0.9))
        assert 0.995 * said[name]["value"] <= said[name]["low"] < said[name]["high"] <= 1.005 * said[name]["value"]
    less = predict_serve(asked(count=count // 2))
    found = [percentile_of(getattr(latencies_of(less.run, less.warmup_requests), n), 90.0) for n in said]
    assert any(of is not None and of.within > 0.005 for of in found)  # half as many would not have done
    assert less.percentiles == {}


def test_a_load_without_a_steady_state_ends_early_and_says_so() -> None:
    answer = predict_serve(asked(rate_per_s=900.0, sure_of={}))
    assert answer.label == "overloaded" and answer.requests <= 8000
    assert any("no steady state, more do not help" in line for line in answer.assumptions)


@pytest.mark.parametrize(
    ("load", "says"),
    [
        ({"count": 100, "sure_of": {}}, "count and sure_of are two answers"),
        ({"sure_of": {"percentile": 40}}, "sure_of.percentile"),
        ({"sure_of": {"percentile": 99.99}}, "sure_of.percentile"),
        ({"sure_of": {"within": 0}}, "sure_of.within"),
        ({"sure_of": {"p": 99}}, "sure_of.p.*percentile, within"),
        ({"kind": "offline", "rate_per_s": None, "sure_of": {}}, "sure_of is of no use with kind offline"),
    ],
)
def test_bad_questions_get_one_clear_line(load: dict[str, Any], says: str) -> None:
    with pytest.raises(ScenarioError, match=says) as caught:
        predict_serve(asked(**load))
    assert "\n" not in str(caught.value)
