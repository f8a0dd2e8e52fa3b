"""Paths in a scenario start at the folder of its file, wherever the command is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from moesim.sim.question.paths import for_folder, from_folder
from moesim.sim.question.scenario import ScenarioError, load_scenario, read_mapping
from moesim.sim.train.predict import predict_train

MODEL = {"layers": 4, "hidden": 512, "heads": 8, "vocab": 32000}
ASKED: dict[str, Any] = {
    "model": "m.yaml", "cluster": {"node": "dgx-h100", "gpus": 8}, "train": {"global_batch": 8, "seq_len": 512},
}  # fmt: skip


def written(folder: Path, asked: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "m.yaml").write_text(yaml.safe_dump(MODEL))
    (folder / "s.yaml").write_text(yaml.safe_dump(asked))
    return folder / "s.yaml"


def test_files_beside_the_scenario_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "sub", ASKED)
    monkeypatch.chdir(tmp_path)
    near = predict_train(Path("sub/s.yaml")).step_time_s
    monkeypatch.chdir("/")
    assert predict_train(file).step_time_s == near
    assert read_mapping(file)["model"] == str(tmp_path / "sub" / "m.yaml")


def test_a_scenario_in_the_current_folder_is_as_it_was_written() -> None:
    raw = {"model": "m.yaml", "routing": {"counts": "c.npz"}}
    assert from_folder(raw, Path()) is raw


def test_every_key_that_holds_a_path_starts_at_the_folder(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", counts=np.ones((2, 4)))
    raw = {
        "model": {"base": "m.yaml"}, "profile": "p.json", "corrections": "own.json", "routing": {"counts": "c.npz"},
        "cluster": {"hardware": "h.yaml", "node": "dgx-h100"},
        "serve": {"requests": {"file": "r.csv"}, "speculative": {"model": "d.yaml"}},
    }  # fmt: skip
    found = from_folder(raw, Path("a/b"))
    assert found == {
        "model": {"base": "a/b/m.yaml"}, "profile": "a/b/p.json", "corrections": "a/b/own.json",
        "routing": {"counts": "a/b/c.npz"}, "cluster": {"hardware": "a/b/h.yaml", "node": "dgx-h100"},
        "serve": {"requests": {"file": "a/b/r.csv"}, "speculative": {"model": "a/b/d.yaml"}},
    }  # fmt: skip


@pytest.mark.parametrize(
    "raw",
    [
        {"model": "mixtral-8x7b", "profile": "h100-sxm"},
        {"model": "Qwen/Qwen3-30B-A3B"},
        {"model": "/somewhere/m.yaml"},
        {"model": 3, "routing": "balanced", "cluster": {"hardware": {"gpus": {}}}, "serve": None},
        ["model"],
    ],
)
def test_names_whole_paths_and_what_is_no_path_stay(raw: Any) -> None:
    assert from_folder(raw, Path("a/b")) == raw


def test_a_file_in_the_current_folder_is_not_taken_by_accident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, ASKED)
    file = written(tmp_path / "sub", ASKED)
    (tmp_path / "sub" / "m.yaml").unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScenarioError, match=r"looked for beside the scenario, in sub, .* in the current folder"):
        load_scenario(file.relative_to(tmp_path))


def test_what_is_written_into_another_folder_finds_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "sub", ASKED)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    raw = read_mapping(file.relative_to(tmp_path))
    moved = for_folder({**raw, "profile": "h100-sxm"}, Path("out"))
    assert moved["model"] == "../sub/m.yaml" and moved["profile"] == "h100-sxm"
    assert from_folder(moved, Path("out"))["model"] == "out/../sub/m.yaml"
    (tmp_path / "out" / "t.yaml").write_text(yaml.safe_dump(moved))
    assert predict_train(Path("out/t.yaml")).step_time_s == predict_train(file).step_time_s
