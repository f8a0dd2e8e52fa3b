"""Rows of serving runs become scenarios by rules of their workload columns; hidden columns never reach a prediction."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesim.calibrate.record.summary import summarise
from moesim.calibrate.record.validation import validate
from moesim.calibrate.rows.files import blinded, load_rows, published_rows
from moesim.calibrate.rows.kinds import HIDDEN, SERVING
from moesim.calibrate.rows.predict_serving import predict_serving_row
from moesim.calibrate.rows.serving import engine_of, load_of, serving_row
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import ScenarioError

ROW = {
    "gpu": "H100 SXM", "gpus": "2", "model": "llama-3.1-70b", "precision": "fp8", "engine": "vllm",
    "engine_version": "", "tp": "2", "pp": "1", "ep": "1", "attention_dp": "1", "concurrency": "8",
    "arrival": "closed loop at fixed concurrency", "isl": "1024", "osl": "1024", "prefill_workers": "",
}  # fmt: skip


def test_published_rows_are_read_and_their_answers_hidden() -> None:
    file = next(f for f in published_rows() if f.table is SERVING)
    assert len(file.rows) == 2058 and file.unknown == ()
    for row in file.rows[::100]:
        seen = blinded(row)
        assert not set(seen) & set(HIDDEN)
        assert set(seen) <= set(SERVING.workload)


def test_lengths_vary_in_public_runs_and_not_in_the_vendors_own() -> None:
    assert load_of(ROW)[0]["jitter"] == 0.2
    assert load_of({**ROW, "isl": "2000"})[0]["jitter"] == 0.0
    assert load_of({**ROW, "engine": "trtllm", "engine_version": "1.0.0rc3"})[0]["jitter"] == 0.0


def test_engines_by_version() -> None:
    assert engine_of({**ROW, "engine": "trtllm", "engine_version": "0.17"}) == "trtllm-engine"
    assert engine_of({**ROW, "engine": "trtllm", "engine_version": "0.8.1", "prefill_workers": "2"}) == "trtllm"
    assert engine_of({**ROW, "engine": "trtllm", "engine_version": ""}) == "trtllm"
    with pytest.raises(ScenarioError, match="'tgi' is not known"):
        engine_of({**ROW, "engine": "tgi"})


def test_tokens_arrive_in_groups_on_blackwell_with_sglang_only() -> None:
    def groups(**cells: str) -> int:
        asked = serving_row({**ROW, **cells})[0]["serve"]["engine"]
        return int(asked.get("stream_tokens", 1))

    assert groups() == 1
    old, new = groups(engine="sglang", gpu="B200"), groups(engine="sglang", gpu="B200", engine_version="0.5.10.post1")
    assert old > new > 1
    assert groups(engine="sglang", gpu="H200 SXM") == 1


def test_throughput_follows_from_latency_as_the_column_says() -> None:
    values = predict_serving_row(ROW).values
    ttft, tpot = values["ttft_ms"] / 1e3, values["tpot_ms"] / 1e3
    assert values["derived_tokens_per_s_per_gpu"] == pytest.approx(8 * 1024 / (ttft + 1023 * tpot) / 2)


def test_hidden_cells_change_nothing() -> None:
    base = predict_serving_row(ROW).values
    loud = {**ROW, "id": "x", "notes": "ttft 5", "ttft_ms": "1", "tpot_ms": "1", "mtp": "likely", "split": "test"}
    assert predict_serving_row(loud).values == base


def test_validate_takes_a_file_of_serving_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    columns = [*ROW, "id", "split", "tpot_ms", "ttft_ms"]
    good = {**ROW, "id": "a", "split": "test", "tpot_ms": "15", "ttft_ms": "200"}
    bad = {**ROW, "id": "b", "split": "test", "tpot_ms": "15", "ttft_ms": "", "tp": "3"}
    lines = [",".join(columns)] + [",".join(row[c] for c in columns) for row in (good, bad)]
    path.write_text("\n".join(lines) + "\n")
    assert load_rows(path).metrics == ("tpot_ms", "ttft_ms")
    records = validate(path).records
    assert [(r.id, r.metric, r.status) for r in records] == [
        ("a", "tpot_ms", "ok"), ("a", "ttft_ms", "ok"), ("b", "tpot_ms", "refused"), ("b", "ttft_ms", "refused"),
    ]  # fmt: skip
    assert "tp=3" in records[2].reason
    for record in records[:2]:
        assert record.low is not None and record.predicted is not None and record.high is not None
        assert record.low < record.predicted < record.high
    summary = summarise(records)
    assert (summary.rows, summary.answered) == (2, 1)
    assert [line.value for line in summary.of("family of serving", "tpot_ms")] == ["dense, closed loop"]


def test_a_row_that_ran_is_given_the_memory_it_needed_and_no_more() -> None:
    tight = {**ROW, "gpu": "B200", "gpus": "4", "model": "deepseek-v3", "engine": "sglang", "tp": "4"}
    result = predict_serving_row(tight)
    assert any("needed to fit" in line for line in result.resolved.assumptions)
    assert not any("needed to fit" in line for line in predict_serving_row(ROW).resolved.assumptions)
    with pytest.raises(DoesNotFit):
        predict_serving_row({**tight, "gpus": "2", "tp": "2"})
