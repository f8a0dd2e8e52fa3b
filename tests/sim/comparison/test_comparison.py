"""Comparisons: twins are equal in what they promise, costs at break-even points; bad input is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from moesim.sim.comparison.axes import serve_axes, train_axes
from moesim.sim.comparison.break_even import break_evens
from moesim.sim.comparison.comparison import compare
from moesim.sim.comparison.expense import step_s, train_hours
from moesim.sim.comparison.fitting import train_memory_bytes
from moesim.sim.comparison.twin import dense_of_size
from moesim.sim.comparison.twins import KINDS, twin_of
from moesim.sim.model.catalogue import load_model, model_names
from moesim.sim.model.params import active_parameters, parameters
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import ScenarioError, parse_scenario
from moesim.sim.serve.predict import predict_serve
from moesim.sim.train.job import resolve
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import simulate_step

TRAIN: dict[str, Any] = {
    "model": "mixtral-8x7b",
    "cluster": {"node": "dgx-h100", "gpus": 64},
    "layout": {"pp": 4, "vpp": 2, "ep": 8},
    "train": {"global_batch": 128, "seq_len": 4096},
    "routing": "balanced",
}
SERVE: dict[str, Any] = {
    "model": "mixtral-8x7b",
    "cluster": {"node": "dgx-h100", "gpus": 8},
    "layout": {"tp": 4},
    "serve": {"requests": {"kind": "offline", "count": 150, "input_tokens": 500, "output_tokens": 100}},
}
MOE = [name for name in model_names() if load_model(name).is_moe]


@pytest.mark.parametrize("name", MOE)
def test_a_dense_model_of_all_the_parameters(name: str) -> None:
    arch = load_model(name)
    twin = dense_of_size(arch, float(parameters(arch)))
    assert not twin.is_moe and parameters(twin) == pytest.approx(parameters(arch), rel=0.02)
    assert twin.attention is None or twin.attention.heads % twin.attention.kv_heads == 0


def test_iso_memory_fills_the_same_gpu() -> None:
    twin = twin_of("iso-memory", TRAIN)
    assert train_memory_bytes(twin.sections["train"])[0] == pytest.approx(train_memory_bytes(TRAIN)[0], rel=0.02)
    served = twin_of("iso-memory", SERVE).sections["serve"]
    moe, dense = (predict_serve(s) for s in (SERVE, served))
    held = [p.memory["weights"] + p.kv_use * p.memory["cache_bytes"] for p in (moe, dense)]
    assert held[1] == pytest.approx(held[0], rel=0.03)


def test_twins_grow_in_the_order_of_what_they_hold_equal() -> None:
    sizes = {}
    for kind in KINDS:
        twin = twin_of(kind, TRAIN)
        sizes[kind] = parameters(load_model(twin.sections["train"]["model"]))
    assert sizes["iso-active"] < sizes["iso-quality"] < sizes["iso-total"]
    active = active_parameters(load_model("mixtral-8x7b")).with_input_embedding
    assert sizes["iso-active"] == pytest.approx(active, rel=0.005)


def test_a_twin_that_is_too_large_is_laid_out_anew() -> None:
    twin = twin_of("iso-total", TRAIN)
    assert any("laid out with tp" in note for note in twin.notes)
    size, usable = train_memory_bytes(twin.sections["train"])
    assert size <= usable


@pytest.fixture(scope="module")
def trained() -> Any:
    return compare([TRAIN], twin="iso-quality", tokens=1e12, upcycled_from="mistral-7b")


def test_both_columns_answer_the_same_question(trained: Any) -> None:
    moe, dense = trained.columns
    assert moe.train.tokens_per_step == dense.train.tokens_per_step
    assert dense.train.run.usd / moe.train.run.usd == pytest.approx(
        dense.train.gpu_hours_per_million_tokens / moe.train.gpu_hours_per_million_tokens, rel=0.02
    )
    needed = trained.gpus_for_same_work(dense, "train")
    assert trained.gpus_for_same_work(moe, "train") == 64
    assert (needed - 1) * dense.train.tokens_per_s_per_gpu < moe.train.tokens_per_s
    assert needed * dense.train.tokens_per_s_per_gpu >= moe.train.tokens_per_s * 0.999999
    assert any("WARNING" in note for note in dense.notes)
    cost = trained.quality_costs[0]
    assert cost.lowest_ratio < dense.train.cost.value / moe.train.cost.value < cost.highest_ratio
    assert any("over all sizes that scaling laws allow" in line for line in trained.verdicts())
    assert "cheapest" in trained.verdicts()[0]


def test_upcycling_saves_the_tokens_that_are_named(trained: Any) -> None:
    found = trained.upcycling
    assert found.tokens_saved == pytest.approx(0.5e12)
    assert found.upcycled.gpu_hours == pytest.approx(0.5 * found.scratch.gpu_hours, rel=0.01)
    assert "arXiv:2212.05055" in found.note and "assumed" in found.note


def test_costs_are_equal_at_every_training_break_even() -> None:
    other = twin_of("iso-active", TRAIN).sections["train"]
    axes = {a.name: a for a in train_axes(TRAIN)}
    points = break_evens(("moe", TRAIN), ("dense", other), (1.0, 1.0), "train")
    seen = 0
    for point in points:
        assert point.low < point.high
        for crossing in point.crossings:
            if point.axis in ("HBM bandwidth", "NIC bandwidth"):
                own, dense = (axes[point.axis].hours(s, crossing.value) for s in (TRAIN, other))
                assert own / dense == pytest.approx(1.0, abs=0.01)
                seen += 1
        if not point.crossings:
            assert "never within range" in point.answer
    assert seen >= 1
    price = next(p for p in points if p.axis.startswith("price"))
    assert price.crossings[0].value == pytest.approx(train_hours(TRAIN) / train_hours(other))


def test_costs_change_places_at_a_whole_number_of_clients() -> None:
    other = twin_of("iso-quality", SERVE).sections["serve"]
    clients = next(a for a in serve_axes(SERVE) if a.name == "clients at once")
    points = break_evens(("moe", SERVE), ("dense", other), (1.0, 1.0), "serve")
    found = next(p for p in points if p.axis == "clients at once")
    assert found.crossings
    first = found.crossings[0]

    def cheaper(value: float) -> str:
        own, dense = (clients.hours(s, value) for s in (SERVE, other))
        return "moe" if own < dense else "dense"

    assert cheaper(first.value) == first.cheaper_above and cheaper(first.value * 0.9 - 1) == first.cheaper_below


def test_little_traffic_belongs_to_the_smaller_replica() -> None:
    other = twin_of("iso-quality", SERVE).sections["serve"]
    points = break_evens(("moe", SERVE), ("dense", other), (1.0, 1.0), "serve")
    traffic = next(p for p in points if p.axis == "traffic")
    assert "moe 2 GPUs" in traffic.note and "dense 1 GPU " in traffic.note
    assert traffic.crossings[0].cheaper_below == "dense" and traffic.crossings[0].cheaper_above == "moe"


def test_a_dearer_gpu_hour_moves_the_price_break_even_with_it() -> None:
    """The break-even ratio does not depend on today's prices; who is cheapest does."""
    dear = {**TRAIN, "price_usd_per_gpu_hour": 10.0}
    cheap = {**TRAIN, "model": "llama-2-7b", "layout": {"pp": 4, "vpp": 8}, "price_usd_per_gpu_hour": 0.1}
    found = compare([dear, cheap])
    price = next(b for b in found.break_evens if b.axis.startswith("price"))
    assert "now 0.01 x" in price.note and found.verdicts()[0].startswith("training: llama-2-7b")


