"""Dollars per million tokens at p10, p50 and p90 of what a deployment serves."""

from __future__ import annotations

from collections.abc import Mapping

from moesim.hwmodels.interval import Sureness
from moesim.sim.serve.accounts import QUEUED
from moesim.sim.serve.workload import Workload

_KEYS = ("usd_per_million_tokens", "usd_per_million_output_tokens")


def cost_intervals(
    cost: Mapping[str, float | str], load: Workload, label: str, sure: Sureness, full_over_served: float
) -> dict[str, dict[str, float]]:
    """Of each price per token: p10, p50 (as predicted) and p90; empty without a price.

    sure: of output tokens/s. full_over_served: what could be served at most over what was. Where the GPUs decide how
    much is served (clients that wait, a queue that is never empty), money per token goes with one over the rate. Where
    requests come at their own pace and are all served, no more can be served than comes: it gets dearer only where
    even p10 of what could be served at most is less than that, and never cheaper.
    """
    off = sure.p10_to_p90(1.0)
    if load.clients or load.rate_per_s <= 0.0 or label in QUEUED:
        served = off
    else:
        served = {"p10": min(1.0, full_over_served * off["p10"]), "p50": 1.0, "p90": 1.0}
    return {
        key: {"p10": value / served["p90"], "p50": value, "p90": value / served["p10"]}
        for key in _KEYS
        if isinstance(value := cost.get(key), float)
    }
