"""`moesim calibrate` on the command line: one clear line for everything that cannot be, results where they belong."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from moesim.calibrate.measure.asks import ask
from moesim.calibrate.measure.device import find_machine
from moesim.calibrate.measure.samples import COLUMNS
from moesim.calibrate.prove.proof import Proof, Proved
from moesim.reports.cli.app import run
from moesim.reports.figures.calibrate import write_proof_figure
from moesim.reports.tables.calibrate import calibrate_report, proof_report
from moesim.reports.text import console

Capture = pytest.CaptureFixture[str]


def complaint(capsys: Capture, *arguments: str) -> str:
    """The one line on stderr of a command that must fail with exit code 2 and print no result."""
    assert run(["calibrate", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    return said.err


def test_without_torch_the_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # what import finds where nothing is installed
    said = complaint(capsys, "--out", str(tmp_path / "x.json"))
    assert "pip install 'moesim[calibrate]'" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "aiconfig"], "--from 'aiconfig' is not known; use aiconfigurator, nccl-tests"),
        (["--from", "aiconfigurator"], "--system is missing: one of a100-sxm-80gb"),
        (["--from", "aiconfigurator", "--system", "h200_smx"], "did you mean"),
        (["--from", "nccl-tests", "--system", "h100_sxm"], "reads files; name at least one"),
        (["--from", "csv", "nothing.csv"], "cannot read table of samples nothing.csv"),
        (["--from", "kineto", "nothing.json", "--system", "h100_sxm"], "cannot read trace nothing.json"),
        (["--minutes", "0"], "--minutes"),
        (["--out", "no/such/folder/x.json"], "folder no/such/folder does not exist"),
    ],
)
def test_bad_sources_are_refused_in_one_line(capsys: Capture, arguments: list[str], said: str) -> None:
    assert said in complaint(capsys, *arguments)


def test_devices_that_are_not_there_are_refused(capsys: Capture, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="devices are torch's")
    out = ["--out", str(tmp_path / "x.json")]
    assert "device 'tpu' is not known; use cpu or cuda:0" in complaint(capsys, "--device", "tpu", *out)
    if not torch.cuda.is_available():
        assert "sees no CUDA device; use --device cpu" in complaint(capsys, "--device", "cuda:0", *out)
    else:
        assert "there is no cuda:99" in complaint(capsys, "--device", "cuda:99", *out)


def test_samples_with_nan_are_refused_by_line(capsys: Capture, tmp_path: Path) -> None:
    table = tmp_path / "s.csv"
    cells = [
        "gemm",
        "forward",
        "fp32",
        "m=1;n=2;k=3",
        "nan",
        "0",
        "3",
        "0",
        "1",
        "1",
        "",
        "m",
        "t",
        "2026-01-01T00:00:00Z",
    ]
    table.write_text(",".join(COLUMNS) + "\n" + ",".join(cells) + "\n")
    assert "line 2: seconds=nan" in complaint(capsys, "--from", "csv", str(table), "--out", str(tmp_path / "x.json"))


def test_a_profile_of_another_machine_is_not_proved_here(capsys: Capture, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="asks torch for this machine")
    profile = tmp_path / "other.json"
    empty = {"gemm": {}, "grouped_gemm": {}, "attention": {}, "provenance": {}, "collectives": None}
    profile.write_text(json.dumps({"schema": 1, "gpu": "cpu-other-64", "machine": {"device": "cpu"}, **empty}))
    said = complaint(capsys, "--prove", "--profile", str(profile), "--device", "cpu")
    assert "is of cpu-other-64, this machine is" in said and "calibrate here first" in said
    profile.write_text(json.dumps({"gpu": "x", **empty}))
    assert "has schema none, this moesim reads 1" in complaint(capsys, "--prove", "--profile", str(profile))


def proof() -> Proof:
    """Four programs, one of every sort."""
    names = [(kind, mode) for kind in ("dense", "MoE") for mode in ("train", "decode")]
    return Proof(tuple(_proved(kind, mode, 0.1 * (i + 1)) for i, (kind, mode) in enumerate(names)))


def _proved(kind: str, mode: str, seconds: float) -> Proved:
    said: dict[str, Any] = {
        "predicted_s": 1.1 * seconds,
        "error_pct": 10.0,
        "noise_pct": 3.0,
        "breakdown_s": {"gemm": 1.1 * seconds},
    }
    return Proved(name=f"{kind}-{mode}", kind=kind, mode=mode, ranks=2, measured_s=seconds, **said)


def test_a_proof_is_told_and_drawn(capsys: Capture, tmp_path: Path) -> None:
    console().print(proof_report(proof()))
    said = capsys.readouterr().out
    assert "4 programs: median error 10.0 %, worst 10.0 %; noise between repeats 3.0 %" in said
    path = tmp_path / "proof.png"
    write_proof_figure(proof(), path)
    assert path.stat().st_size > 10_000


def test_a_profile_is_told_with_its_left_out_errors(capsys: Capture) -> None:
    errors = [{"op": "gemm/fp32", "ranks": 1, "samples": 12, "median_error_pct": 4.25, "p90_error_pct": 11.0}]
    summary = {
        "gpu": "cpu-x", "peak_flops_per_s": {"fp32": 1e11}, "memory_bytes_per_s": 2e10, "left_out": errors,
        "not_fitted": ["gemm/bf16 with 1 ranks (2 samples)"], "samples": 12, "resumed": 3, "not_reached": 5,
    }  # fmt: skip
    console().print(calibrate_report(summary))
    said = capsys.readouterr().out
    for part in (
        "100 GFLOP/s",
        "20 GB/s",
        "12 samples (3 from before), 5 not reached",
        "4.2",
        "too few samples to fit",
    ):
        assert part in said


def test_quick_calibration_and_proof_of_a_scenario_from_end_to_end(capsys: Capture, tmp_path: Path) -> None:
    """The whole loop on this CPU: measure for some seconds, fit, load in a scenario, prove. Times are not judged."""
    pytest.importorskip("torch", reason="measures with torch")
    pytest.importorskip("scipy", reason="fits need scipy")
    out = tmp_path / "cpu.json"
    assert run(["calibrate", "--quick", "--device", "cpu", "--out", str(out), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["gpu"] == find_machine("cpu").name and made["failures"] == []
    assert {"host_link/up/fp32 with 1 ranks", "launch/graph/fp32 with 1 ranks"} <= set(made["skipped"])
    assert {e["op"] for e in made["left_out"]} >= {"gemm/fp32"}
    scenario = tmp_path / "s.yaml"
    scenario.write_text(
        "model: {name: tiny, hidden: 96, layers: 1, pattern: attention+dense, vocab: 256, max_context: 64,\n"
        "  attention: {heads: 3, kv_heads: 3, head_dim: 32}, ffn: {intermediate: 256, gated: true},\n"
        "  tied_embeddings: false}\n"
        f"cluster: {{gpus: 1}}\nprofile: {out}\nstack: torch-eager\nlayout: {{zero: 0}}\n"
        "train: {global_batch: 1, seq_len: 64, precision: fp32}\n"
    )
    if {"attention_forward/fp32"} <= {e["op"] for e in made["left_out"]}:  # a very busy machine gets less far
        assert run(["train", str(scenario), "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["step_time_s"] > 0.0
        assert any("fit: cpu-" in source for source in answer["sources"])


def test_the_plan_of_a_scenario_asks_for_its_shapes(tmp_path: Path) -> None:
    from moesim.calibrate.measure.scenario_plan import scenario_asks

    scenario = tmp_path / "s.yaml"
    scenario.write_text(
        "model: {base: mixtral-8x7b, layers: 2}\ncluster: {gpu: H100, gpus: 8}\nlayout: {ep: 4}\n"
        "train: {global_batch: 8, seq_len: 2048}\n"
    )
    asks, large = scenario_asks(scenario, 1e15)
    assert not large
    assert ask("gemm", "forward", "bf16", m=2048, n=6144, k=4096) in asks  # queries, keys and values
    assert {a.op for a in asks} == {"gemm", "grouped_gemm", "attention", "stream"}
    few, large = scenario_asks(scenario, 1e6)
    assert large and all("this device is given at most" in line for line in large) and len(few) < len(asks)


@pytest.mark.parametrize(
    ("form", "name", "content", "said", "other"),
    [
        ("kineto", "folder", None, "it is a folder; name a file. moesim reads prof.export_chrome_trace", "nsys"),
        ("nsight", "folder", None, "it is a folder; name a file. moesim reads the SQLite export", "chrome"),
        ("nsight", "report.sqlite", b"\1\2\3", "is no SQLite file; moesim reads the SQLite export", "chrome"),
        ("nsight", "report.txt", b"words", "is no SQLite file; moesim reads the SQLite export", "chrome"),
        ("kineto", "report.nsys-rep", b"\1\2\3", "is no SQLite file; moesim reads the SQLite export", "chrome"),
        ("kineto", "trace.json", b"words", "is not JSON", "nsys"),
        ("nsight", "trace.json", b'{"a": 1}', "has no list traceEvents", "nsys"),
    ],
)
def test_a_file_is_refused_in_words_of_the_form_that_was_asked(
    tmp_path: Path, capsys: Capture, form: str, name: str, content: bytes | None, said: str, other: str
) -> None:
    path = tmp_path / name
    if content is None:
        path.mkdir()
        from moesim.calibrate.own.bad_source import BadSource
        from moesim.calibrate.own.sources import from_trace

        with pytest.raises(BadSource) as caught:  # the command takes the files of a folder
            from_trace([path], "", 0, form)
        text = str(caught.value)
    else:
        path.write_bytes(content)
        text = complaint(capsys, "--from", form, str(path), "--system", "h100_sxm")
    assert said in text and other not in text
