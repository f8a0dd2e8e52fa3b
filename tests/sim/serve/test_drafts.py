"""Drafted tokens: how many come out of a pass by each law, what drafting costs in time and memory, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.sim.model.catalogue import load_model
from moesim.sim.question.feature_sections import AcceptanceAsk, SpeculativeAsk
from moesim.sim.question.scenario import ScenarioError, parse_scenario
from moesim.sim.serve.drafts import Speculation, kept_by, speculation_of
from moesim.sim.serve.job import ServeJob
from moesim.sim.serve.memory import draft_bytes, serve_memory
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.step import StepCosts
from moesim.sim.serve.step_parts import StepParts

LLAMA: dict[str, Any] = {"model": "llama-3.1-8b", "cluster": {"node": "dgx-h100", "gpus": 1}, "layout": {"tp": 1}}
DEEPSEEK: dict[str, Any] = {"model": "deepseek-v3", "cluster": {"node": "dgx-h200", "gpus": 8}, "layout": {"tp": 8}}


def asked(base: dict[str, Any], drafts: dict[str, Any] | None, clients: int = 4, **engine: Any) -> dict[str, Any]:
    load = {"kind": "closed", "concurrency": clients, "count": 2 * clients, "input_tokens": 64, "output_tokens": 64}
    serve = {"engine": {"name": "sglang", "max_batch": 256, **engine}, "precision": "fp8", "requests": load}
    return {**base, "serve": {**serve, **({"speculative": drafts} if drafts else {})}}


def costs_of(scenario: dict[str, Any]) -> StepCosts:
    resolved = resolve_serve(parse_scenario(scenario))
    tuning = resolved.tuning()
    return StepCosts(StepParts(resolved.deployment.job, tuning), tuning, (256, 512))


def job_of(scenario: dict[str, Any]) -> ServeJob:
    return resolve_serve(parse_scenario(scenario)).deployment.job


@pytest.mark.parametrize(
    ("law", "tokens", "expected"),
    [
        (0.8, 3, 1 + 0.8 + 0.64 + 0.512),
        (1.0, 3, 4.0),
        (0.0, 2, 1.0),
        ([0.9, 0.5], 2, 1 + 0.9 + 0.45),
        (AcceptanceAsk(law="beta", a=1, b=1), 3, 1 + 1 / 2 + 1 / 3 + 1 / 4),
        (AcceptanceAsk(law="decay", first=0.8, ratio=0.5), 3, 1 + 0.8 + 0.8 * 0.4 + 0.8 * 0.4 * 0.2),
        (AcceptanceAsk(law="beta", a=5.5, b=1.7), 4, 1 + 0.764 + 0.606 + 0.494 + 0.411),
        (AcceptanceAsk(law="beta", a=0.58, b=0.14), 3, 1 + 0.806 + 0.740 + 0.702),
    ],
)
def test_tokens_of_a_pass_by_hand(law: float | list[float] | AcceptanceAsk, tokens: int, expected: float) -> None:
    made = Speculation(method="ngram", kept=kept_by(law, tokens))
    assert made.tokens == tokens and made.tokens_per_step == pytest.approx(expected, abs=2e-3)


def test_shares_kept_rise_where_requests_differ_and_fall_where_a_head_is_reused() -> None:
    rising = kept_by(AcceptanceAsk(law="beta", a=5.5, b=1.7), 8)
    falling = kept_by(AcceptanceAsk(law="decay", first=0.82, ratio=0.72), 8)
    assert list(rising) == sorted(rising) and list(falling) == sorted(falling, reverse=True)


@pytest.mark.parametrize(
    ("model", "ask", "method", "says"),
    [
        ("deepseek-v3", {"tokens": 1}, "mtp", "prediction modules"),
        ("mixtral-8x7b", {"tokens": 3}, "ngram", "has no prediction modules, so drafts are taken to cost nothing"),
        ("llama-2-70b", {"tokens": 3, "model": "llama-2-7b"}, "draft_model", "T5-small"),
        ("llama-3.1-8b", {"tokens": 3, "method": "eagle3"}, "eagle3", "MT-Bench"),
    ],
)
def test_what_is_not_said_is_assumed_aloud(model: str, ask: dict[str, Any], method: str, says: str) -> None:
    found, said = speculation_of(SpeculativeAsk(**ask), load_model(model))
    assert found is not None and found.method == method
    assert says in " ".join(said) and "assumed" in " ".join(said)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        ({"tokens": 2, "acceptance": 1.2}, r"acceptance: must be a probability from 0 to 1, one for each position"),
        ({"tokens": 2, "acceptance": [0.9, 1.2]}, r"acceptance.1: input should be less than or equal to 1"),
        ({"tokens": 2, "acceptance": [0.9, 0.8, 0.7]}, r"lists 3 positions and tokens drafts 2; give one each"),
        ({"tokens": 2, "acceptance": {"law": "beta", "a": 1.0}}, r"law beta takes a and b, and nothing else"),
        ({"tokens": 2, "acceptance": {"law": "beta", "c": 1.0}}, r"unknown key .*acceptance.c"),
        ({"tokens": 2, "method": "mtp"}, r"mixtral-8x7b has no prediction modules; use eagle or eagle3"),
        ({"tokens": 2, "method": "draft_model"}, r"method draft_model needs model"),
        ({"tokens": 2, "method": "eagle", "model": "llama-2-7b"}, r"method eagle has no model of its own"),
        ({"tokens": 2, "model": "qwen3-30b-a3b"}, r"151,936 words and mixtral-8x7b of 32,000: drafts have to be words"),
    ],
)
def test_drafts_that_cannot_be_are_refused(ask: dict[str, Any], says: str) -> None:
    mixtral = {"model": "mixtral-8x7b", "cluster": {"node": "dgx-h100", "gpus": 2}, "layout": {"tp": 2}}
    with pytest.raises(ScenarioError, match=says):
        resolve_serve(parse_scenario(asked(mixtral, ask)))


def test_more_kept_is_faster_and_too_many_drafts_are_slower() -> None:
    def tpot(drafts: dict[str, Any] | None, clients: int) -> float:
        return predict_serve(asked(DEEPSEEK, drafts, clients)).tpot_s.mean

    few, some, most = (tpot({"tokens": 2, "acceptance": share}, 4) for share in (0.3, 0.6, 0.9))
    assert most < some < few
    plain, one, many = (tpot(d, 192) for d in (None, {"tokens": 1}, {"tokens": 8}))
    assert one < plain < many  # eight drafts of a reused module: checked, and hardly any kept


def test_gains_sink_from_one_sequence_to_many() -> None:
    """Published for DeepSeek-V3 on eight H200: 1.8 alone, 1.5 at 32 sequences, 1.0 to 1.3 where they are hundreds."""
    plain, drafting = costs_of(asked(DEEPSEEK, None)), costs_of(asked(DEEPSEEK, {"tokens": 1}))
    gains = {batch: plain.decode(batch)[0] / drafting.decode(batch)[0] for batch in (1, 32, 256)}
    assert 1.5 < gains[1] < 1.82 and 1.3 < gains[32] < gains[1] and 1.0 < gains[256] < gains[32]


def test_drafted_passes_are_priced_and_not_extrapolated() -> None:
    """A pass checks more tokens than sequences may run: tables reach as far, whatever the limit of the batch is."""
    drafts = {"tokens": 3, "acceptance": 0.8}
    tight, wide = (costs_of(asked(DEEPSEEK, drafts, max_batch=n)) for n in (64, 256))
    assert tight.decode(64)[0] == pytest.approx(wide.decode(64)[0], rel=1e-3)


def test_what_drafts_has_its_price() -> None:
    same = {"tokens": 4, "acceptance": 0.7}
    free, short, head = (
        costs_of(asked(LLAMA, {**same, "method": method})).decode(1)[0] for method in ("ngram", "eagle3", "eagle")
    )
    big: dict[str, Any] = {"model": "llama-2-70b", "cluster": {"node": "dgx-h100", "gpus": 8}, "layout": {"tp": 8}}
    small, large = (
        costs_of(asked(big, {**same, "model": model})).decode(1)[0] for model in ("llama-2-7b", "llama-2-13b")
    )
    nothing = costs_of(asked(big, {**same, "method": "ngram"})).decode(1)[0]
    assert free < short < head and nothing < small < large


def test_parts_of_a_drafted_pass_sum_and_prompts_are_drafted_for() -> None:
    for drafts in ({"tokens": 2}, {"tokens": 2, "method": "eagle"}):
        costs = costs_of(asked(DEEPSEEK, drafts))
        a, b = costs.decode(16)
        parts = costs.decode_parts(16, 16 * 400.0)
        assert parts["draft"] > 0.0 and sum(parts.values()) == pytest.approx(a + b * 16 * 400.0)
        free = costs_of(asked(DEEPSEEK, {**drafts, "method": "ngram"}))
        alone, beside = ([(512, 0)], 0, 0.0), ([(512, 0)], 16, 6400.0)
        assert costs.mixed(*alone) > free.mixed(*alone)
        assert costs.mixed(*beside) - free.mixed(*beside) > costs.mixed(*alone) - free.mixed(*alone)


def test_weights_and_caches_of_what_drafts_take_memory() -> None:
    """EAGLE: 4 matrices of attention, 3 of a block, 2 states joined; EAGLE-3 joins 3 and has a head of its own."""
    plain = job_of(asked(LLAMA, None))
    layer = 4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336
    for method, params in (("eagle", layer + 2 * 4096**2), ("eagle3", layer + 3 * 4096**2 + 32_000 * 4096)):
        job = job_of(asked(LLAMA, {"tokens": 2, "method": method}))
        assert draft_bytes(job) == pytest.approx(2.0 * params, rel=1e-3)
        assert serve_memory(job).weights == pytest.approx(serve_memory(plain).weights + draft_bytes(job))
    more, held = (predict_serve(asked(LLAMA, d)).kv_tokens for d in (None, {"tokens": 2, "method": "eagle"}))
    assert held < more
    whole = job_of(
        asked({**LLAMA, "model": "llama-2-13b", "cluster": {"node": "dgx-h200", "gpus": 1}},
              {"tokens": 2, "model": "llama-2-7b"})
    )  # fmt: skip
    assert draft_bytes(whole) == pytest.approx(2.0 * 6.74e9, rel=0.01)


def test_engines_of_early_2025_lose_a_fixed_time_to_drafts() -> None:
    """Llama 3.1 8B on an H100, EAGLE with two drafts: 1.51 times faster then, more today."""

    def gain(version: str | None) -> float:
        dated = {"name": "vllm", **({"version": version} if version else {})}
        plain, drafted = (asked(LLAMA, d, 1, **dated) for d in (None, {"tokens": 2, "method": "eagle"}))
        return predict_serve(plain).tpot_s.mean / predict_serve(drafted).tpot_s.mean

    assert gain("0.8.4") < gain(None) - 0.1
