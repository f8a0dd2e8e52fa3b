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


def test_the_title_says_what_would_meet_limits_and_a_row_how_sure_a_percentile_is(
    capsys: pytest.CaptureFixture[str], served: Path
) -> None:
    sure = TEXT.replace("count: 40,", "jitter: 0.2, sure_of: {percentile: 90},").replace(
        "concurrency: 8", "concurrency: 90"
    )
    served.write_text(sure + "  slo: {ttft_s: 0.2, tpot_s: 0.006}\n")
    assert run(["serve", str(served)]) == 0
    out = capsys.readouterr().out
    assert "requests: misses its limits: " in out and "clients would meet them" in " ".join(out.split())
    assert "p90 of the first token, 95 % interval" in out and "are left out of latencies" in out
    assert run(["serve", str(served), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert 0 < answer["limits"]["meets_at_clients"] < 90 and answer["warmup_requests"] >= 90
    assert answer["percentiles"]["ttft_s"]["low"] < answer["percentiles"]["ttft_s"]["high"]


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


def test_records_and_results_are_written_beside_the_answer(
    capsys: pytest.CaptureFixture[str], served: Path, tmp_path: Path
) -> None:
    records, vllm, perf = (tmp_path / name for name in ("r.jsonl", "v.json", "g.json"))
    options = ["--records", str(records), "--result", f"vllm={vllm}", "--result", f"genai-perf={perf}"]
    assert run(["serve", str(served), "--json", *options]) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert "records: " in printed.err and "result as vllm writes it: " in printed.err
    assert len(records.read_text().splitlines()) == answer["requests"]
    assert json.loads(vllm.read_text())["mean_ttft_ms"] == pytest.approx(1e3 * answer["ttft_s"]["mean"])
    assert json.loads(perf.read_text())["request_latency"]["p99"] == pytest.approx(1e3 * answer["e2e_s"]["p99"])


def test_a_result_that_cannot_be_written_is_refused_at_once(
    capsys: pytest.CaptureFixture[str], served: Path, tmp_path: Path
) -> None:
    assert run(["serve", str(served), "--result", "trtllm=x.json"]) == 2
    assert "write TOOL=FILE with a tool of vllm, sglang, genai-perf" in capsys.readouterr().err
    assert run(["serve", str(served), "--records", str(tmp_path / "none" / "r.csv")]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    "load",
    [
        "{kind: sessions, concurrency: 4, count: 40, sessions: {turns: 4, think_s: 2, answer_tokens: 20}}",
        "{kind: sessions, rate_per_s: 1, count: 40, sessions: {branch: 0.2, tool_calls: 0.5, tool_s: 1}}",
        "{kind: reuse, count: 40}",
    ],
)
def test_conversations_are_served(capsys: pytest.CaptureFixture[str], tmp_path: Path, load: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(TEXT.split("  requests:")[0] + f"  requests: {load}\n")
    records = tmp_path / "r.jsonl"
    assert run(["serve", str(path), "--json", "--records", str(records)]) == 0
    answer = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    assert answer["requests"] == len(rows) == 40
    assert sum(row["cached_tokens"] for row in rows) > 0
    assert any("(not stated)" in line for line in answer["assumptions"])
