"""`moesim compare`: tables, JSON, the same bytes twice, one line and exit code 2 for a bad question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moesim.reports.cli.app import run

SERVED = """model: gpt-oss-20b
cluster: {node: dgx-h100, gpus: 2}
layout: {tp: 1}
serve:
  engine: vllm
  requests: {kind: closed, concurrency: 8, count: 40, input_tokens: 400, output_tokens: 100}
"""


@pytest.fixture
def served(tmp_path: Path) -> Path:
    path = tmp_path / "served.yaml"
    path.write_text(SERVED)
    return path


def test_training_beside_its_twin(capsys: pytest.CaptureFixture[str], scenario_file: Path) -> None:
    assert run(["compare", str(scenario_file), "--twin", "iso-active", "--no-break-even"]) == 0
    out = capsys.readouterr().out
    assert "cheapest per token" in out and "iso-active twin" in out and "break-even" not in out
    for title in ("training step", "memory per GPU", "GPUs for the first's tokens/s", "kWh per million tokens"):
        assert title in out


def test_json_is_complete_and_the_same_twice(capsys: pytest.CaptureFixture[str], served: Path) -> None:
    answers = []
    for _ in range(2):
        assert run(["compare", str(served), "--twin", "iso-quality", "--json"]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    comparison = json.loads(answers[0])
    assert [c["serve"]["gpus"] for c in comparison["columns"]] == [2, 2]
    assert comparison["quality"][0]["low"] < comparison["quality"][0]["parameters"] < comparison["quality"][0]["high"]
    for point in comparison["break_even"]:
        assert point["answer"] and point["low"] <= point["high"]
    assert {p["axis"] for p in comparison["break_even"]} >= {
        "clients at once",
        "prompt length",
        "HBM bandwidth",
        "traffic",
    }


def test_the_table_of_a_deployment_says_where_the_other_wins(capsys: pytest.CaptureFixture[str], served: Path) -> None:
    assert run(["compare", str(served), "--twin", "iso-total"]) == 0
    out = capsys.readouterr().out
    assert "serve: traffic" in out and "serve: clients at once" in out and "searched" in out


def test_whole_runs_and_upcycling(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "model: mixtral-8x7b\ncluster: {node: dgx-h100, gpus: 64}\nlayout: {pp: 4, vpp: 8, ep: 8}\n"
        "train: {global_batch: 256, seq_len: 4096}\n"
    )
    options = ["--tokens", "1e12", "--upcycled-from", "mistral-7b", "--no-break-even", "--twin", "iso-quality"]
    assert run(["compare", str(path), *options]) == 0
    out = capsys.readouterr().out
    assert "whole run, days" in out and "500.0 B tokens saved" in out and "WARNING" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--twin", "iso-actve"], "did you mean 'iso-active'"),
        ([], "give two, or a twin"),
        (["--twin", "iso-active", "--tokens", "many"], "is not a number"),
        (["nowhere.yaml"], "nowhere.yaml: scenario file does not exist"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], scenario_file: Path, arguments: list[str], says: str
) -> None:
    assert run(["compare", str(scenario_file), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and says in captured.err
