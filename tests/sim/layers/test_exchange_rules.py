"""One builder of expert exchanges: what its rule sets agree on, where they differ, and that nobody else builds one."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from moesim.hwmodels.work import ExpertExchange, Group
from moesim.sim.layers.exchange import (
    MEASURED,
    ONE_TRANSFER,
    SERVING,
    STAGES,
    TRAINING,
    ExchangeRules,
    ExpertTokens,
    Stage,
    expert_exchange,
    payload_bytes,
)

ROOT = Path(__file__).parents[3]
RULES = {"training": TRAINING, "serving": SERVING, "one transfer": ONE_TRANSFER, "measured": MEASURED}
SENT = ExpertTokens(
    tokens=4096.0, top_k=8, experts=256, width=7168, dtype="bf16", group=Group(64, 8), kernel="normal",
    node_copies=3.5, rank_copies=6.6, imbalance=1.25,
)  # fmt: skip


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("stage", STAGES)
def test_tokens_in_16_bits_weigh_the_same_for_all(rules: ExchangeRules, stage: Stage) -> None:
    work = expert_exchange(rules, stage, SENT)
    assert work.payload_bytes == 2.0 * 7168 and not work.scaled and work.deduplicated
    assert (work.node_copies, work.rank_copies, work.imbalance) == (3.5, 6.6, 1.25)


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_only_the_rules_differ(rules: ExchangeRules) -> None:
    same = expert_exchange(ONE_TRANSFER, "dispatch", SENT)
    work = expert_exchange(rules, "dispatch", SENT)
    assert replace(work, sms=same.sms, experts=same.experts) == same


@pytest.mark.parametrize("dtype", ["bf16", "fp8", "fp8_block", "mxfp8", "int8", "w8a16", "int4", "mxfp4", "nvfp4"])
def test_tokens_of_every_format_of_weights_can_be_sent_in_serving(dtype: str) -> None:
    """Weight-only experts take tokens in 16 bits, which have no scales; all others 8 bits with scales."""
    narrow = dtype not in ("bf16", "w8a16")
    there = expert_exchange(SERVING, "dispatch", replace(SENT, dtype=dtype))
    assert there.payload_bytes == (1.03 if narrow else 2.0) * 7168 and there.scaled == narrow
    assert payload_bytes(SERVING, "combine", replace(SENT, dtype=dtype)) == 2.0 * 7168


def test_what_8_bits_weigh_and_what_their_scales_cost() -> None:
    eight = {name: replace(SENT, dtype="fp8_block" if rules in (TRAINING, SERVING) else "fp8", kernel="low_latency")
             for name, rules in RULES.items()}  # fmt: skip
    there = {name: expert_exchange(rules, "dispatch", eight[name]) for name, rules in RULES.items()}
    back = {name: expert_exchange(rules, "combine", eight[name]) for name, rules in RULES.items()}
    each = {name: work.payload_bytes / 7168 for name, work in there.items()}
    assert each == pytest.approx({"training": 1.03125, "serving": 1.03, "one transfer": 1.03125, "measured": 1.03125})
    assert {work.payload_bytes for work in back.values()} == {2.0 * 7168}
    assert {name: (there[name].scaled, back[name].scaled) for name in RULES} == {
        "training": (False, False), "serving": (True, True), "one transfer": (True, False), "measured": (True, True),
    }  # fmt: skip


def test_copies_per_expert_and_multiprocessors() -> None:
    def built(rules: ExchangeRules, kernel: str) -> ExpertExchange:
        return expert_exchange(rules, "dispatch", replace(SENT, kernel=kernel))

    kernels = ("all_to_all", "low_latency", "normal")
    per_expert = {name: [k for k in kernels if not built(rules, k).deduplicated] for name, rules in RULES.items()}
    assert per_expert == {
        "training": ["all_to_all"], "serving": ["low_latency"], "one transfer": [], "measured": [],
    }  # fmt: skip
    assert {name: built(rules, "normal").sms for name, rules in RULES.items()} == {
        "training": 0, "serving": 0, "one transfer": 24, "measured": 24,
    }  # fmt: skip


def test_runs_in_fp32_send_four_bytes_and_unknown_formats_are_no_guess() -> None:
    assert payload_bytes(TRAINING, "combine", replace(SENT, plain_bytes=4.0)) == 4.0 * 7168
    with pytest.raises(KeyError, match="nvfp4"):
        payload_bytes(TRAINING, "dispatch", replace(SENT, dtype="nvfp4"))


def test_nobody_else_builds_one() -> None:
    builders = [
        str(path.relative_to(ROOT))
        for room in ("hwmodels", "sim", "calibrate", "reports")
        for path in sorted((ROOT / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ExpertExchange"
    ]
    assert builders == ["sim/layers/exchange.py"]
