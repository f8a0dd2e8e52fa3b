"""Results as files: a line a request, and the summaries that benchmarks write, from one run and equal to its answer."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.files.whole import OutputError
from moesim.refusal import MachineFailure
from moesim.reports.results import check_records, records, result_asked, write_records, write_result
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.prediction import ServePrediction
from moesim.traces.request_files import load_requests


@pytest.fixture(scope="module")
def served() -> ServePrediction:
    requests = {
        "kind": "poisson",
        "rate_per_s": 8,
        "count": 120,
        "input_tokens": 300,
        "output_tokens": 40,
        "jitter": 0.9,
    }
    serve = {"engine": "vllm", "requests": requests}
    return predict_serve({"model": "llama-3.1-8b", "cluster": {"node": "dgx-h100", "gpus": 1}, "serve": serve})


def written(served: ServePrediction, tool: str, tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "result.json"
    write_result(served, tool, path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_line_for_every_request(served: ServePrediction, tmp_path: Path) -> None:
    write_records(served, tmp_path / "r.csv")
    write_records(served, tmp_path / "r.jsonl")
    with (tmp_path / "r.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    objects = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert len(rows) == len(objects) == served.requests == 120
    assert [list(row) for row in rows] == [list(each) for each in objects]
    assert {key: str(value) for key, value in objects[7].items()} == rows[7]
    each = objects[7]
    assert each["finish_s"] == pytest.approx(each["arrival_s"] + each["e2e_s"])
    assert each["e2e_s"] == pytest.approx(each["ttft_s"] + each["tpot_s"] * (each["output_tokens"] - 1))
    assert np.mean([e["ttft_s"] for e in objects]) == pytest.approx(served.ttft_s.mean)
    assert {e["status"] for e in objects} == {"served"}


def test_records_are_a_trace_again(served: ServePrediction, tmp_path: Path) -> None:
    for name in ("r.csv", "r.jsonl"):
        write_records(served, tmp_path / name)
        again = load_requests(tmp_path / name).requests
        assert again.input_tokens == tuple(served.run.log.prompt)
        assert again.output_tokens == tuple(served.run.log.output)


def test_one_token_has_no_time_per_further_token(served: ServePrediction) -> None:
    single = [row for row in records(served) if row["output_tokens"] == 1]
    assert all(row["tpot_s"] is None and row["ttft_s"] == row["e2e_s"] for row in single)


def test_vllm_says_what_the_answer_says(served: ServePrediction, tmp_path: Path) -> None:
    found = written(served, "vllm", tmp_path)
    assert found["completed"] == found["num_prompts"] == 120 and found["failed"] == 0
    assert found["mean_ttft_ms"] == pytest.approx(1e3 * served.ttft_s.mean)
    assert found["median_tpot_ms"] == pytest.approx(1e3 * served.tpot_s.p50)
    assert found["p99_e2el_ms"] == pytest.approx(1e3 * served.e2e_s.p99)
    assert found["output_throughput"] == pytest.approx(served.output_tokens_per_s)
    assert found["request_throughput"] == pytest.approx(served.requests_per_s)
    both = served.input_tokens_per_s + served.output_tokens_per_s
    assert found["total_token_throughput"] == pytest.approx(both)
    assert found["duration"] * found["output_throughput"] == pytest.approx(found["total_output_tokens"])
    assert found["request_rate"] == pytest.approx(8, rel=0.3) and found["burstiness"] == 1.0


def test_gaps_between_tokens_weigh_requests_by_their_tokens(served: ServePrediction, tmp_path: Path) -> None:
    found = written(served, "vllm", tmp_path)
    gaps = [row["tpot_s"] for row in records(served) for _ in range(row["output_tokens"] - 1)]
    assert found["mean_itl_ms"] == pytest.approx(1e3 * np.mean(gaps))
    assert found["std_itl_ms"] == pytest.approx(1e3 * np.std(gaps), rel=1e-6)
    assert found["median_itl_ms"] == pytest.approx(1e3 * np.median(gaps), rel=1e-3)
    assert found["p99_itl_ms"] == pytest.approx(1e3 * np.quantile(gaps, 0.99), rel=1e-3)


def test_sglang_spells_it_its_own_way(served: ServePrediction, tmp_path: Path) -> None:
    found, vllm = written(served, "sglang", tmp_path), written(served, "vllm", tmp_path)
    assert found["mean_e2e_latency_ms"] == vllm["mean_e2el_ms"] and found["p99_ttft_ms"] == vllm["p99_ttft_ms"]
    assert found["total_throughput"] == pytest.approx(vllm["total_token_throughput"])
    # Little's law: requests in the system are the rate times the time that each stays
    assert found["concurrency"] == pytest.approx(found["request_throughput"] * found["mean_e2e_latency_ms"] / 1e3)


def test_genai_perf_has_records_with_units(served: ServePrediction, tmp_path: Path) -> None:
    found = written(served, "genai-perf", tmp_path)
    first = found["time_to_first_token"]
    assert first["unit"] == "ms" and first["avg"] == pytest.approx(1e3 * served.ttft_s.mean)
    assert first["min"] <= first["p25"] <= first["p50"] <= first["p90"] <= first["p99"] <= first["max"]
    assert found["inter_token_latency"]["p50"] == pytest.approx(1e3 * served.tpot_s.p50)
    assert found["output_token_throughput"] == {"unit": "tokens/sec", "avg": pytest.approx(served.output_tokens_per_s)}
    assert found["input_sequence_length"]["avg"] == pytest.approx(np.mean(served.run.log.prompt))
    assert found["input_config"]["model"] == ["llama-3.1-8b"]


def test_files_are_written_whole_or_not_at_all(
    served: ServePrediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.csv"
    path.write_text("before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(MachineFailure, match="No space left"):
        write_records(served, path)
    assert path.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["r.csv"]


@pytest.mark.parametrize("text", ["vllm", "vllm=", "trtllm=x.json", "=x"])
def test_results_name_a_tool_and_a_file(text: str) -> None:
    with pytest.raises(OutputError, match="vllm, sglang, genai-perf, as vllm=result"):
        result_asked(text)


def test_places_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        result_asked(f"vllm={tmp_path / 'none' / 'r.json'}")
    with pytest.raises(OutputError, match="unknown format"):
        check_records(tmp_path / "r.txt")
    with pytest.raises(OutputError, match="folder"):
        check_records(tmp_path / "none" / "r.csv")
