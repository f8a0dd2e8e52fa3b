"""Memory of published training runs: what ran fitted, and what a row does not say of that is assumed aloud."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.calibrate.rows.cells import Row
from moesim.calibrate.rows.files import published_rows
from moesim.calibrate.rows.predict_training import prices_of_row
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.train.fitting import step_fits

# rows whose layout cannot have been the one in their source's table, and why
IMPOSSIBLE = {
    # one GPU with all of 70.6e9 weights and gradients in 16 bits: 263 of 277 GiB without state, logits or activations;
    # NVIDIA's recipe of that release splits it over pp=4 with vpp=5 and micro-batches of 1, as the next release's table
    "mb-26.02.01-pretrain-Llama3_70B-GB300-NVFP4-64g-gbs256-tok",
}
NO_LAYOUT = {"mcoremoe-DeepSeek-V3-H100-FP8_blockwise-1024g-4096-tok"}  # neither pp nor dp is stated


def training_rows() -> list[Row]:
    return [row for file in published_rows() if file.name.startswith("training") for row in file.rows]


def row_of(name: str) -> Row:
    return next(row for row in training_rows() if row["id"] == name)


def assumed(row: Row) -> list[str]:
    return [note for note in prices_of_row(row)[0].assumptions if "(not stated; needed to fit)" in note]


def test_every_published_run_fits_where_it_ran() -> None:
    """Memory only, no step is simulated."""
    rows, unfit, refused = training_rows(), set(), set()
    assert len(rows) > 1100
    for row in rows:
        try:
            if not step_fits(prices_of_row(row)[1]):
                unfit.add(row["id"])
        except ScenarioError:
            refused.add(row["id"])
    assert unfit == IMPOSSIBLE
    assert refused == NO_LAYOUT


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("megascale-t2-Megatron-LM-6144-12288-it", {"zero": "1"}),
        ("megascale-t2-Megatron-LM-768-256-it", {"zero": "1", "recompute": "core_attention"}),
        ("isca25-MRFT-iteration_s", {"recompute": "moe_act, layernorm, mla_up_proj"}),
        ("mcoremoe-Qwen3-235B-A22B-GB200-MXFP8-256g-4096-tok", {"offload_activations": "0.25"}),
    ],
)
def test_what_is_not_stated_is_the_least_that_fits(name: str, settings: dict[str, str]) -> None:
    assert assumed(row_of(name)) == [f"{key} = {value} (not stated; needed to fit)" for key, value in settings.items()]


def test_what_is_stated_stays() -> None:
    row: dict[str, Any] = {**row_of("megascale-t2-Megatron-LM-768-256-it"), "zero": "0", "recompute": "none"}
    resolved, prices = prices_of_row(row)
    assert not assumed(row)
    assert not step_fits(prices)
    assert any(note.startswith("it would not fit, whatever is assumed") for note in resolved.assumptions)
    assert assumed({**row, "zero": ""}) == ["zero = 1 (not stated; needed to fit)"]
    assert assumed({**row, "recompute": ""}) == ["recompute = full (not stated; needed to fit)"]


def test_a_row_that_fits_assumes_nothing() -> None:
    assert not assumed({**row_of("megascale-t2-Megatron-LM-768-256-it"), "zero": "1", "recompute": "full"})
