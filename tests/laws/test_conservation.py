"""Nothing is lost on the way from a model to its ranks: FLOPs, parameters, token-expert pairs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import DENSE, JOBS, MOE, job, prices_of

from moesim.hwmodels.work import Attention, Gemm, GroupedGemm
from moesim.sim.layout.pipeline import V_SHAPED
from moesim.sim.layout.placement import expert_loads
from moesim.sim.model.flops import flops_per_token
from moesim.sim.model.params import final_norm_params, mtp_params, parameters
from moesim.sim.train.memory import rank_params, step_memory
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.program import step_program
from moesim.traces.routing import Routing

# skewed and capacity-padded jobs simulate the busiest rank, so their ranks do not add up to the model on purpose
_EVEN = [name for name in JOBS if "skewed" not in name and "capacity" not in name]


def _forward_flops(prices: StepPrices) -> float:
    """FLOPs of one step's forward passes over all GPUs."""
    total = 0.0
    for chunk in prices.chunks:
        for op in prices.factory.segment("F", chunk).ops:
            if isinstance(op.work, Gemm | GroupedGemm | Attention):
                total += op.work.flops
    lay = prices.job.layout
    return total * prices.job.micro_batches * lay.dp * lay.tp * lay.cp


@pytest.mark.parametrize("name", _EVEN)
def test_forward_flops_over_all_ranks_are_the_closed_form(name: str) -> None:
    prices = prices_of(JOBS[name])
    job_ = prices.job
    tokens = job_.global_batch * job_.seq_len
    # unfused attention computes masked scores too; context parallelism rounds the causal diagonal
    rounding = 0.02 if job_.layout.cp > 1 else 1e-12
    closed = flops_per_token(job_.arch, job_.seq_len, causal=job_.stack.attention_kernel != "unfused") * tokens
    assert _forward_flops(prices) == pytest.approx(closed, rel=rounding)


@pytest.mark.parametrize("name", JOBS)
def test_parameters_over_ranks_are_the_models(name: str) -> None:
    prices = prices_of(JOBS[name])
    lay = prices.job.layout
    held = [rank_params(prices, rank) for rank in range(lay.pp)]
    copies = 2 if lay.schedule == "dualpipe" else 1  # DualPipe keeps every stage on two ranks
    total = sum(d * lay.tp + e * lay.ep * lay.etp for d, e in held) / copies
    assert total == pytest.approx(parameters(prices.job.arch) - final_norm_params(prices.job.arch), rel=1e-12)


def _loads(layout: dict[str, Any], routing: Routing, tokens: int, factor: float | None) -> list[Any]:
    prices = prices_of(job(MOE, 16, layout))
    loads = expert_loads(prices.job.arch, prices.job.layout, prices.job.cluster, routing, tokens, factor)
    return [load for load in loads if load is not None]


@settings(max_examples=40)
@given(sigma=st.floats(0.0, 3.0), seed=st.integers(0, 1000), tokens=st.integers(1, 5000))
def test_tokens_times_top_k_are_the_rows_in_expert_gemms(sigma: float, seed: int, tokens: int) -> None:
    routing = Routing(kind="lognormal", sigma=sigma, seed=seed)
    for load in _loads({}, routing, tokens, None):  # ep 1: the one rank holds every expert
        assert sum(load.rows) == tokens * MOE["moe"]["top_k"]
        assert load.dropped_share == 0.0 and load.imbalance == pytest.approx(1.0)


@settings(max_examples=40)
@given(sigma=st.floats(0.0, 3.0), seed=st.integers(0, 1000), tokens=st.integers(1, 5000), factor=st.floats(0.1, 20.0))
def test_kept_plus_dropped_are_all_pairs(sigma: float, seed: int, tokens: int, factor: float) -> None:
    routing = Routing(kind="lognormal", sigma=sigma, seed=seed)
    pairs = tokens * MOE["moe"]["top_k"]
    free = _loads({}, routing, tokens, None)
    for load, whole in zip(_loads({}, routing, tokens, factor), free, strict=True):
        limit = load.rows[0]
        assert set(load.rows) == {limit}  # capacity kernels pad every expert to the limit
        kept = sum(min(rows, limit) for rows in whole.rows)
        assert kept + round(load.dropped_share * pairs) == pairs


