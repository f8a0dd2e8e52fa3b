"""Numbers of benchmarks' results that no run can have: text, negative, endless; each is refused by its key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from result_forms import GENAI_PERF, GUIDELLM, INFERENCEMAX, VLLM

from moesim.calibrate.rows.files import BadRows
from moesim.calibrate.rows.measured.read import load_measured

MACHINE = {"gpu": "H100", "gpus": "2", "tp": "2", "precision": "bf16"}


def rows(tmp_path: Path, content: Any, settings: dict[str, str]) -> list[dict[str, str]]:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content))
    return list(load_measured(path, None, settings).file.rows)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"duration": -3.0}, "duration is negative; a JSON number above 0"),
        ({"duration": 0}, "duration is 0: a run takes time"),
        ({"completed": 0}, "completed is 0: no request was answered"),
        ({"completed": "100"}, "completed is text; a JSON number above 0"),
        ({"output_throughput": "128.0"}, "output_throughput is text; a JSON number of at least 0"),
        ({"mean_ttft_ms": -1.0}, "mean_ttft_ms is negative"),
        ({"mean_tpot_ms": float("nan")}, "mean_tpot_ms is nan or infinite"),
        ({"request_throughput": True}, "request_throughput is no number"),
        ({"total_input_tokens": -5}, "total_input_tokens is negative"),
        ({"mean_ttft_ms": 1e300}, "mean_ttft_ms is larger than anything"),
    ],
)
def test_a_number_that_no_run_can_have_is_refused_by_its_key(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRows, match=f"result.json: {said}"):
        rows(tmp_path, {**VLLM, **change}, MACHINE)


def test_the_other_forms_are_as_strict(tmp_path: Path) -> None:
    latency = {**GENAI_PERF["time_to_first_token"], "avg": "120"}
    with pytest.raises(BadRows, match=r"time_to_first_token\.avg is text"):
        rows(tmp_path, {**GENAI_PERF, "time_to_first_token": latency}, {**MACHINE, "engine": "trtllm"})
    with pytest.raises(BadRows, match="mean_ttft is negative"):
        rows(tmp_path, [{**INFERENCEMAX[0], "mean_ttft": -0.4}], {})
    report = json.loads(json.dumps(GUIDELLM))
    report["benchmarks"][0]["metrics"]["inter_token_latency_ms"]["successful"]["mean"] = "15"
    with pytest.raises(BadRows, match="inter_token_latency_ms is text"):
        rows(tmp_path, report, {**MACHINE, "engine": "vllm"})
