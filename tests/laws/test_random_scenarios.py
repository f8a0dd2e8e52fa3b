"""Any scenario gets either a prediction that passes every law, or one line from one of our own error types."""

from __future__ import annotations

import json
from math import isfinite
from typing import Any

from checks import check_timeline
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from moesim.refusal import Refusal
from moesim.sim.layout.pipeline import V_SHAPED
from moesim.sim.software.stack import stack_names
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prediction import CATEGORIES, Prediction

POWER = st.sampled_from([1, 1, 2, 2, 4, 8])
NAMED = st.sampled_from(
    ["mixtral-8x7b", "deepseek-v3", "deepseek-moe-16b", "llama-3.1-8b", "jamba-v0.1", "gpt-oss-20b", "mpt-1b"]
)


@st.composite
def models(draw: st.DrawFn) -> Any:
    """A catalogue model, a shortened one, or an inline dense, MoE or residual-MoE model of odd sizes."""
    kind = draw(st.sampled_from(["named", "proxy", "gpt", "moe", "residual"]))
    if kind == "named":
        return draw(NAMED)
    if kind == "proxy":
        return {"base": draw(NAMED), "layers": draw(st.integers(1, 12))}
    heads = draw(st.sampled_from([8, 12, 16]))
    plain = {
        "layers": draw(st.integers(1, 12)),
        "hidden": heads * draw(st.sampled_from([1, 64, 96])),
        "heads": heads,
        "kv_heads": draw(st.sampled_from([1, heads])),
        "vocab": draw(st.integers(1, 50000)),
    }
    if kind == "gpt":
        return plain
    experts = draw(st.sampled_from([1, 4, 16, 16]))
    plain["moe"] = {
        "experts": experts,
        "top_k": draw(st.integers(1, min(3, experts))),
        "expert_intermediate": draw(st.integers(1, 600)),
        "gated": draw(st.booleans()),
        "shared_intermediate": draw(st.sampled_from([0, 128])),
        "residual_intermediate": 256 if kind == "residual" else 0,
    }
    plain["pattern"] = "attention+moe_residual" if kind == "residual" else "attention+moe"
    return plain


def has_experts(model: Any) -> bool:
    """True when expert parallelism makes sense."""
    name = model if isinstance(model, str) else model.get("base", "")
    return "moe" in model or name in ("mixtral-8x7b", "deepseek-v3", "deepseek-moe-16b", "jamba-v0.1", "gpt-oss-20b")


@st.composite
def layouts(draw: st.DrawFn, model: Any) -> tuple[dict[str, Any], int, int]:
    """Degrees that multiply to the GPUs, data-parallel replicas, micro-batches that the schedule takes."""
    layout: dict[str, Any] = {key: draw(POWER) for key in ("tp", "pp", "cp")}
    dp = draw(POWER)
    if has_experts(model):
        layout["ep"] = draw(st.sampled_from([e for e in (1, 2, 4, 8, 16) if layout["tp"] * layout["cp"] * dp % e == 0]))
        layout["etp"] = layout["tp"] if draw(st.integers(0, 3)) == 0 and dp * layout["cp"] % layout["ep"] == 0 else 1
    layout["zero"] = draw(st.integers(0, 3))
    layout["sequence_parallel"] = draw(st.booleans())
    choices = ["gpipe", "1f1b", "zb-h1", "interleaved", "dualpipe", *V_SHAPED] if layout["pp"] > 1 else [None, "1f1b"]
    schedule = draw(st.sampled_from(choices))
    if schedule:
        layout["schedule"] = schedule
    if schedule == "interleaved":
        layout["vpp"] = draw(st.integers(1, 3))
    elif schedule in V_SHAPED:
        layout["vpp"] = 2
    micro_batches = draw(st.integers(1, 20))
    return layout, dp, 2 * (layout["pp"] + micro_batches) if schedule == "dualpipe" else micro_batches


WRONG = st.sampled_from(
    [
        ("cluster", "gpus", 24),
        ("layout", "vpp", 2),
        ("layout", "tp", 3),
        ("layout", "ep", 5),
        ("train", "global_batch", 37),
    ]
)


