"""Experts in sight: rows and waits are those that passes are priced with, dollars are the time of paid GPUs."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moesim.reports.figures.serve import serve_figure
from moesim.reports.tables.serve import waiting_text, waits_text
from moesim.sim.serve.accounts import span_s
from moesim.sim.serve.expert_rows import expert_rows
from moesim.sim.serve.expert_view import ServedExperts
from moesim.sim.serve.pass_waits import PassWait
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.prediction import ServePrediction
from moesim.sim.serve.step import StepCosts

REQUESTS = {"kind": "offline", "count": 200, "input_tokens": 500, "output_tokens": 100}
JOB: dict[str, Any] = {
    "model": {"base": "qwen3-30b-a3b", "layers": 12},
    "cluster": {"node": "dgx-h100", "gpus": 4},
    "layout": {"ep": 4},
    "serve": {"engine": "vllm", "attention_dp": 4, "requests": REQUESTS},
    "price_usd_per_gpu_hour": 3.0,
}
WIDE: dict[str, Any] = {
    "model": {"base": "deepseek-v3", "layers": 6},
    "cluster": {"node": "dgx-h200", "gpus": 128},
    "layout": {"ep": 128},
    "serve": {
        "engine": "sglang", "precision": "fp8", "attention_dp": 128, "two_batch_overlap": True,
        "requests": {"kind": "closed", "concurrency": 4096, "count": 4096, "input_tokens": 16, "output_tokens": 100},
    },
}  # fmt: skip


def served(job: dict[str, Any], **changes: Any) -> ServePrediction:
    asked = deepcopy(job) | {k: v for k, v in changes.items() if k != "serve"}
    asked["serve"] |= changes.get("serve", {})
    return predict_serve(asked)


def view_of(p: ServePrediction) -> ServedExperts:
    assert p.experts is not None
    return p.experts


@pytest.fixture(scope="module")
def skewed() -> ServePrediction:
    return served(JOB, routing={"lognormal": 1.0})


def test_balanced_seconds_are_those_of_the_same_question_with_balanced_routing(skewed: ServePrediction) -> None:
    view, even = view_of(skewed), served(JOB, routing="balanced")
    costs, batch = even.run.machine.costs, round(skewed.mean_batch)
    steps = skewed.run.replicas[0].steps_at
    a, b = costs.decode(batch)
    cached = skewed.run.replicas[0].cached_steps / sum(steps.values())
    assert view.decode and view.prefill and view.decode.balanced_pass_s == a + b * cached
    assert view.decode.pass_s == pytest.approx(view.decode.balanced_pass_s + view.decode.waits_s)
    assert view.prefill.waits_s > 0.0
    flat = view_of(even)
    assert flat.waiting_share == 0.0 and not flat.drawn
    assert flat.usd == {"per_million_output_tokens": 0.0, "per_day": 0.0}


def test_dollars_are_the_time_that_the_very_passes_of_the_run_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass of the run priced twice, as it is and with balanced routing: the account of means comes within 5 %."""
    even = served(JOB, routing="balanced").run.machine.costs
    waits_s, priced = [], StepCosts.mixed

    def mixed(self: StepCosts, chunks: Any, batch: int, cached: float) -> float:
        seconds = priced(self, chunks, batch, cached)
        waits_s.append(seconds - priced(even, chunks, batch, cached))
        return seconds

    monkeypatch.setattr(StepCosts, "mixed", mixed)
    p = served(JOB, routing={"lognormal": 1.0})
    monkeypatch.undo()
    replica, view = p.run.replicas[0], view_of(p)
    cached = replica.cached_steps / sum(replica.steps_at.values())
    for batch, steps in replica.steps_at.items():
        (a, b), (c, d) = p.run.machine.costs.decode(batch), even.decode(batch)
        waits_s.append(steps * (a - c + (b - d) * cached))
    assert view.waiting_share * span_s(p.run) == pytest.approx(sum(waits_s), rel=0.05)
    assert view.usd["per_day"] == pytest.approx(view.waiting_share * 4 * 24 * 3.0)
    each = view.usd["per_million_output_tokens"] * p.run.log.output_total / 1e6
    assert each == pytest.approx(view.waiting_share * 4 * span_s(p.run) / 3600.0 * 3.0)


