"""Logs, traces and results on the command line: what was read is said, what cannot be is one line and exit code 2."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from moesim.reports.cli.app import run

Capture = pytest.CaptureFixture[str]

LINE = (
    " iteration {i:>8}/    1000 | consumed samples: {n:>12} | elapsed time per iteration (ms): {t:.1f} | "
    "learning rate: 3.0E-05 | global batch size:    64 | lm loss: 2.1E+00 |\n"
)
SCENARIO = """
model: llama-3.1-8b
cluster: {node: dgx-h100, gpus: 8}
layout: {tp: 2}
train: {global_batch: 64, seq_len: 4096}
"""


@pytest.fixture
def train_log(tmp_path: Path) -> Path:
    """Ten iterations of about three seconds."""
    path = tmp_path / "train.log"
    path.write_text("".join(LINE.format(i=i, n=64 * i, t=3000.0 + 10.0 * (i % 3)) for i in range(1, 11)))
    (tmp_path / "my.yaml").write_text(SCENARIO)
    return path


def nccl_log(path: Path, hosts: int = 2) -> Path:
    """An all-reduce of eight ranks a host, 20 us and 100 GB/s on the wire."""
    ranks = 8 * hosts
    lines = ["# Collective test starting: all_reduce_perf", "# Using devices"]
    lines += [
        f"#  Rank {r:>2} Group  0 Pid {100 + r} on node{r // 8} device {r % 8} [0000:0{r % 8}:00] NVIDIA H100 80GB HBM3"
        for r in range(ranks)
    ]
    for size in (2**i for i in range(20, 30)):
        seconds = 20e-6 + size * 2 * (ranks - 1) / ranks / 100e9
        algbw = size / seconds / 1e9
        lines.append(
            f"{size} {size // 4} float sum -1 {seconds * 1e6:.2f} {algbw:.2f} {algbw * 2 * (ranks - 1) / ranks:.2f} 0"
        )
    path.write_text("\n".join([*lines, "# Avg bus bandwidth : 100", ""]))
    return path


def complaint(capsys: Capture, *arguments: str) -> str:
    """The one line on stderr of a command that must fail with exit code 2 and print no result."""
    assert run(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and len(said.err) < 520
    return said.err


def test_a_training_log_is_validated_and_kept_as_rows(train_log: Path, tmp_path: Path, capsys: Capture) -> None:
    kept, out = tmp_path / "rows.csv", tmp_path / "out.csv"
    scenario = str(tmp_path / "my.yaml")
    arguments = [
        "validate",
        str(train_log),
        "--scenario",
        scenario,
        "--rows-out",
        str(kept),
        "--out",
        str(out),
        "--json",
    ]
    assert run(arguments) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["read"][0] == "Megatron-LM log: 1 row"
    assert "median of 8 logged steps" in said.err
    with out.open() as lines:
        [record] = csv.DictReader(lines)
    assert (record["metric"], record["measured"], record["status"]) == ("step_time_s", "3.01", "ok")
    assert run(["train", scenario, "--json"]) == 0
    assert float(record["predicted"]) == pytest.approx(json.loads(capsys.readouterr().out)["step_time_s"], rel=1e-8)
    assert run(["validate", str(kept), "--out", str(out)]) == 0
    with out.open() as lines:
        assert list(csv.DictReader(lines)) == [record]


def test_corrections_are_learned_from_a_log(train_log: Path, tmp_path: Path, capsys: Capture) -> None:
    out, scenario = tmp_path / "c.json", str(tmp_path / "my.yaml")
    assert run(["calibrate", "--from", "rows", str(train_log), "--scenario", scenario, "--out", str(out)]) == 0
    assert "own_runs" in json.loads(out.read_text())
    capsys.readouterr()
    assert "does not say model, gpu" in complaint(
        capsys, "calibrate", "--from", "rows", str(train_log), "--out", str(out)
    )


def test_a_collectives_log_makes_a_profile_for_comm_and_train(tmp_path: Path, capsys: Capture) -> None:
    log, out = nccl_log(tmp_path / "ar.log"), tmp_path / "own.json"
    assert run(["calibrate", "--from", "nccl-tests", str(log), "--out", str(out), "--json"]) == 0
    read = json.loads(capsys.readouterr().out)["read"]
    assert any("16 ranks on 2 hosts of 8" in line for line in read)
    asked = ["comm", "--cluster", "dgx-h100", "--op", "all_reduce", "--ranks", "16", "--bytes", "64MiB", "--json"]
    assert run([*asked, "--profile", str(out)]) == 0
    own = json.loads(capsys.readouterr().out)
    assert own["time_s"] == pytest.approx(20e-6 + 2**26 * 1.875 / 100e9, rel=0.03)
    first = out.read_bytes()
    assert run(["calibrate", "--from", "rccl-tests", str(tmp_path / "a*.log"), "--out", str(out)]) == 0
    assert "2 hosts of 8" in capsys.readouterr().out
    assert out.read_bytes() == first  # same inputs, same bytes; patterns are spread


@pytest.mark.parametrize(
    ("source", "content", "said"),
    [
        ("nccl-tests", "hello", "any line of times"),
        ("kineto", "hello", "not JSON"),
        ("kineto", '{"traceEvents": []}', "holds no GPU kernels"),
        ("nsight", "SQLite format 3\0", "broken SQLite"),
        ("rows", "hello", "no line with a step time"),
        ("rows", '{"hw": "h100", "isl": 1, "osl": 1, "conc": 1}', "without a measured value"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, capsys: Capture, source: str, content: str, said: str) -> None:
    path = tmp_path / "input"
    path.write_text(content)
    arguments = ["calibrate", "--from", source, str(path), "--out", str(tmp_path / "x.json")]
    assert said in complaint(capsys, *arguments)
    path.unlink()
    os.mkfifo(path)
    assert "no plain file" in complaint(capsys, *arguments)


def test_settings_and_rows_out_are_checked(train_log: Path, tmp_path: Path, capsys: Capture) -> None:
    assert "write COLUMN=VALUE" in complaint(capsys, "validate", str(train_log), "--set", "gpu")
    assert "name that file" in complaint(capsys, "validate", "--set", "gpu=H100")
    assert "no such scenario file" in complaint(
        capsys, "validate", str(train_log), "--scenario", str(tmp_path / "no.yaml")
    )
    assert "cannot write" in complaint(capsys, "validate", str(train_log), "--rows-out", str(tmp_path / "no" / "x.csv"))


def test_cells_as_people_write_them_and_cells_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "mine.csv"
    head = "id,model,gpu,gpus,seq_len,gbs,pp,step_time_s"
    rows.write_text(f"{head}\na,mistral-7b,H100,8,4Ki,64,1,-5\nb,mistral-7b,H100,8,4Kx,64,1,2.0\n")
    assert run(["validate", str(rows)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 rows (2 own): 1 answered, 1 refused" in said
    assert "column seq_len: '4Kx' is not a number that can be meant here" in said
    assert "measured step_time_s '-5' is not counted: a positive number is expected" in said
    assert "no measured values in this file" not in said
    rows.write_text(f"{head}\na,mistral-7b,H100,8,4Ki,64,1,2.0\nb,mistral-7b,H100,8,4096,64,1,2.0\n")
    assert run(["validate", str(rows), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answered"] == 2
