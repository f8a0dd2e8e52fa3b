"""Rows as scenarios: spellings, what is assumed where a cell is empty, and that nothing else is read."""

from __future__ import annotations

import pytest

from moesim.calibrate.rows.files import published_rows
from moesim.calibrate.rows.kinds import HIDDEN, TRAINING
from moesim.calibrate.rows.recomputed import recompute_of
from moesim.calibrate.rows.training import precision_of, scenario_of, stack_of
from moesim.sim.question.scenario import ScenarioError, parse_scenario
from moesim.sim.software.stack import parse_release

ROW = {"model": "mistral-7b", "gpu": "H100", "gpus": "8", "seq_len": "4096", "gbs": "64", "pp": "1"}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("BF16", "bf16"),
        ("amp_bf16", "bf16"),
        ("", "bf16"),
        ("FP16 mixed", "fp16"),
        ("FP8", "fp8"),
        ("MXFP8", "mxfp8"),
        ("FP8-MX", "mxfp8"),
        ("NVFP4", "nvfp4"),
        ("FP8 1x128/128x128 tiles", "fp8_block"),
    ],
)
def test_precision(text: str, name: str) -> None:
    assert precision_of(text) == name


@pytest.mark.parametrize(
    ("text", "modules"),
    [
        ("", ["none"]),
        ("none", ["none"]),
        ("full (activation checkpointing)", ["full"]),
        ("selective", ["selective"]),
        ("mla_up_proj, moe_act", ["mla_up_proj", "moe_act"]),
        ("core_attn", ["core_attention"]),
    ],
)
def test_recompute(text: str, modules: list[str]) -> None:
    assert recompute_of(text) == modules


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("Megatron-Bridge 26.04.01", "26.04"),
        ("NeMo 24.07", "24.07"),
        ("DGXC 2025H2", "25.09"),
        ("DGXC dev", "25.01"),
        ("PyTorch 2.11.03", ""),
        ("NCCL 2.27.03", ""),
        ("", ""),
    ],
)
def test_release(text: str, release: str) -> None:
    assert parse_release(text) == release


@pytest.mark.parametrize(
    ("cells", "stack"),
    [
        ({"zero": "FULL_SHARD"}, "composer-fsdp"),
        ({"zero": "FSDP2"}, "torchtitan"),
        ({"release": "NeMo 24.07"}, "megatron-tuned"),
        ({"release": "Megatron-Core 0.12"}, "megatron-core"),
        ({"release": "DGXC later"}, "megatron-tuned"),
        ({"schedule": "DualPipe"}, "hai-llm"),
        ({"stack": "megatron-core"}, "megatron-core"),
    ],
)
def test_stack(cells: dict[str, str], stack: str) -> None:
    assert stack_of({**ROW, **cells})[0] == stack


@pytest.mark.parametrize(
    ("text", "schedule"),
    [("zero-bubble", "zb-h1"), ("ZBV-formatted", "zb-v"), ("v-half", "v-half"), ("v-min", "v-min"), ("1F1B", None)],
)
def test_schedule(text: str, schedule: str | None) -> None:
    row = {**ROW, "pp": "2", "vpp": "2" if text.lower().startswith(("zbv", "v-")) else "1", "schedule": text}
    assert scenario_of(row)[0]["layout"].get("schedule") == schedule


@pytest.mark.parametrize("column", ["model", "gpu", "gpus", "seq_len", "gbs"])
def test_needed_cells(column: str) -> None:
    with pytest.raises(ScenarioError, match=column):
        scenario_of({**ROW, column: " "})


@pytest.mark.parametrize("text", ["eight", "1.5", "-1"])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(ScenarioError, match="gpus"):
        scenario_of({**ROW, "gpus": text})


def test_pipeline_width_follows_from_dp_or_is_refused() -> None:
    row = {**ROW, "gpus": "16", "tp": "2", "dp": "2", "pp": ""}
    assert scenario_of(row)[0]["layout"]["pp"] == 4
    with pytest.raises(ScenarioError, match="pp"):
        scenario_of({**row, "dp": ""})


def test_empty_cells_are_named_as_assumptions() -> None:
    _, assumed = scenario_of(ROW)
    text = " ".join(assumed)
    assert "stack" in text and "micro_batch" in text


def test_inline_sizes_and_proxies() -> None:
    inline = {"model": "gpt", "layers": "24", "hidden": "2048", "heads": "16", "vocab": "50257"}
    assert scenario_of({**ROW, **inline})[0]["model"]["hidden"] == 2048
    assert scenario_of({**ROW, "layers": "4"})[0]["model"] == {"base": "mistral-7b", "layers": 4}
    assert scenario_of(ROW)[0]["model"] == "mistral-7b"


def test_every_published_row_is_a_scenario_or_says_why_not() -> None:
    refused = []
    for file in (f for f in published_rows() if f.table is TRAINING):
        for row in file.rows:
            try:
                parse_scenario(scenario_of(row)[0])
            except ScenarioError as error:
                refused.append(str(error))
    assert len(refused) <= 1


def test_hidden_columns_are_not_read() -> None:
    for file in (f for f in published_rows() if f.table is TRAINING):
        for row in file.rows[::7]:
            other = dict(row) | {key: "123456" for key in HIDDEN}
            try:
                expected = scenario_of(row)
            except ScenarioError:
                continue
            assert scenario_of(other) == expected


@pytest.mark.parametrize(
    ("text", "routing"),
    [
        ("", "balanced"),
        ("force_balanced", "balanced"),
        ("force_balanced, capacity 1", "balanced"),
        ("natural", None),  # the process that scenarios assume where they say nothing
        ("counts load.npz", {"counts": "load.npz"}),
    ],
)
def test_routing(text: str, routing: object) -> None:
    assert scenario_of({**ROW, "routing": text})[0].get("routing") == routing


@pytest.mark.parametrize("text", ["by moonlight", "unbalanced", "natural?"])
def test_routing_that_nobody_knows_is_refused(text: str) -> None:
    with pytest.raises(ScenarioError, match="is not known; write force_balanced, natural or counts FILE"):
        scenario_of({**ROW, "routing": text})
