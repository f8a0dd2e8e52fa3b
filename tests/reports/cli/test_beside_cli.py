"""`moesim train --beside`: a table, JSON, and refusals in one line with exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from moesim.reports.cli.app import run

Capture = pytest.CaptureFixture[str]
JOB = {
    "model": {"base": "mixtral-8x7b", "layers": 4},
    "cluster": {"node": "dgx-h100", "gpus": 64, "fabric": "fat-tree-ib-400", "oversubscription": 4},
    "layout": {"ep": 8, "zero": 3},
    "train": {"global_batch": 128, "seq_len": 2048},
    "routing": "balanced",
}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(JOB), encoding="utf-8")
    return path


def _beside(path: Path, **changes: object) -> Path:
    other = path.with_name("other.yaml")
    other.write_text(yaml.safe_dump({**JOB, **changes}), encoding="utf-8")
    return other


def test_table(job: Path, capsys: Capture) -> None:
    assert run(["train", str(job), "--beside", str(job), "--beside", str(job), "--spread", "interleaved"]) == 0
    said = capsys.readouterr().out
    for part in (
        "3 jobs on 192 GPUs of fat-tree-ib-400, oversubscription 4, hosts interleaved",
        "alone here",
        "leaf 0",
    ):
        assert part in said
    assert "ECMP" in said and max(len(line) for line in said.splitlines()) <= 110
    assert run(["train", str(job), "--beside", str(job)]) == 0
    said = capsys.readouterr().out
    assert "nothing is lost: no leaf holds hosts of two jobs" in said and said.count("no other job") == 2


def test_json_is_the_same_every_time(job: Path, capsys: Capture) -> None:
    asked = ["train", str(job), "--beside", str(_beside(job, layout={"ep": 8})), "--spread", "interleaved", "--json"]
    texts = []
    for _ in range(2):
        assert run(asked) == 0
        texts.append(capsys.readouterr().out)
    answer = json.loads(texts[0])
    assert texts[0] == texts[1] and len(answer["jobs"]) == 2
    for each in answer["jobs"]:
        assert each["lost_s"] == each["beside_s"] - each["alone_s"] > 0.0
        assert each["lost_share"] == pytest.approx(each["lost_s"] / each["alone_s"])
        assert sum(each["busiest_uplinks"]["by_job"]) == pytest.approx(each["busiest_uplinks"]["share"])


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"cluster": {"node": "hgx-h800", "gpus": 64}}, [], "cannot share a fabric: the GPU is h100-sxm in job 1"),
        ({"train": None, "serve": {"requests": {"kind": "closed", "concurrency": 1, "count": 1, "input_tokens": 9,
          "output_tokens": 9}}, "layout": {"ep": 8}}, [], "job 2: the scenario has no train section"),
        ({}, ["--spread", "diagonal"], "spread='diagonal' is not known; use contiguous or interleaved"),
        ({}, ["--steps", "3"], "--steps is about one job"),
        ({}, ["--figure", "step.png"], "--figure is about one job"),
        ({"layout": {"ep": 7}}, [], "job 2: "),
    ],
)  # fmt: skip
def test_refusals(job: Path, capsys: Capture, changes: dict[str, object], options: list[str], message: str) -> None:
    assert run(["train", str(job), "--beside", str(_beside(job, **changes)), *options]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out


def test_what_does_not_fit_is_refused_unless_asked_to_answer(job: Path, capsys: Capture) -> None:
    large = _beside(job, model="mixtral-8x22b", layout={"ep": 8})
    assert run(["train", str(job), "--beside", str(large)]) == 2
    assert "job 2: " in capsys.readouterr().err
    assert run(["train", str(job), "--beside", str(large), "--no-memory-check"]) == 0


def test_one_job_is_not_spread(job: Path, capsys: Capture) -> None:
    assert run(["train", str(job), "--spread", "interleaved"]) == 2
    assert "add --beside" in capsys.readouterr().err
