"""Published recipes: facts that load, and rows that find theirs."""

from __future__ import annotations

import csv
import io
from importlib.resources import files

from moesim.calibrate.rows.recipes import find_recipe
from moesim.calibrate.rows.training import scenario_of
from moesim.sim.layout.layout import Layout, check_layout
from moesim.sim.model.catalogue import load_model
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.question.sections import RECOMPUTE_MODULES
from moesim.sim.train.job import resolve

SHAPE = {"gpus": 256, "tp": 1, "pp": 16, "cp": 1, "ep": 8, "mbs": 1, "gbs": 2048}
ROW = {
    "model": "deepseek-v3", "gpu": "B200", "gpus": "256", "seq_len": "4096", "gbs": "2048", "mbs": "1", "pp": "16",
    "ep": "8", "precision": "MXFP8", "release": "Megatron-Bridge 25.11",
}  # fmt: skip


def test_every_recipe_is_a_layout_of_its_model() -> None:
    text = files("moesim.calibrate").joinpath("published", "recipes.csv").read_text(encoding="utf-8")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert len(lines) > 300
    for line in lines:
        degrees = {key: int(line[key]) for key in ("gpus", "tp", "pp", "vpp", "cp", "ep")}
        schedule = "interleaved" if degrees["vpp"] > 1 else "1f1b"
        check_layout(Layout(**degrees, schedule=schedule), load_model(line["model"]))
        assert set(line["recompute"].split()) <= set(RECOMPUTE_MODULES)


def test_the_newest_recipe_not_younger_than_the_run_is_taken() -> None:
    old, new = (
        find_recipe("deepseek-v3", "B200", "mxfp8", f"Megatron-Bridge {release}", SHAPE)
        for release in ("25.11", "26.04")
    )
    assert old is not None and new is not None
    assert (old.stack["dispatcher"], new.stack["dispatcher"]) == ("alltoall", "hybridep")
    assert find_recipe("deepseek-v3", "B200", "mxfp8", "NeMo 24.07", SHAPE) is None
    assert find_recipe("deepseek-v3", "B200", "mxfp8", "Megatron-Bridge 26.04", {**SHAPE, "pp": 4}) is None


def test_a_row_takes_what_it_leaves_out_from_its_recipe() -> None:
    scenario, assumed = scenario_of(ROW)
    assert scenario["train"]["recompute"] == ["mla_up_proj"]
    assert "recompute = mla_up_proj (recipe of release 25.09)" in assumed
    stack = resolve(parse_scenario(scenario)).job.stack
    assert (stack.cuda_graphs, stack.ep_overlap, stack.dispatcher) == ("none", "none", "alltoall")


def test_what_a_row_states_wins() -> None:
    scenario, _ = scenario_of({**ROW, "recompute": "full", "vpp": "2"})
    assert scenario["train"]["recompute"] == ["full"]
    assert scenario["layout"]["vpp"] == 2
