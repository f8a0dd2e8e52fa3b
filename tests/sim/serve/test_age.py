"""What the month of a release adds to passes: nothing where it is not known, and more the older it is."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.accounts import latencies_of
from moesim.sim.serve.age import Age, age_of, cold_s, young_experts
from moesim.sim.serve.job import ServeJob
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.simulate import machine_of, simulate
from moesim.sim.serve.step import StepCosts
from moesim.sim.software.engine_release import is_before, month_of, released, version_of
from moesim.sim.software.serving_engine import engine_tuning, load_engine
from moesim.sim.software.stack import StackError


def asked(engine: dict[str, Any], node: str = "dgx-h200", model: str = "deepseek-v3", **load: Any) -> dict[str, Any]:
    """A model on eight GPUs under a small closed loop."""
    requests = {"kind": "closed", "concurrency": 8, "count": 24, "input_tokens": 512, "output_tokens": 64, **load}
    return {
        "model": model, "cluster": {"node": node, "gpus": 8}, "layout": {"tp": 8},
        "serve": {"engine": engine, "precision": "fp8", "requests": requests},
    }  # fmt: skip


def job_of(engine: dict[str, Any], **where: Any) -> ServeJob:
    return resolve_serve(parse_scenario(asked(engine, **where))).deployment.job


def age(engine: dict[str, Any], **where: Any) -> Age:
    return age_of(job_of(engine, **where), engine_tuning(), 58)


def test_versions_are_ordered_and_dated() -> None:
    assert version_of("v0.5.12.post1") == (0, 5, 12, 0) and version_of("1.0.0rc3") == (1, 0, 0, 0)
    assert version_of("glm5-hopper") is None and version_of("nightly-5b8c30d62b754b57") is None
    assert (
        is_before(version_of("0.10.2"), "0.11")
        and not is_before(version_of("0.11"), "0.11.0")
        and not is_before(None, "0.11")
    )
    assert released("sglang", "0.5.12.post1") == month_of("2026-05") == month_of("2026-05-18")
    assert released("sglang", "0.4.3.post2") == month_of("2025-02")
    assert released("vllm", "0.1") is None and released("tgi", "1.0") is None and month_of("May 2026") is None


def test_a_release_of_unknown_month_is_of_the_reference() -> None:
    assert age({"name": "sglang"}) == age({"name": "sglang", "version": "nightly"}) == Age()
    assert age({"name": "sglang", "date": "2026-02"}) == Age()


def test_old_releases_are_slower_and_a_known_version_comes_before_a_date() -> None:
    early, old, new = (age({"name": "sglang", "version": v}).factor for v in ("0.4.3", "0.5.6", "0.5.12"))
    assert early > old > 1.0 > new
    assert age({"name": "sglang", "version": "0.5.12", "date": "2025-03"}).factor == new
    assert age({"name": "sglang", "version": "nightly", "date": "2025-12"}).factor == old
    assert age({"name": "sglang", "date": "2099-01"}).factor == pytest.approx(0.75)  # no drift is followed for ever
    assert age({"name": "vllm", "version": "0.7.4"}).factor > 1.5
    assert age({"name": "vllm", "version": "0.10.2"}) == Age()


def test_small_and_dense_models_do_not_age() -> None:
    for model in ("llama-3.1-70b", "mixtral-8x7b"):
        assert age({"name": "sglang", "version": "0.4.3"}, model=model) == Age()
    assert age({"name": "vllm", "version": "0.7.4"}, model="qwen3-235b-a22b") == Age()  # no latent attention


def test_young_ports_add_time_per_layer_that_halves_and_is_bounded() -> None:
    node = "mi300x-platform"
    new, old, older = (age({"name": "sglang", "version": v}, node=node).added_s for v in ("0.5.12", "0.5.9", "0.5.3"))
    assert 0 < new < old < older == pytest.approx(58 * 2.5e-4)
    assert age({"name": "sglang", "version": "0.5.9"}).added_s == 0.0


def test_passes_carry_their_age() -> None:
    old, new = (predict_serve(asked({"name": "sglang", "version": v})) for v in ("0.5.6", "0.5.12"))
    factor = age({"name": "sglang", "version": "0.5.6"}).factor / age({"name": "sglang", "version": "0.5.12"}).factor
    assert old.tpot_s.mean / new.tpot_s.mean == pytest.approx(factor, rel=0.02)
    for answer in (old, new):
        assert sum(answer.utilisation.values()) == pytest.approx(1.0, abs=0.02)


def test_experts_in_four_bits_were_slow_before_their_kernels() -> None:
    def factor(version: str, node: str) -> float:
        raw = asked({"name": "vllm", "version": version}, node=node, model="gpt-oss-120b")
        raw["serve"]["precision"] = "fp4"
        return young_experts(resolve_serve(parse_scenario(raw)).deployment.job, engine_tuning())

    assert factor("0.10.2", "dgx-h100") > 1.5
    assert factor("0.11.0", "dgx-h100") == factor("0.10.2", "dgx-b200") == factor("", "dgx-h100") == 1.0


def test_a_cold_start_delays_the_first_requests_only_where_it_is_asked_for() -> None:
    node = "mi300x-platform"
    load = {"count": 80, "warmup": 0}  # the first requests are what is asked about
    warm, cold = (predict_serve(asked({"name": "sglang", "cold_start": c}, node=node, **load)) for c in (False, True))
    seconds = cold_s(job_of({"name": "sglang"}, node=node), engine_tuning())
    assert seconds > 1.0
    assert cold.ttft_s.mean - warm.ttft_s.mean == pytest.approx(seconds / 10, rel=0.15)  # one request of ten per client
    assert cold.tpot_s.mean == pytest.approx(warm.tpot_s.mean, rel=0.02)
    assert not load_engine("sglang").cold_start


def test_a_date_is_a_month() -> None:
    with pytest.raises(StackError, match="is no month"):
        predict_serve(asked({"name": "sglang", "date": "last week"}))


def test_an_old_server_sends_no_more_tokens_than_its_process_can() -> None:
    def rate(**engine: str) -> float:
        raw = asked(
            {"name": "vllm", **engine},
            model="llama-3.1-8b",
            concurrency=1000,
            count=1000,
            input_tokens=16,
            output_tokens=200,
        )
        return predict_serve(raw).output_tokens_per_s

    ceiling = 1.0 / engine_tuning().get("stream_token_s", "vllm")
    assert rate(version="0.10.2") < ceiling < rate(version="0.10.2", run="library")
    assert rate(version="0.14.0") == rate() > ceiling


def test_ranks_of_trtllm_wait_for_each_others_prompts() -> None:
    """The first token comes some passes later where attention is data-parallel, and no request takes longer for it."""

    def times(engine: str, dp: int, tokens: float) -> tuple[float, float]:
        raw = asked({"name": engine}, concurrency=64, count=256)
        raw["layout"], raw["serve"]["attention_dp"] = {"tp": 8 // dp, "ep": dp}, dp
        resolved = resolve_serve(parse_scenario(raw))
        tuning = engine_tuning({"rank_wait_tokens[trtllm]": tokens})
        run = latencies_of(simulate(resolved.deployment, resolved.workload, tuning))
        return float(run.ttft_s.mean()), float(run.e2e_s.mean())

    (plain, whole), (held, same) = times("trtllm", 8, 1.0), times("trtllm", 8, 31.0)
    assert held == pytest.approx(plain + 30 * (whole - plain) / 63, rel=0.02) and same == whole
    assert times("trtllm", 1, 1.0) == times("trtllm", 1, 31.0)
    assert times("sglang", 8, 1.0) == times("sglang", 8, 31.0)


def costs_of(engine: dict[str, Any], model: str, precision: str, node: str, overrides: dict[str, float]) -> StepCosts:
    raw = asked(engine, node=node, model=model)
    raw["serve"]["precision"] = precision
    resolved = resolve_serve(parse_scenario(raw))
    return machine_of(resolved.deployment.job, resolved.workload, engine_tuning(overrides)).costs


def test_constants_of_age_reach_the_passes_they_are_about() -> None:
    chunks = [(4096, 0)]

    def prompt_s(engine: dict[str, Any], key: str, value: float, *where: str) -> float:
        return costs_of(engine, *where, {key: value}).mixed(chunks, 0, 0)

    port = ({"name": "sglang", "version": "0.5.12"}, "young_layer_s[sglang,mi300x]")
    where = ("deepseek-v3", "fp8", "mi300x-platform")
    assert prompt_s(*port, 1.1e-4, *where) - prompt_s(*port, 1e-5, *where) == pytest.approx(58 * 1e-4, rel=0.01)
    old, key = {"name": "vllm", "version": "0.10.2"}, "young_expert_factor[int4,vllm,hopper]"
    where = ("gpt-oss-120b", "fp4", "dgx-h100")
    assert prompt_s(old, key, 6.0, *where) > 1.2 * prompt_s(old, key, 1.0, *where)
    new = {"name": "vllm", "version": "0.11.0"}
    assert prompt_s(new, key, 6.0, *where) == prompt_s(new, key, 1.0, *where)


def test_narrow_heads_of_prompts_cost_more_on_an_a100() -> None:
    def prompt_s(model: str, factor: float) -> float:
        overrides = {"narrow_head_prefill_factor[a100]": factor}
        return costs_of({"name": "vllm"}, model, "bf16", "dgx-a100", overrides).mixed([(2048, 16000)], 0, 0.0)

    assert prompt_s("gpt-oss-20b", 4.0) > 1.1 * prompt_s("gpt-oss-20b", 1.0)
    assert prompt_s("qwen3-30b-a3b", 4.0) == prompt_s("qwen3-30b-a3b", 1.0)
