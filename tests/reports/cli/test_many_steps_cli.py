"""`moesim train --steps`: a table after the step's own, JSON beside it, plain progress where nobody looks at a bar."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from moesim.reports.cli.app import run

Capture = pytest.CaptureFixture[str]
JOB = {
    "model": {"base": "mixtral-8x7b", "layers": 4},
    "cluster": {"node": "dgx-h100", "gpus": 16},
    "layout": {"pp": 2, "ep": 8},
    "train": {"global_batch": 32, "seq_len": 2048},
    "routing": {"lognormal": 0.6, "seed": 3},
}


@pytest.fixture
def skewed(tmp_path: Path) -> Path:
    path = tmp_path / "skewed.yaml"
    path.write_text(yaml.safe_dump(JOB), encoding="utf-8")
    return path


def test_table_and_progress(skewed: Path, capsys: Capture) -> None:
    assert run(["train", str(skewed), "--steps", "20", "--workers", "1"]) == 0
    said = capsys.readouterr()
    for part in ("20 steps, 0 to 19", "p95", "first, last", "busiest rank", "over the run"):
        assert part in said.out
    assert max(len(line) for line in said.out.splitlines()) <= 110
    assert said.err.splitlines() == [f"running steps: {done} of 20" for done in (1, *range(2, 21, 2))]


def test_json(skewed: Path, capsys: Capture) -> None:
    assert run(["train", str(skewed), "--steps", "3", "--workers", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    many = answer["many_steps"]
    assert many["steps"] == 3 and len(many["each"]["step_time_s"]) == 3
    assert many["step_time_s"]["first"] == answer["step_time_s"]


def test_workers_without_steps_are_refused(skewed: Path, capsys: Capture) -> None:
    assert run(["train", str(skewed), "--workers", "2"]) == 2
    assert "add --steps" in capsys.readouterr().err


def test_the_table_says_who_is_busy_and_what_that_costs(skewed: Path, capsys: Capture) -> None:
    assert run(["train", str(skewed)]) == 0
    said = capsys.readouterr().out
    assert "busiest of 8 ranks" in said and "uneven routing costs" in said
    jittery = skewed.with_name("jittery.yaml")
    jittery.write_text(yaml.safe_dump({**JOB, "jitter": 0.05}), encoding="utf-8")
    assert run(["train", str(jittery), "--lost", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["lost_s"]) == {"busiest_rank", "jitter"}
