"""What hostile inputs have found, one of each kind: each of these hung, took the memory, or ended in a traceback."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.calibrate.measure.device import checked_machine
from moesim.calibrate.own.nccl_logs import read_nccl_log
from moesim.calibrate.rows.measured.read import load_measured
from moesim.files import opening
from moesim.hwmodels.checked_fit import BadNumber, number
from moesim.refusal import Refusal
from moesim.reports.cli.app import run
from moesim.sim.model.catalogue import load_model
from moesim.sim.serve.predict import predict_serve
from moesim.traces.day import load_day
from moesim.traces.request_files import load_requests
from moesim.traces.routing import BadTrace, load_counts
from tests.fuzz import seeds
from tests.fuzz.values import put

ESCAPE = "\x1b]0;owned\x07\u202e"


def says(capsys: pytest.CaptureFixture[str], words: list[str], code: int = 2) -> str:
    """What a command says on stderr."""
    assert run(words) == code
    return capsys.readouterr().err


def test_a_day_is_no_pipe_and_no_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path / "pipe.csv", Path("/dev/zero"), tmp_path):
        with pytest.raises(BadTrace, match=r"no plain file|is a folder"):
            load_day(path)


def test_counts_are_bounded_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "words.csv").write_text("1,secret\n2,3\n")
    with pytest.raises(BadTrace, match="at row 0") as refusal:
        load_counts(tmp_path / "words.csv")
    assert "secret" not in str(refusal.value)
    np.savez_compressed(tmp_path / "bomb.npz", counts=np.zeros((14_000_000, 1)))
    (tmp_path / "bomb.csv").write_bytes(gzip.compress(b" " * 101_000_000, 1))
    for name in ("bomb.npz", "bomb.csv"):
        with pytest.raises(BadTrace, match="unpacks to more than"):
            load_counts(tmp_path / name)
    np.save(tmp_path / "texts.npy", np.array([["a", "b"]]))
    with pytest.raises(BadTrace, match="must hold numbers"):
        load_counts(tmp_path / "texts.npy")
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1, (2)" + b" " * 40 + b"\n"
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(BadTrace, match="is broken"):
        load_counts(tmp_path / "torn.npy")


def test_a_log_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MOST_LINES", 10)
    (tmp_path / "long.log").write_text("\n" + "x\n" * 12)
    for reader in (load_measured, read_nccl_log):
        with pytest.raises(Refusal, match="more than 10 lines"):
            reader(tmp_path / "long.log")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cores", 10**9),
        ("cores", 0.5),
        ("device", "tpu"),
        ("memory_bytes", float("nan")),
        ("name", ESCAPE),
        ("name", None),
    ],
)
def test_a_machine_is_checked(name: str, value: Any) -> None:
    checked_machine(seeds.trees()["machine"])
    with pytest.raises(ValueError, match=name):
        checked_machine({**seeds.trees()["machine"], name: value})


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("model", "moe", "experts"), 10**6, "1,000,000 experts in a layer"),
        (("cluster", "gpus"), 10**6, "500,000 replicas"),
        (("serve", "requests"), {"kind": "closed", "concurrency": 10**6}, "10,000,000 requests"),
    ],
)
def test_derived_sizes_are_checked_before_memory_is_taken(place: tuple[str, ...], value: Any, said: str) -> None:
    with pytest.raises(Refusal, match=said):
        predict_serve(put(seeds.SERVE, place, value))


def test_experts_of_all_layers_are_bounded() -> None:
    moe = {**seeds.MODEL["moe"], "experts": 16_384}
    with pytest.raises(Refusal, match="experts in all layers"):
        load_model({**seeds.MODEL, "layers": 1000, "moe": moe})


def test_a_drawn_network_is_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["show", "dgx-h100", "--figure", str(tmp_path / "a.svg"), "--gpus", "1000000"]
    assert "4096" in says(capsys, words)


def test_names_in_pictures_and_tables_are_shown_not_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "a $\\frac{ $x^$ <b>&"
    (tmp_path / "job.yaml").write_bytes(seeds.text(put(seeds.TRAIN, ("model", "name"), name)))
    for command, figure in (("train", "f.svg"),):
        assert run([command, str(tmp_path / "job.yaml"), "--figure", str(tmp_path / figure)]) == 0
        assert (tmp_path / figure).stat().st_size > 1000
    capsys.readouterr()
    from moesim.reports.text import console, note

    console().print(f"a {ESCAPE} b")
    note(f"a {ESCAPE} b")
    shown = capsys.readouterr()
    assert shown.err == "a \\x1b]0;owned\\x07\\u202e b\n"
    assert shown.out == "a \\x1b]0;owned\\u202e b\n"  # the library drops the bell itself


def test_no_cell_is_a_formula(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.yaml").write_bytes(seeds.text(seeds.TRAIN))
    words = ["sweep", str(tmp_path / "job.yaml"), "--set", "model.name==cmd,plain", "--out", str(tmp_path / "t.csv")]
    assert run([*words, "--workers", "1"]) == 0
    (tmp_path / "rows.csv").write_bytes(b"id," + seeds.texts()["rows"].replace(b"\nllama", b"\n@SUM(1),llama"))
    out = ["--out", str(tmp_path / "p.csv"), "--rows-out", str(tmp_path / "r.csv")]
    assert run(["validate", str(tmp_path / "rows.csv"), *out]) == 0
    for table in ("t.csv", "p.csv", "r.csv"):
        with (tmp_path / table).open(newline="") as handle:
            cells = [cell for line in csv.reader(handle) for cell in line]
        assert not [cell for cell in cells if cell.startswith(("=", "@"))]
        assert {"'=cmd", "'@SUM(1)"} & set(cells)
    capsys.readouterr()


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), float("inf"), "1", None, True])
def test_a_number_of_a_profile_may_be_larger_than_any_float(value: Any) -> None:
    with pytest.raises(BadNumber, match="a number from 0 to 1"):
        number(value, "place", 0, 1)


def test_a_machine_of_nested_lists_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.csv").write_bytes(seeds.texts()["samples"])
    (tmp_path / "s.machine.json").write_text(json.dumps([]))
    words = ["calibrate", "--from", "csv", str(tmp_path / "s.csv"), "--out", str(tmp_path / "p.json")]
    assert "does not describe a machine" in says(capsys, words)


def test_a_picture_and_json_are_two_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "dgx-h100", "--json", "--figure", str(tmp_path / "a.svg"), "--gpus", "8"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] and (tmp_path / "a.svg").exists()


SECRET = "TOKEN=hunter2-abcdef"


@pytest.mark.parametrize("text", [SECRET, f"- {SECRET}\n", f'"{SECRET}"', f"{SECRET}: 1\n"])
def test_nothing_of_a_file_that_is_none_of_ours_is_repeated(text: str, tmp_path: Path) -> None:
    """A file of somebody's secrets, named where a model, a trace or a day of traffic belongs."""
    path = tmp_path / "secrets.env"
    path.write_text(text, encoding="utf-8")
    readers: list[Any] = [lambda: load_model(path), lambda: load_day(path), lambda: load_requests(path)]
    for cells in (f"{SECRET},1,2\n", f"0,{SECRET},2\n"):
        trace = tmp_path / "trace.csv"
        trace.write_text(f"arrival_s,input_tokens,output_tokens\n{cells}", encoding="utf-8")
        readers.append(lambda trace=trace: load_requests(trace))
    for read in readers:
        with pytest.raises(Refusal) as refusal:
            read()
        assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("digits", [19, 400, 5000])
def test_a_table_of_transfers_with_sizes_beyond_any_memory(digits: int, tmp_path: Path) -> None:
    from nccl_forms import log

    path = tmp_path / "own.log"
    text, rows = re.subn(r"^(\s*)\d+(\s+\d+\s+float)", rf"\g<1>{'9' * digits}\g<2>", log("all_reduce"), flags=re.M)
    path.write_text(text, encoding="utf-8")
    assert rows > 3
    with pytest.raises(Refusal):
        read_nccl_log(path)
