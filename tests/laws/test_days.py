"""Laws of days: requests are conserved whatever comes and goes, as many replicas as asked for, paid while they live."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
import pytest

from moesim.sim.question.scenario import ScenarioError
from moesim.sim.serve.band import serve_sureness
from moesim.sim.serve.day import predict_day
from moesim.sim.serve.workload import REJECTED, SERVED, TIMED_OUT
from moesim.traces.day import Hour
from moesim.traces.day_requests import DAY_S, day_arrivals

PEAK = tuple(Hour(0.02 + (0.4 if 8 <= h < 18 else 0.0)) for h in range(24))


def scenario(gpus: int = 8, requests: dict[str, Any] | None = None, **serve: Any) -> dict[str, Any]:
    load = {
        "kind": "poisson",
        "rate_per_s": 1.0,
        "count": 400,
        "input_tokens": 3000,
        "output_tokens": 300,
        "jitter": 0.5,
    }
    return {
        "model": "llama-3.1-70b",
        "cluster": {"gpu": "a100-sxm-80gb", "gpus": gpus},
        "layout": {"tp": 4},
        "serve": {
            "engine": "vllm",
            "requests": load | (requests or {}),
            "slo": {"ttft_s": 5.0, "tpot_s": 0.1},
            **serve,
        },
    }


def test_arrivals_are_those_of_the_table() -> None:
    day = tuple(Hour(0.0 if h in (3, 4, 23) else 0.1 * h + 0.5) for h in range(24))
    times = day_arrivals(day, seed=1, days=2)
    counts, _ = np.histogram(times, bins=np.arange(49) * 3600.0)
    expected = np.array([hour.requests_per_s * 3600.0 for hour in day] * 2)
    assert (np.diff(times) >= 0.0).all() and times[0] >= 0.0 and times[-1] < 2 * DAY_S
    assert (counts[expected == 0] == 0).all()
    assert (np.abs(counts - expected) <= 5.0 * np.sqrt(expected)).all()


@pytest.mark.parametrize("on", ["load", "predicted"])
def test_requests_are_conserved_and_replicas_stay_in_their_range(on: str) -> None:
    auto = {"least": 1, "most": 4, "by": on, "failures_per_day": 40, "node_failures_per_day": 10, "interval_s": 120}
    p = predict_day(scenario(16, autoscale=auto, router="least_loaded"), PEAK)
    log = p.run.log
    assert p.requests == len(log) == log.status.count(SERVED) and p.lost_replicas > 10 and p.retried > 0
    first, finish, arrival = (np.array(c) for c in (log.first_s, log.finish_s, log.arrival_s))
    assert (first > arrival).all() and (finish >= first).all()
    assert p.replicas[1] <= 4 and all(part.ready_replicas <= 4.0 for part in p.parts)
    assert all(life.begin_s <= life.ready_s for life in p.watch.lives)
    assert sum(part.requests for part in p.parts) == p.requests
    assert p.replica_hours <= p.fixed_replica_hours
    for interval in p.watch.intervals:
        assert interval.ready <= interval.paid + 1e-9


def test_a_fixed_fleet_is_paid_all_day() -> None:
    p = predict_day(scenario(8), PEAK)
    assert p.replicas == (2, 2) and p.replica_hours == pytest.approx(p.fixed_replica_hours)
    assert p.replica_hours >= 48.0 and p.usd == pytest.approx(p.fixed_usd)


def test_hours_and_dollars_follow_what_one_replica_may_serve() -> None:
    """The same rule where a replica serves what it does at p10 and p90, counted here interval by interval."""
    busy = tuple(Hour(2.5 if 8 <= h < 18 else 0.3) for h in range(24))
    p = predict_day(scenario(24, autoscale={"least": 1, "most": 6, "used_share": 0.5}), busy)
    off = serve_sureness(p.resolved.deployment, p.resolved.workload)["output_tokens_per_s"].p10_to_p90(1.0)
    rule = next(line for line in p.assumptions if "one replica serves" in line)
    each = float(rule.split("one replica serves ")[1].split()[0])  # to three digits

    def replicas(factor: float) -> int:
        rates = [interval.came / 60.0 for interval in p.watch.intervals]
        return sum(max(1, min(6, ceil(rate / (each * factor * 0.5)))) for rate in rates)

    hours = p.intervals["gpu_hours"]
    for quantile, other in (("p10", "p90"), ("p90", "p10")):
        assert hours[quantile] == pytest.approx(p.gpu_hours * replicas(off[other]) / replicas(1.0), rel=0.02)
    assert hours["p10"] < hours["p50"] == p.gpu_hours < hours["p90"]
    assert p.usd is not None and p.intervals["usd"]["p90"] == pytest.approx(p.usd * hours["p90"] / p.gpu_hours)
    fixed = predict_day(scenario(8), PEAK)
    assert fixed.intervals == {} and any("all the time, as asked" in line for line in fixed.assumptions)


def test_what_comes_too_fast_is_overloaded_and_ends() -> None:
    busy = tuple(replace(hour, requests_per_s=3.0 if h >= 22 else 0.05) for h, hour in enumerate(PEAK))
    p = predict_day(scenario(4, {"output_tokens": 40}), busy)
    assert p.overloaded_since_s is not None and 21.5 * 3600 <= p.overloaded_since_s <= 23 * 3600
    assert p.attained_share < 0.6
    limited = predict_day(scenario(4, {"output_tokens": 40}, admission={"queue_limit": 20, "timeout_s": 30}), busy)
    log = limited.run.log
    assert limited.rejected == log.status.count(REJECTED) > 0 and limited.timed_out == log.status.count(TIMED_OUT)
    assert limited.ttft_s.p99 < p.ttft_s.p99 and limited.attained_share > p.attained_share


def test_the_only_replica_is_missed_while_another_starts() -> None:
    """Requests wait for it, or give up; hours that are paid stay those of one, however often it is lost."""
    auto = {"least": 1, "most": 1, "failures_per_day": 30, "cold_start": {"seconds": 600}}
    thin = tuple(Hour(0.05) for _ in range(24))
    safe, lossy = (predict_day(scenario(4, autoscale=auto | more), thin) for more in ({"failures_per_day": 0}, {}))
    log = lossy.run.log
    assert lossy.lost_replicas > 10 and lossy.replicas == (0, 1) and log.status.count(SERVED) == lossy.requests
    assert lossy.attained_share < safe.attained_share - 0.05 and lossy.ttft_s.p99 > 60.0
    assert lossy.replica_hours == pytest.approx(24.0, abs=0.2)
    hasty = predict_day(scenario(4, autoscale=auto, admission={"timeout_s": 20}), thin)
    assert hasty.timed_out > 0 and hasty.ttft_s.p99 < 25.0
    often = predict_day(scenario(4, autoscale=auto | {"failures_per_day": 400}), thin)
    assert often.replica_hours > 0.0 and often.run.log.status.count(SERVED) == often.requests


def test_a_day_of_short_intervals_ends_soon() -> None:
    """86,400 looks at what was wanted within a day: each takes no longer than the one before."""
    thin = tuple(Hour(0.005 if h else 0.05) for h in range(24))
    auto = {"least": 1, "most": 2, "interval_s": 1, "keep_s": 86_400, "used_share": 0.05}
    p = predict_day(scenario(8, autoscale=auto), thin)
    counts = [interval.ready for interval in p.watch.intervals]
    assert len(counts) > 80_000 and counts[0] == 1 and counts[-1] == 2 and counts == sorted(counts)


def test_what_prompts_share_is_left_out_and_said() -> None:
    few = tuple(Hour(0.01) for _ in range(24))
    talk = {"kind": "mooncake-conversation", "count": 50}
    asked = scenario(8, router="prefix", kv_tiers=[{"kind": "host", "bytes": 1e9}])
    asked["serve"]["requests"] = talk
    said = predict_day(asked, few).assumptions
    for words in ("requests of kind mooncake-conversation:", "kv_tiers: not used", "router prefix: these requests"):
        assert any(line.startswith(words) for line in said), words


def test_a_table_needs_no_other_rate_and_says_what_it_replaces() -> None:
    few = tuple(Hour(0.01) for _ in range(24))
    asked = scenario(8)
    said = predict_day(asked, few).assumptions
    assert "requests.rate_per_s, requests.count: not used, traffic says how many come and when" in said
    bare = scenario(8)
    for key in ("rate_per_s", "count"):
        del bare["serve"]["requests"][key]
    assert predict_day(bare, few).ttft_s == predict_day(asked, few).ttft_s
    assert not any("not used" in line for line in predict_day(bare, few).assumptions)


def test_a_forecast_is_there_before_the_load() -> None:
    """With a long cold start, replicas that are started by the forecast are ready when the load comes."""
    steep = tuple(Hour(3.0 if h == 12 else 0.02) for h in range(24))
    auto = {"least": 1, "most": 6, "interval_s": 60, "cold_start": {"seconds": 900}}
    late, early = (
        predict_day(scenario(24, {"output_tokens": 40}, router="least_loaded", autoscale=auto | {"by": on}), steep)
        for on in ("load", "predicted")
    )
    assert early.attained_share > late.attained_share
    noon = next(n for n, part in enumerate(early.parts) if part.begin_s >= 12 * 3600)
    assert early.parts[noon].ready_replicas > late.parts[noon].ready_replicas


@pytest.mark.parametrize(
    "serve, words",
    [
        ({"autoscale": {"least": 3, "most": 2}}, "most=2 replicas are fewer than least=3"),
        ({"autoscale": {"most": 40}}, "40 replicas of 4 GPUs are more than cluster.gpus=8"),
        ({"autoscale": {}}, "most"),
        ({"pools": {"prefill": {"tp": 4}, "decode": {"tp": 4}}}, "leave pools out"),
    ],
)
def test_a_wrong_question_is_refused(serve: dict[str, Any], words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        predict_day(scenario(8, **serve), PEAK)


def test_a_day_of_conversations_is_one_of_conversations() -> None:
    """As many requests as the table has, turns after answers, prompts found where they were computed."""
    talk = {"turns": 4, "think_s": 30, "system_tokens": 500, "first_tokens": 300, "added_tokens": 100}
    ask = scenario(16, router="prefix", autoscale={"most": 4, "by": "predicted", "failures_per_day": 10})
    ask["serve"]["requests"] = {"kind": "sessions", "rate_per_s": 1, "count": 100, "sessions": talk}
    p = predict_day(ask, PEAK)
    log = p.run.log
    assert p.requests == len(log) == log.served and p.cache["hit_share"] > 0.3
    assert all(log.arrival_s[i] > log.finish_s[before] for i, before in enumerate(log.after) if before >= 0)
    assert sum(part.requests for part in p.parts) >= 0.98 * p.requests  # a few turns come after midnight
    busy = [part.requests for part in p.parts]
    assert sum(busy[33:73]) > 0.9 * p.requests and p.replicas[1] >= 1  # from 8 to 18 o'clock, and a while after