def test_rows_are_those_that_the_pass_is_priced_with(skewed: ServePrediction) -> None:
    view, job = view_of(skewed), skewed.resolved.deployment.job
    tokens = round(skewed.mean_batch)
    assert view.busiest_rank_ratio == pytest.approx(expert_rows(job, 128, tokens)[1], rel=1e-12)
    assert view.rank_rows.sum() == pytest.approx(tokens * 8 * 12) and len(view.rank_rows) == 4
    assert view.over_mean.shape == (8, 128) and view.over_mean.mean() == pytest.approx(1.0)
    assert view.prefill is not None and view.prefill.tokens > tokens


def test_halves_that_overlap_are_as_uneven_as_halves(skewed: ServePrediction) -> None:
    p = served(WIDE)
    view, job = view_of(p), p.resolved.deployment.job
    assert view.decode is not None and view.decode.tokens == round(p.mean_batch)
    assert view.busiest_rank_ratio == pytest.approx(expert_rows(job, 256, round(round(p.mean_batch) / 2))[1], rel=1e-12)


def test_every_copy_travels_once() -> None:
    """Low latency sends a copy per expert in 1.03 bytes an element: top-8 of every token, in each of 3 layers."""
    view = view_of(served(WIDE))
    assert view.decode is not None
    assert view.between == "domains" and view.exchange_bytes.shape == (16, 16)
    assert view.exchange_bytes.sum() == pytest.approx(view.decode.tokens * 8 * 7168 * 1.03 * 3)
    assert np.ptp(view.exchange_bytes, axis=0) == pytest.approx(0.0)  # senders are alike


def test_where_all_tokens_are_gathered_routing_moves_no_byte(skewed: ServePrediction) -> None:
    view, even = view_of(skewed), view_of(served(JOB, routing="balanced"))
    assert view.between == "groups" and (view.exchange_bytes == view.exchange_bytes[0, 0]).all()
    assert view.decode and view.exchange_bytes.sum() == pytest.approx(4 * view.decode.tokens * 2048 * 2 * 12)
    assert even.exchange_bytes.shape == (4, 4)
    held = view_of(served(JOB, serve={"attention_dp": 1}, layout={"tp": 4, "ep": 4}))
    assert held.between is None and not held.exchange_bytes.any()  # every rank has all tokens


@pytest.mark.parametrize("changes", [{"model": "llama-3.1-8b", "layout": {}}, {"layout": {"tp": 4}}])
def test_nothing_is_shown_where_nobody_waits(changes: dict[str, Any]) -> None:
    p = served(JOB, **changes, serve={"attention_dp": 1})
    assert p.experts is None and p.to_dict()["experts"] is None


def test_without_a_price_there_are_no_dollars(skewed: ServePrediction) -> None:
    view = ServedExperts(replace(skewed.resolved, price=None), skewed.run, skewed.mean_batch, skewed.resolved.tuning())
    assert view.usd == {} and waiting_text(view).endswith("no price is known")
    assert json.loads(json.dumps(view.to_dict(), allow_nan=False))["waiting_usd"] == {}


def test_pools_have_a_view_of_each_pass_and_experts_apart_of_their_own_ranks() -> None:
    pools = {"prefill": {"ep": 2, "attention_dp": 2}, "decode": {"tp": 2}}
    view = view_of(served(JOB, layout={}, routing={"lognormal": 1.0}, serve={"attention_dp": 1, "pools": pools}))
    assert view.decode is None and view.prefill and view.prefill.ranks == 2
    assert view.busiest_rank_ratio == 1.0 < view.prefill.busiest_rank_ratio
    assert view.drawn and view.waiting_share > 0.0
    apart = {"attention_dp": 2, "experts_apart": {"gpus": 2, "batches": 2}}
    assert view_of(served(JOB, layout={}, routing={"lognormal": 1.0}, serve=apart)).ranks == 2


def test_words_and_the_panel(skewed: ServePrediction) -> None:
    wait = PassWait(ranks=4, tokens=8, busiest_rank_ratio=1.5, pass_s=0.02, balanced_pass_s=0.015)
    assert waits_text(wait) == "5.00 ms of 20.0 ms (25.0%); balanced 15.0 ms"
    worse = PassWait(ranks=4, tokens=8, busiest_rank_ratio=1.5, pass_s=0.02, balanced_pass_s=0.03)
    assert waits_text(worse).startswith("nothing: it takes 20.0 ms, with balanced routing 30.0 ms, as ")
    titles = [axes.get_title(loc="left") for axes in serve_figure(skewed).axes]
    assert any(title.startswith("Tokens per expert") for title in titles)
    assert len(serve_figure(served(JOB, layout={"tp": 4}, serve={"attention_dp": 1})).axes) == 4