@settings(max_examples=30)
@given(sigma=st.floats(0.0, 3.0), seed=st.integers(0, 1000))
def test_the_busiest_rank_carries_at_least_the_mean(sigma: float, seed: int) -> None:
    pairs = 1024 * 8 * MOE["moe"]["top_k"]
    for load in _loads({"ep": 8, "pp": 2}, Routing(kind="lognormal", sigma=sigma, seed=seed), 1024, None):
        assert sum(load.rows) * 8 >= pairs
        assert load.imbalance == pytest.approx(sum(load.rows) * 8 / pairs)
        assert 1.0 <= load.rank_copies <= MOE["moe"]["top_k"]


def test_backward_does_twice_the_gemms_of_forward() -> None:
    prices = prices_of(job(DENSE, 8, {"pp": 2}))
    for chunk in prices.chunks:
        forward = sum(op.work.flops for op in prices.factory.segment("F", chunk).ops if isinstance(op.work, Gemm))
        backward = sum(op.work.flops for op in prices.factory.segment("B", chunk).ops if isinstance(op.work, Gemm))
        assert backward == 2.0 * forward


def test_split_backward_is_the_whole_backward() -> None:
    """ZB's input and weight halves hold the same GEMMs as the undivided backward."""
    for name in ("1F1B", "MoE with EP"):
        prices = prices_of(JOBS[name])
        for chunk in prices.chunks:
            whole = sorted(str(op.work) for op in prices.factory.segment("B", chunk).ops if op.work.flops)
            halves = [*prices.factory.segment("I", chunk).ops, *prices.factory.segment("W", chunk).ops]
            assert sorted(str(op.work) for op in halves if op.work.flops) == whole


def test_mtp_modules_share_the_models_tables() -> None:
    """DeepSeek-V3 report, section 3.2.1: an MTP module uses the main model's embedding and output head."""
    prices = prices_of(job({"base": "deepseek-v3", "layers": 8}, 32, {"pp": 2, "ep": 16}))
    lay, arch = prices.job.layout, prices.job.arch
    total = sum(d * lay.tp + e * lay.ep * lay.etp for d, e in (rank_params(prices, rank) for rank in range(lay.pp)))
    assert total == pytest.approx(parameters(arch) + mtp_params(arch) - final_norm_params(arch), rel=1e-3)


@pytest.mark.parametrize("schedule", ["gpipe", "interleaved", "zb-h1", "dualpipe", *V_SHAPED])
@pytest.mark.parametrize("zero", [0, 1])
def test_every_schedule_reduces_its_gradients(schedule: str, zero: int) -> None:
    """As many reductions as 1F1B has; DualPipe holds every stage on two ranks and reduces on both."""
    counts = {}
    for name in ("1f1b", schedule):
        layout = {
            "pp": 2,
            "schedule": name,
            "zero": zero,
            "vpp": 2 if name in ("interleaved", *V_SHAPED) else 1,
        }
        program = step_program(prices_of(job(DENSE, 16, layout))).plan
        counts[name] = sum("reduce" in label for label in program.labels)
    assert counts["1f1b"] > 0
    assert counts[schedule] == counts["1f1b"] * (2 if schedule == "dualpipe" else 1)


def test_dualpipes_mirrored_ranks_hold_the_same_bytes() -> None:
    """Ranks r and p-1-r hold the same two stages."""
    memory = step_memory(prices_of(JOBS["MoE, DualPipe"]))
    for ours, mirrored in zip(memory, reversed(memory), strict=True):
        for kind in ("weights", "gradients", "optimizer", "buffers"):
            assert getattr(ours, kind) == pytest.approx(getattr(mirrored, kind), rel=1e-12), kind


def test_expert_choice_serves_as_many_pairs_as_top_k_says() -> None:
    """Experts choose tokens, top_k on average per token: closed-form FLOPs and rows must mean the same."""
    model = {**MOE, "moe": {**MOE["moe"], "router": "expert_choice"}}
    prices = prices_of(job(model, 8, {}))
    for load in prices.loads:
        assert load is not None and sum(load.rows) == 2048 * MOE["moe"]["top_k"]
