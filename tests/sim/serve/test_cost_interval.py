"""Dollars per token: how sure they are depends on who decides how much is served, the GPUs or those who ask."""

from __future__ import annotations

from copy import deepcopy
from math import log
from typing import Any

import pytest

from moesim.hwmodels.interval import Sureness, Width
from moesim.sim.serve.accounts import OVERLOADED, STABLE
from moesim.sim.serve.cost_interval import cost_intervals
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.workload import Workload
from moesim.traces.requests import Requests

SIDE = log(2.0) * 1.645 / 1.2816  # p10 is half of what is predicted, p90 twice as much
SURE = Sureness("a class", Width(SIDE, SIDE), "", {"a class": 1.0}, "")
COST: dict[str, float | str] = {"usd_per_million_output_tokens": 6.0, "price_source": "given"}
OPEN = Workload(Requests((0.0, 1.0, 2.0), (1, 1, 1), (1, 1, 1), (0, 0, 0)))
CLOSED = Workload(Requests((0.0, 0.0), (1, 1), (1, 1), (0, 0)), clients=2)
JOB: dict[str, Any] = {
    "model": {"base": "mixtral-8x7b", "layers": 4},
    "cluster": {"node": "dgx-h100", "gpus": 2},
    "layout": {"tp": 2},
    "serve": {"requests": {"kind": "offline", "count": 50, "input_tokens": 200, "output_tokens": 50}},
    "price_usd_per_gpu_hour": 3.0,
}


def of(load: Workload, label: str, full_over_served: float) -> dict[str, float]:
    return cost_intervals(COST, load, label, SURE, full_over_served)["usd_per_million_output_tokens"]


@pytest.mark.parametrize(("load", "label"), [(CLOSED, STABLE), (OPEN, OVERLOADED)])
def test_where_the_gpus_decide_money_goes_with_one_over_the_rate(load: Workload, label: str) -> None:
    assert of(load, label, 1.0) == {"p10": pytest.approx(3.0), "p50": 6.0, "p90": pytest.approx(12.0)}


def test_where_all_that_comes_is_served_it_is_dearer_only_where_that_is_in_doubt() -> None:
    assert OPEN.rate_per_s > 0.0
    assert of(OPEN, STABLE, 4.0) == {"p10": 6.0, "p50": 6.0, "p90": 6.0}  # half of four times as much is enough
    assert of(OPEN, STABLE, 1.5) == {"p10": 6.0, "p50": 6.0, "p90": pytest.approx(8.0)}  # 0.75 of it is served


def test_without_a_price_there_is_none() -> None:
    assert cost_intervals({"gpu_hours": 1.0}, CLOSED, STABLE, SURE, 1.0) == {}


def test_an_answer_says_it() -> None:
    p = predict_serve(JOB)
    each, off = p.cost_intervals["usd_per_million_output_tokens"], p.sureness["output_tokens_per_s"].p10_to_p90(1.0)
    usd = p.cost["usd_per_million_output_tokens"]
    assert each == {"p10": usd / off["p90"], "p50": usd, "p90": usd / off["p10"]}  # type: ignore[operator]  # a number
    assert p.to_dict()["cost_intervals"] == p.cost_intervals and set(p.cost_intervals) == {
        "usd_per_million_tokens", "usd_per_million_output_tokens"
    }  # fmt: skip
    slow = deepcopy(JOB)
    slow["serve"]["requests"] = {"kind": "poisson", "rate_per_s": 1, "count": 30, "input_tokens": 200}
    idle = predict_serve(slow).cost_intervals["usd_per_million_tokens"]
    assert idle["p10"] == idle["p50"] == idle["p90"]