@pytest.mark.parametrize(
    "layout",
    [
        {"pp": 4, "ep": 8},
        {"pp": 4, "vpp": 4, "ep": 8},
        {"pp": 8, "ep": 8, "schedule": "zb-h1"},
        {"pp": 8, "ep": 8, "schedule": "gpipe"},
        {"pp": 4, "vpp": 2, "ep": 8, "schedule": "zb-v"},
        {"pp": 4, "vpp": 2, "ep": 8, "schedule": "v-half"},
        {"pp": 4, "vpp": 2, "ep": 8, "schedule": "v-min"},
        {"pp": 4, "ep": 8, "schedule": "dualpipe"},
    ],
    ids=lambda lay: str(lay.get("schedule") or f"vpp {lay.get('vpp', 1)}"),
)
def test_long_steps_are_continued_from_shorter_ones(layout: dict[str, Any]) -> None:
    """Pipelines repeat themselves, almost to the last bit: the line through two shorter steps is the step itself."""
    stack = "hai-llm" if layout.get("schedule") == "dualpipe" else "megatron-tuned"
    scenario = {**TRAIN, "layout": layout, "train": {"global_batch": 4096, "seq_len": 4096}, "stack": stack}
    resolved = resolve(parse_scenario(scenario))
    assert resolved.job.micro_batches > 12 * resolved.job.layout.chunks
    prices = StepPrices(resolved.job, resolved.kernels, resolved.tuning(), drawn=False)
    assert step_s(prices) == pytest.approx(
        simulate_step(prices, events=False).step_time_s, rel=3e-4 if layout.get("vpp", 1) > 2 else 1e-9
    )
    short = prices.of_batch(256)
    own = StepPrices(replace(resolved.job, global_batch=256), resolved.kernels, resolved.tuning(), drawn=False)
    assert step_s(short) == simulate_step(own, events=False).step_time_s


def test_one_column_that_does_not_fit_is_a_line_of_the_answer() -> None:
    large = {**TRAIN, "model": "grok-1", "layout": {"ep": 8}}
    found = compare([TRAIN, large])
    assert found.columns[1].train is None and "does not fit" in found.columns[1].refusals["train"]
    assert found.break_evens == ()
    with pytest.raises(DoesNotFit, match="does not fit"):
        compare([large, {**large, "layout": {"ep": 4}}])


@pytest.mark.parametrize(
    ("scenarios", "options", "says"),
    [
        ([TRAIN], {}, "give two, or a twin"),
        ([TRAIN], {"twin": "iso-activ"}, "did you mean 'iso-active'"),
        ([{**TRAIN, "model": "llama-2-7b", "layout": {}}], {"twin": "iso-total"}, "llama-2-7b is dense"),
        ([TRAIN, SERVE], {}, "nothing comparable"),
        ([{k: v for k, v in TRAIN.items() if k != "train"}], {"twin": "iso-total"}, "neither a train nor a serve"),
        ([TRAIN], {"twin": "iso-active", "tokens": -1.0}, "above 0"),
        ([TRAIN], {"upcycled_from": "mistral-7b"}, "give tokens"),
        ([TRAIN], {"upcycled_from": "llama-2-70b", "tokens": 1e12}, "cannot be copied"),
        ([TRAIN], {"upcycled_from": "mixtral-8x7b", "tokens": 1e12}, "has experts already"),
        ([{**TRAIN, "layout": {"ep": 3}}, TRAIN], {}, "mixtral-8x7b: expert data"),
    ],
)
def test_bad_questions_are_refused_in_a_sentence(scenarios: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ScenarioError) as refusal:
        compare(scenarios, **options)
    assert says in str(refusal.value)
