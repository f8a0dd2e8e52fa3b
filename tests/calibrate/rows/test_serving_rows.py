"""Rows of serving runs become scenarios by rules of their workload columns; hidden columns never reach a prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.calibrate.record.summary import summarise
from moesim.calibrate.record.validation import validate
from moesim.calibrate.rows.arrivals import BATCH, BURST, CLOSED, OFFLINE, RATE, Arrival, arrival_of
from moesim.calibrate.rows.files import blinded, load_rows, published_rows
from moesim.calibrate.rows.kinds import HIDDEN, SERVING
from moesim.calibrate.rows.predict_serving import predict_serving_row
from moesim.calibrate.rows.serving import engine_of, load_of, serving_row
from moesim.refusal import Refusal
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.serve.memory import memory_said
from moesim.sim.software.serving_engine import load_engine

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


def test_a_measured_row_is_the_mean_over_all_its_requests() -> None:
    """Its harness began with all clients at once, and printed that second too."""
    for cells in ({}, {"arrival": "offline"}, {"arrival": "poisson 3 req/s", "concurrency": ""}):
        assert load_of({**ROW, **cells})[0]["warmup"] == 0
    found = predict_serving_row(ROW)
    every = np.array(found.run.log.finish_s) - np.array(found.run.log.arrival_s)
    tokens = found.values["tpot_ms"] * (np.mean(found.run.log.output) - 1.0)
    assert found.values["ttft_ms"] + tokens == pytest.approx(float(every.mean()) * 1e3, rel=0.01)
    assert not any(line.startswith("warm-up") for line in found.resolved.assumptions)


def test_engines_by_version() -> None:
    def record(**cells: str) -> str:
        name, version = engine_of({**ROW, **cells})
        return load_engine(name, version=version).name

    assert record(engine="trtllm", engine_version="0.17") == "trtllm-engine"
    assert record(engine="trtllm", engine_version="1.0.0rc3") == "trtllm-1.0"
    assert record(engine="trtllm", engine_version="1.1.0rc2") == "trtllm"
    assert record(engine="trtllm", engine_version="0.8.1", prefill_workers="2") == "trtllm"
    assert record(engine="trtllm", engine_version="") == "trtllm"
    assert record(engine="vllm", engine_version="0.7.3") == "vllm-0"
    assert record(engine="vllm", engine_version="nightly-5b8c") == "vllm"
    with pytest.raises(ScenarioError, match="'tgi' is not known"):
        engine_of({**ROW, "engine": "tgi"})


@pytest.mark.parametrize(
    ("text", "clients", "kind", "rate", "count"),
    [
        ("QPS 8", "", RATE, 8.0, None),
        ("8 req/s", "64", RATE, 8.0, None),
        ("rate 8", "", RATE, 8.0, None),
        ("request rate = 2.5", "", RATE, 2.5, None),
        ("5 requests per second", "", RATE, 5.0, None),
        ("5 rps", "", RATE, 5.0, None),
        ("Poisson 5/s, 300 prompts", "", RATE, 5.0, 300),
        ("120 requests per minute", "", RATE, 2.0, None),
        ("inf", "200", BURST, 0.0, 200),
        ("request rate inf", "200", BURST, 0.0, 200),
        ("all at once (INF)", "500", BURST, 0.0, 500),
        ("1000 prompts at once", "", BURST, 0.0, 1000),
        ("1,000 requests, all queued at once", "", BURST, 0.0, 1000),
        ("static batch, all queued at once", "32", BATCH, 0.0, 32),
        ("offline, infinite rate", "max", OFFLINE, 0.0, None),
        ("closed loop at fixed concurrency", "16", CLOSED, 0.0, 16),
        ("closed loop, 24 clients", "", CLOSED, 0.0, 24),
        ("one at a time", "", CLOSED, 0.0, 1),
        ("", "4", CLOSED, 0.0, 4),
    ],
)
def test_arrivals_are_read_from_their_text(text: str, clients: str, kind: str, rate: float, count: int | None) -> None:
    assert arrival_of({**ROW, "arrival": text, "concurrency": clients}) == Arrival(kind, rate, count)


@pytest.mark.parametrize("text", ["all at once", "burst", "diurnal", "closed loop", "", "QPS 0"])
def test_arrivals_that_cannot_be_read_refuse_their_row(text: str) -> None:
    with pytest.raises(ScenarioError, match="column"):
        arrival_of({**ROW, "arrival": text, "concurrency": ""})


def test_a_rate_is_served_at_that_rate_and_a_burst_is_all_of_it() -> None:
    def values(**cells: str) -> dict[str, float]:
        return predict_serving_row({**ROW, "isl": "300", "osl": "200", **cells}).values

    rate = values(arrival="QPS 5", concurrency="")
    assert rate["output_tokens_per_s"] == pytest.approx(1000, rel=0.1)
    assert rate["requests_per_s"] == pytest.approx(5, rel=0.1)
    alone = values(arrival="one at a time", concurrency="")
    burst = values(arrival="400 prompts at once", concurrency="")
    assert burst["ttft_ms"] > 10 * alone["ttft_ms"]
    assert burst["output_tokens_per_s"] > 10 * alone["output_tokens_per_s"]


def test_lengths_of_data_sets_spread_and_nominal_ones_do_not() -> None:
    def spread(**cells: str) -> bool:
        return load_of({**ROW, **cells})[0].get("lengths") == "lognormal"

    assert spread(isl="215", osl="197") and spread(isl="229") and spread(isl="1024", arrival="ShareGPT, 4 clients")
    assert not any(spread(isl=isl) for isl in ("128", "1000", "3998", "32000", "1024", "8192", "1996", "7"))


def test_tokens_arrive_in_groups_on_blackwell_with_sglang_only() -> None:
    def groups(**cells: str) -> int:
        asked = serving_row({**ROW, **cells})[0]["serve"]["engine"]
        return int(asked.get("stream_tokens", 1))

    assert groups() == 1
    old, new = groups(engine="sglang", gpu="B200"), groups(engine="sglang", gpu="B200", engine_version="0.5.10.post1")
    assert old > new > 1
    assert groups(engine="sglang", gpu="H200 SXM") == 1


def test_a_row_states_what_is_else_guessed_from_its_table() -> None:
    def said(**cells: str) -> tuple[dict[str, Any], str]:
        scenario, assumed = serving_row({**ROW, "engine": "sglang", "gpu": "B200", **cells})
        return scenario["serve"], " ".join(note for note in assumed if "guess" in note)

    serve, guesses = said()
    assert (serve["requests"]["jitter"], serve["engine"]["stream_tokens"]) == (0.2, 40)
    assert "guess 'public harness'" in guesses and "guess 'public recipe of SGLang'" in guesses
    assert "column lengths states it" in guesses and "column stream_tokens states it" in guesses
    serve, guesses = said(lengths="fixed", stream_tokens="1", requests="64")
    assert (serve["requests"]["jitter"], serve["requests"]["count"], guesses) == (0.0, 64, "")
    assert serve["engine"]["stream_tokens"] == 1
    assert said(lengths="uniform 0.5")[0]["requests"]["jitter"] == 0.5
    assert said(lengths="lognormal")[0]["requests"]["lengths"] == "lognormal"
    sweep = {"engine": "trtllm", "engine_version": "1.0.0rc3"}
    assert "guess 'vendor sweep'" in said(**sweep)[1] and said(**sweep, token_budget="4096")[1] == ""
    assert said(**sweep, token_budget="4096")[0]["engine"]["token_budget"] == 4096
    with pytest.raises(ScenarioError, match="column lengths: 'long' is not known; write fixed, lognormal, or uniform"):
        said(lengths="long")


def test_versions_and_precisions_that_nobody_knows_are_refused() -> None:
    def refusal(**cells: str) -> str:
        with pytest.raises(Refusal) as refused:
            predict_serving_row({**ROW, **cells})
        return str(refused.value)

    late = refusal(engine="vllm", engine_version="0.99")
    assert "engine version '0.99' of vllm is not known; nearest are 0.16 (2026-02: vLLM, V1 engine)" in late
    assert "measured_on" in late
    assert "no engine serves fp32; write int4, bf16" in refusal(precision="fp32")
    dated = {**ROW, "engine": "vllm", "engine_version": "0.99"}
    assert predict_serving_row({**dated, "measured_on": "2026-05"}).values["tpot_ms"] > 0.0


def test_versions_soon_after_the_newest_and_images_are_answered_and_said() -> None:
    vllm = {**ROW, "engine": "vllm"}
    newest, later, image = (
        predict_serving_row({**vllm, "engine_version": v})
        for v in ("0.19.0", "0.23.1", "vllm/vllm-openai:v0.19.0-cu130")
    )
    assert newest.values == image.values and newest.values["tpot_ms"] == later.values["tpot_ms"]
    assert any("0.23.1 is no known release" in line and "0.19 (2026-04" in line for line in later.resolved.assumptions)
    named = predict_serving_row({**vllm, "engine_version": "internal-build"})
    assert any(
        "'internal-build' says no release" in line
        for line in serving_row({**vllm, "engine_version": "internal-build"})[1]
    )
    assert named.values["tpot_ms"] > 0.0


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
    assert any("its own share leaves no cache" in line for line in memory_said(result.resolved.deployment.job))
    assert not any("leaves no cache" in line for line in memory_said(predict_serving_row(ROW).resolved.deployment.job))
    with pytest.raises(DoesNotFit):
        predict_serving_row({**tight, "gpus": "2", "tp": "2"})


def test_drafted_tokens_are_drafted() -> None:
    row = {
        **ROW, "engine": "sglang", "gpu": "B200", "gpus": "8", "model": "deepseek-v3", "tp": "8", "concurrency": "16",
    }  # fmt: skip
    plain, drafted = predict_serving_row(row), predict_serving_row({**row, "mtp": "yes"})
    assert 0.45 * plain.values["tpot_ms"] < drafted.values["tpot_ms"] < 0.8 * plain.values["tpot_ms"]
    assert plain.values == predict_serving_row({**row, "mtp": "likely"}).values
    assert any("drafted" in line for line in drafted.resolved.assumptions)


def test_the_limit_of_a_drafting_engine_is_not_that_of_a_load_far_above_it() -> None:
    def limit(**cells: str) -> int:
        asked = serving_row({**ROW, "engine": "sglang", "mtp": "yes", **cells})[0]["serve"]["engine"]
        return int(asked.get("max_batch", 0))

    assert limit(concurrency="64") == 0  # the engine's own 48
    assert limit(concurrency="512") == 512
    assert limit(concurrency="64", engine="vllm") == 0


def test_pools_are_of_no_known_release_and_other_rows_are_dated() -> None:
    def engine(**cells: str) -> dict[str, object]:
        asked: dict[str, object] = serving_row({**ROW, "engine": "sglang", **cells})[0]["serve"]["engine"]
        return asked

    dated = engine(engine_version="nightly-1", measured_on="2026-05-18")
    assert (dated["version"], dated["date"], dated["cold_start"]) == ("nightly-1", "2026-05", True)
    pools = {f"{pool}_{key}": "1" for pool in ("prefill", "decode") for key in ("workers", "tp", "ep", "attention_dp")}
    pooled = engine(engine_version="0.5.9", measured_on="2026-05-18", **pools)
    assert pooled["version"] == "" and "date" not in pooled