@st.composite
def scenarios(draw: st.DrawFn) -> dict[str, Any]:
    """Mostly sensible, now and then just wrong."""
    model = draw(models())
    layout, dp, micro_batches = draw(layouts(model))
    micro_batch = draw(st.sampled_from([1, 1, 2]))
    fp = ["bf16", "bf16", "bf16", "fp16", "fp8", "mxfp8", "nvfp4"]
    scenario: dict[str, Any] = {
        "model": model,
        "cluster": {
            "node": draw(st.sampled_from(["dgx-h100", "dgx-a100", "dgx-b200", "gb200-nvl72", "hgx-h800", *RARE])),
            "gpus": layout["tp"] * layout["pp"] * layout["cp"] * dp,
        },
        "layout": layout,
        "train": {
            "micro_batch": micro_batch,
            "global_batch": dp * micro_batch * micro_batches,
            "seq_len": draw(st.sampled_from([8, 24, 128, 2048, 4096])),
            "precision": draw(st.sampled_from(fp)),
            "recompute": draw(st.sampled_from(["none", "selective", "full", ["mlp", "moe_act"]])),
            "capacity_factor": draw(st.sampled_from([None, None, 1.0, 0.3])),
        },
        "routing": draw(st.sampled_from(["balanced", {"lognormal": 0.65}, {"lognormal": 3.0, "seed": 5}])),
        "stack": draw(st.sampled_from([None, *stack_names()])),
        "release": draw(st.sampled_from([None, "26.04", "25.09", "99.99"])),
    }
    if draw(st.integers(0, 9)) == 0:
        part, key, value = draw(WRONG)
        scenario[part][key] = value
    return scenario


RARE = ("summit-node", "mi300x-platform", "pcie-8x-l40s", "gh200-node")


def check_prediction(p: Prediction) -> None:
    """The laws that every prediction must pass."""
    assert isfinite(p.step_time_s) and 0.0 < p.low_s < p.step_time_s < p.high_s
    assert abs(sum(p.breakdown_s.values()) - p.step_time_s) <= 1e-9 * p.step_time_s
    assert set(p.step.breakdown_s) <= set(CATEGORIES)
    assert all(seconds >= -1e-12 * p.step_time_s for seconds in p.breakdown_s.values()), p.breakdown_s
    assert all(bound <= p.step_time_s for bound in p.lower_bounds_s.values()), p.lower_bounds_s
    assert 0.0 < p.mfu < 1.0 and abs(sum(p.sources.values()) - 1.0) < 1e-9
    assert all(min(m.by_kind().values()) >= 0.0 for m in p.memory)
    assert len(p.memory) == p.resolved.job.layout.pp
    assert 0.0 <= p.dropped_share < 1.0
    check_timeline(p.step.timeline)
    json.dumps(p.to_dict(), allow_nan=False)


@settings(max_examples=examples(0.5))
@given(scenarios())
def test_a_prediction_or_a_refusal_in_one_line(scenario: dict[str, Any]) -> None:
    try:
        prediction = predict_train(scenario)
    except Refusal as refusal:
        message = str(refusal)
        assert message and "\n" not in message and len(message) < 600
        return
    assert prediction.memory_fits
    check_prediction(prediction)


@settings(max_examples=examples(0.1))
@given(scenarios())
def test_the_laws_hold_for_jobs_too_large_for_their_gpus_too(scenario: dict[str, Any]) -> None:
    try:
        prediction = predict_train(scenario, check_memory=False)
    except Refusal:
        return
    check_prediction(prediction)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = ("model", "cluster", "layout", "train", "routing", "stack", "release", "profile", "price_usd_per_gpu_hour")


@settings(max_examples=examples(0.1))
@given(where=st.sampled_from(KEYS), inside=st.text(max_size=10) | st.none(), junk=JUNK)
def test_junk_anywhere_is_refused_or_harmless(where: str, inside: str | None, junk: Any) -> None:
    scenario: dict[str, Any] = {
        "model": "mpt-1b",
        "cluster": {"node": "dgx-h100", "gpus": 8},
        "layout": {},
        "train": {"global_batch": 16, "seq_len": 512},
    }
    if inside is None or not isinstance(scenario.get(where), dict):
        scenario[where] = junk
    else:
        scenario[where][inside] = junk
    try:
        prediction = predict_train(scenario, check_memory=False)
    except Refusal as refusal:
        assert "\n" not in str(refusal) and len(str(refusal)) < 600
        return
    check_prediction(prediction)
