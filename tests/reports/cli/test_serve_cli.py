"""`moesim serve`: what it prints, draws and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moesim.reports.cli.app import run

TEXT = """model: gpt-oss-20b
cluster: {node: dgx-h100, gpus: 1}
serve:
  engine: vllm
  precision: fp4
  requests: {kind: closed, concurrency: 8, count: 40, input_tokens: 400, output_tokens: 50}
"""


@pytest.fixture
def served(tmp_path: Path) -> Path:
    path = tmp_path / "serve.yaml"
    path.write_text(TEXT)
    return path


def test_json_has_what_scripts_need(capsys: pytest.CaptureFixture[str], served: Path) -> None:
    assert run(["serve", str(served), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ttft_s"]["mean"] > 0 and answer["tpot_s"]["p99"] >= answer["tpot_s"]["p50"] > 0
    assert answer["label"] == "stable" and answer["kv_blocks"] > 0
    assert answer["cost"]["usd_per_million_output_tokens"] > 0
    times = answer["over_time"]["time_s"]
    assert times == sorted(times)


def test_the_same_question_gives_the_same_bytes(capsys: pytest.CaptureFixture[str], served: Path) -> None:
    answers = []
    for _ in range(2):
        assert run(["serve", str(served), "--json"]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def test_table_and_figure(capsys: pytest.CaptureFixture[str], served: Path, tmp_path: Path) -> None:
    picture = tmp_path / "serve.png"
    assert run(["serve", str(served), "--figure", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "first token (TTFT)" in out and "output tokens/s per GPU" in out and "assumptions" in out
    assert picture.stat().st_size > 20_000


def test_a_trace_from_a_file(capsys: pytest.CaptureFixture[str], served: Path, tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,100,10\n1,100,10\n2,50,5\n")
    assert run(["serve", str(served), "--json", "--requests", str(trace)]) == 0
    assert json.loads(capsys.readouterr().out)["requests"] == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("engine: vllm", "engine: vlllm"), "unknown engine 'vlllm'; nearest are vllm ("),
        (("concurrency: 8", "concurrencyy: 8"), "did you mean 'concurrency'"),
        (("gpt-oss-20b", "deepseek-v3"), "does not fit"),
        (("input_tokens: 400", "input_tokens: 0"), "input_tokens"),
        (("kind: closed", "kind: clsed"), "serve.requests.kind"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], served: Path, change: tuple[str, str], says: str
) -> None:
    served.write_text(TEXT.replace(*change))
    assert run(["serve", str(served)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and says in captured.err


def test_a_scenario_of_training_is_told_what_it_lacks(capsys: pytest.CaptureFixture[str], scenario_file: Path) -> None:
    assert run(["serve", str(scenario_file)]) == 2
    assert "add serve: {engine: vllm" in capsys.readouterr().err
