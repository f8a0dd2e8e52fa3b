"""Limits in which the answer is known: one expert is a dense block, no expert parallelism sends nothing, and so on."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from math import inf
from typing import Any

import pytest
from jobs import DENSE, JOBS, MOE, job, prices_of

from moesim.hwmodels.collectives import load_fabric_fit
from moesim.hwmodels.exchange_kernels import load_exchange_fit
from moesim.hwmodels.profile import Profile
from moesim.hwmodels.work import Comm, ExpertExchange, Gemm, GroupedGemm
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.software.stack import Tuning, constants
from moesim.sim.train.job import TrainJob, resolve
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import simulate_step

COMMUNICATION = {"tp_comm", "cp_comm", "ep_comm", "dp_comm"}


def _one_expert_and_dense() -> tuple[dict[str, Any], dict[str, Any]]:
    one, dense = deepcopy(MOE), deepcopy(MOE)
    one["moe"] = {"experts": 1, "top_k": 1, "expert_intermediate": 2816, "gated": True}
    del dense["moe"]
    dense["ffn"] = {"intermediate": 2816, "gated": True}
    return one, dense


def test_one_expert_top_1_is_the_dense_model_plus_a_router() -> None:
    one, dense = _one_expert_and_dense()
    alike = Tuning(dict.fromkeys([k for k in constants() if k.startswith(("grouped_factor", "gemm_factor"))], 1.0))
    moe_sim, dense_sim = (prices_of(job(model, 8, {}, stack="hai-llm"), alike) for model in (one, dense))
    for chunk in moe_sim.chunks:
        for phase in "FB":
            ours = moe_sim.factory.segment(phase, chunk).ops
            theirs = dense_sim.factory.segment(phase, chunk).ops
            router = sum(op.work.flops for op in ours if "router" in op.name)
            assert sum(op.work.flops for op in ours) - router == sum(op.work.flops for op in theirs)
    moe, plain = simulate_step(moe_sim), simulate_step(dense_sim)
    # dp_comm is not the same: experts have data-parallel collectives of their own
    same = ("attention", "head", "embedding", "elementwise", "optimizer", "step_constant")
    for category in same:
        assert moe.breakdown_s.get(category, 0.0) == pytest.approx(plain.breakdown_s.get(category, 0.0), rel=2e-3)
    gemms = moe.breakdown_s["gemm"] + moe.breakdown_s["grouped_gemm"]
    assert gemms == pytest.approx(plain.breakdown_s["gemm"], rel=0.25)  # another kernel for the same product
    # a dropless layer reads its token counts back: the host waits
    extra = sum(moe.breakdown_s.get(k, 0.0) for k in ("router", "permute", "host"))
    assert moe.step_time_s - plain.step_time_s == pytest.approx(
        extra + gemms - plain.breakdown_s["gemm"], abs=0.02 * plain.step_time_s
    )


@pytest.mark.parametrize("layout", [{}, {"tp": 2}, {"pp": 2}])
def test_without_expert_parallelism_no_token_travels(layout: dict[str, int]) -> None:
    prices = prices_of(job(MOE, 8, layout))
    for chunk in prices.chunks:
        ops = [*prices.factory.segment("F", chunk).ops, *prices.factory.segment("B", chunk).ops]
        assert not any(isinstance(op.work, ExpertExchange) for op in ops)
    assert "ep_comm" not in simulate_step(prices).breakdown_s


def test_one_gpu_sends_nothing() -> None:
    prices = prices_of(job(DENSE, 1, {}, global_batch=4))
    for chunk in prices.chunks:
        ops = [*prices.factory.segment("F", chunk).ops, *prices.factory.segment("B", chunk).ops]
        assert not any(isinstance(op.work, Comm) for op in ops)
    assert not COMMUNICATION & {k for k, v in simulate_step(prices).breakdown_s.items() if v > 0.0}


def _free_network(job_: TrainJob, profile: Profile) -> StepPrices:
    """The job on a network of infinite rate and no latency, whose kernels copy in no time."""
    cluster = job_.cluster
    gpu = replace(cluster.gpu, scale_up_bytes_per_s=inf, pcie_bytes_per_s=inf)
    cluster = replace(cluster, gpu=gpu, nic_bytes_per_s=inf, fabric_latency_s=0.0)
    floors = ("base_s", "hop_s", "a2a_base_s", "a2a_chunk_s", "nvls_base_s", "nvls_fill_s", "fill_hop_s")
    profile = replace(profile, collective_fit=replace(profile.collectives, **dict.fromkeys(floors, 0.0)))
    fabric = replace(load_fabric_fit(), ring_hop_s=0.0, tree_hop_s=0.0, peer_message_s=0.0, send_message_s=0.0)
    fit = load_exchange_fit(cluster.gpu.generation)
    none = ("normal_floor_dispatch_s", "normal_floor_combine_s", "normal_floor_far_dispatch_s", "normal_scale_sm_s",
            "normal_floor_far_combine_s", "hybrid_floor_s", "hybrid_scan_sm_s")  # fmt: skip
    endless = ("normal_sm_dispatch_bytes_per_s", "normal_sm_combine_bytes_per_s", "normal_serial_bytes_per_s",
               "hybrid_sm_dispatch_bytes_per_s", "hybrid_sm_combine_bytes_per_s")  # fmt: skip
    exchange = replace(fit, **dict.fromkeys(none, 0.0), **dict.fromkeys(endless, inf))
    return StepPrices(replace(job_, cluster=cluster), profile, Tuning({"kernel_gap_s[*]": 0.0}), fabric, exchange)


@pytest.mark.parametrize("name", JOBS)
def test_an_infinitely_fast_network_leaves_compute(name: str) -> None:
    resolved = resolve(parse_scenario(JOBS[name]))
    step = simulate_step(_free_network(resolved.job, resolved.kernels))
    sent = {k: v for k, v in step.breakdown_s.items() if k in COMMUNICATION and v > 0.0}
    assert not sent or max(sent.values()) < 1e-12 * step.step_time_s, sent
    slower = simulate_step(prices_of(JOBS[name]))
    assert step.step_time_s <= slower.step_time_s
    assert step.breakdown_s.get("attention") == pytest.approx(slower.breakdown_s.get("attention"), rel=0.5)


def test_balanced_routing_gives_every_expert_the_mean() -> None:
    prices = prices_of({**JOBS["MoE with EP"], "routing": "balanced"})
    for load in prices.loads:
        assert load is not None and load.imbalance == 1.0
        assert max(load.rows) - min(load.rows) <= 1


def test_no_skew_is_balanced() -> None:
    flat = simulate_step(prices_of({**JOBS["MoE with EP"], "routing": {"lognormal": 0.0}}))
    assert flat.step_time_s == simulate_step(prices_of(JOBS["MoE with EP"])).step_time_s


def test_skew_never_helps() -> None:
    times = [
        simulate_step(prices_of({**JOBS["MoE with EP"], "routing": {"lognormal": sigma, "seed": 3}})).step_time_s
        for sigma in (0.0, 0.2, 0.4, 0.8)
    ]
    for milder, worse in pairwise(times):
        assert worse >= milder * (1.0 - 1e-12)  # sums in another order


def test_grouped_gemm_of_one_group_counts_as_a_gemm() -> None:
    assert GroupedGemm((512,), 1024, 768).flops == Gemm(512, 1024, 768).flops
    assert GroupedGemm((512,), 1024, 768).bytes == Gemm(512, 1024, 768).bytes
