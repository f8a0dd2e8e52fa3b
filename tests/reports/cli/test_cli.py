"""The command line: what each command prints, and one line with exit code 2 for every bad question."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from moesim.reports.cli.app import run
from moesim.reports.failures import guarded
from moesim.reports.template import SCENARIO
from moesim.sim.question.scenario import Scenario
from moesim.sim.question.sections import ClusterAsk, LayoutAsk, RoutingAsk, TrainAsk

Capture = pytest.CaptureFixture[str]
ON_H100 = "cluster: {gpu: H100, gpus: 8}"
TRAIN = "train: {global_batch: 8, seq_len: 4096}"


def complaint(capsys: Capture, *arguments: str) -> str:
    """The one line on stderr of a command that must fail with exit code 2 and print no result."""
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    return said.err


def test_train_table_shows_the_answer_and_where_it_comes_from(scenario_file: Path, capsys: Capture) -> None:
    assert run(["train", str(scenario_file)]) == 0
    said = capsys.readouterr()
    for part in (
        "step time",
        "tokens/s",
        "MFU",
        "peak memory",
        "where the step goes",
        "how the busy",
        "assumed",
    ):
        assert part in said.out
    assert said.err == ""


def test_train_json_has_what_scripts_need(scenario_file: Path, capsys: Capture) -> None:
    assert run(["train", str(scenario_file), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    wanted = {
        "step_time_s", "low_s", "high_s", "tokens_per_s", "tokens_per_s_per_gpu", "mfu", "breakdown_s",
        "memory_bytes", "cost", "sources", "assumptions",
    }  # fmt: skip
    assert wanted <= set(answer)
    assert answer["low_s"] < answer["step_time_s"] < answer["high_s"]
    assert sum(answer["breakdown_s"].values()) == pytest.approx(answer["step_time_s"], rel=1e-9)
    assert sum(answer["sources"].values()) == pytest.approx(1.0)
    for stage in answer["memory_bytes"]["per_stage"]:
        kinds = {k: v for k, v in stage.items() if k not in ("stage", "total")}
        assert sum(kinds.values()) == pytest.approx(stage["total"])


def test_train_writes_timeline_and_figure_and_compares_with_the_exact_run(
    scenario_file: Path, tmp_path: Path, capsys: Capture
) -> None:
    timeline, figure = tmp_path / "t.json", tmp_path / "f.svg"
    arguments = [
        "train",
        str(scenario_file),
        "--json",
        "--timeline",
        str(timeline),
        "--figure",
        str(figure),
        "--exact",
    ]
    assert run(arguments) == 0
    said = capsys.readouterr()
    assert json.loads(timeline.read_text())["traceEvents"]
    assert figure.read_text().startswith("<?xml")
    json.loads(said.out)
    assert "agrees with the replay" in said.err


def test_an_exact_run_has_no_jitter_to_compare(scenario_file: Path, capsys: Capture) -> None:
    scenario_file.write_text(scenario_file.read_text() + "\njitter: 0.02\n")
    assert run(["train", str(scenario_file), "--exact"]) == 2
    assert "jitter draws for every stretch of compute" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[1, 2]", "mapping"),
        ("model: [", "not valid YAML"),
        ("model: x", "cluster is missing"),
        (f"model: nosuchmodel\n{ON_H100}\n{TRAIN}", "nosuchmodel"),
        (f"model: mistral-7b\ncluster: {{gpu: H101, gpus: 8}}\n{TRAIN}", "H101"),
        (f"model: mistral-7b\n{ON_H100}\nlayuot: {{}}\n{TRAIN}", "layout"),
        (f"model: mistral-7b\n{ON_H100}\nlayout: {{tp: 3}}\n{TRAIN}", "dp"),
        (f"model: llama-3.1-405b\n{ON_H100}\n{TRAIN}", "does not fit"),
        (f"model: mistral-7b\n{ON_H100}\nstack: nosuch\n{TRAIN}", "nosuch"),
    ],
)
def test_bad_scenarios_are_one_line(text: str, part: str, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert part in complaint(capsys, "train", str(path))


def test_bad_files_are_one_line(scenario_file: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    assert "does not exist" in complaint(capsys, "train", str(tmp_path / "nosuch.yaml"))
    assert "UTF-8" in complaint(capsys, "train", str(tmp_path / "binary"))
    assert "UTF-8" in complaint(capsys, "validate", str(tmp_path / "binary"))
    assert "cannot read" in complaint(capsys, "validate", str(tmp_path))
    assert "cannot write" in complaint(capsys, "train", str(scenario_file), "--timeline", str(tmp_path))
    assert "unknown format" in complaint(capsys, "train", str(scenario_file), "--figure", str(tmp_path / "f.gif"))
    assert "cannot write" in complaint(capsys, "validate", "--out", str(tmp_path / "no" / "x.csv"))


def test_usage_errors_are_one_line(capsys: Capture) -> None:
    assert "no such command" in complaint(capsys, "trian")
    for command in ("train", "serve", "whatif"):  # the option is another command's
        asked = complaint(capsys, command, "any.yaml", "--set", "layout.tp=[1,2,4]")
        assert "no such option: --set of this command; `moesim sweep FILE --set KEY=VALUE,VALUE`" in asked
    assert "scenario" in complaint(capsys, "train")
    assert "--nope" in complaint(capsys, "show", "--nope")


def test_defects_are_not_hidden() -> None:
    def broken() -> int:
        raise ValueError("a defect of ours")

    with pytest.raises(ValueError, match="a defect"):
        guarded(broken)


def test_interrupt_has_its_exit_code() -> None:
    def stopped() -> int:
        raise KeyboardInterrupt

    assert guarded(stopped) == 130


def test_init_writes_a_scenario_that_runs_and_never_overwrites(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "new.yaml"
    assert run(["init", str(path)]) == 0
    capsys.readouterr()
    assert run(["train", str(path), "--json"]) == 0
    json.loads(capsys.readouterr().out)
    assert "not overwritten" in complaint(capsys, "init", str(path))
    assert path.read_text() == SCENARIO


@pytest.mark.parametrize("record", [Scenario, ClusterAsk, LayoutAsk, TrainAsk, RoutingAsk])
def test_the_commented_scenario_names_every_key(record: type[Scenario]) -> None:
    missing = [key for key in record.model_fields if f"{key}:" not in SCENARIO]
    assert missing == []


def test_schema_is_json(capsys: Capture) -> None:
    assert run(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"model", "cluster", "layout", "train"} <= set(schema["properties"])


def test_show_without_a_name_lists_every_catalogue(capsys: Capture) -> None:
    assert run(["show", "--json"]) == 0
    overview = json.loads(capsys.readouterr().out)
    assert {"models", "gpus", "nodes", "fabrics", "stacks", "profiles"} <= set(overview)
    assert run(["show"]) == 0
    said = capsys.readouterr().out
    names = [name for kind in overview.values() for name in kind]
    assert all(name in said for name in names)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("deepseek-v3", ("671.0 B", "37.6 B", "FLOP", "kv bytes per token", "source")),
        ("H100", ("989.4 TFLOP/s", "3.35 TB/s", "source", "aiconfigurator-core", "gemm/bf16")),
        ("hgx-h800", ("nic rate", "source")),
        ("rail-ib-400", ("50 GB/s", "latency", "source")),
        ("hai-llm", ("settings", "constant", "source")),
        ("primus", ("plain checkout", "megatron-core", "fused-plain", "source")),
        ("uccl-ep", ("library", "deepep", "low_latency", "source")),
        ("profile:h800-sxm", ("derived from", "h100-sxm", "left out")),
    ],
)
def test_show_explains_an_entry_with_its_sources(name: str, parts: tuple[str, ...], capsys: Capture) -> None:
    assert run(["show", name]) == 0
    said = capsys.readouterr().out
    assert [part for part in parts if part not in said] == []
    assert run(["show", name, "--json"]) == 0
    json.loads(capsys.readouterr().out)


def test_show_says_what_was_meant(capsys: Capture) -> None:
    assert "'deepseek-v3'" in complaint(capsys, "show", "deepsek-v3")
    assert "moesim show" in complaint(capsys, "show", "qqqqqqqq")


def test_validate_own_file(tmp_path: Path, capsys: Capture) -> None:
    rows, out = tmp_path / "own.csv", tmp_path / "pred.csv"
    rows.write_text(
        "model,gpu,gpus,seq_len,gbs,dp,step_time_s\nmistral-7b,H100,8,4096,64,8,5.0\nnosuch,H100,8,4096,64,8,\n"
    )
    assert run(["validate", str(rows), "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rows"], summary["answered"], summary["splits"]) == (2, 1, {"own": 2})
    first, second = csv.DictReader(out.read_text().splitlines())
    assert (first["id"], first["split"], first["status"], first["measured"]) == ("1", "own", "ok", "5")
    assert float(first["low"]) < float(first["predicted"]) < float(first["high"])
    assert (second["id"], second["status"], second["predicted"]) == ("2", "refused", "")
    assert "nosuch" in second["reason"]
    assert run(["validate", str(rows), "--markdown"]) == 0
    assert "| own | 1 |" in capsys.readouterr().out
    assert run(["validate", str(rows)]) == 0
    assert "2 rows (2 own): 1 answered, 1 refused" in capsys.readouterr().out


def test_unknown_columns_are_said_to_be_unread(tmp_path: Path, capsys: Capture) -> None:
    rows = tmp_path / "own.csv"
    rows.write_text("model,gpu,gpus,seq_len,gbs,dp,colour\nmistral-7b,H100,8,4096,64,8,red\n")
    assert run(["validate", str(rows)]) == 0
    said = capsys.readouterr()
    assert "colour" in said.err
    assert "no measured values" in said.out


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    heavy = ("numpy", "pandas", "matplotlib", "simpy", "torch", "pydantic")
    code = f"import sys, moesim.reports.cli.app; print([m for m in {heavy} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_the_package_hands_on_its_public_names_without_torch() -> None:
    code = (
        "import sys, moesim\n"
        "assert moesim.__doc__ and all(getattr(moesim, name) is not None for name in moesim.__all__)\n"
        "assert set(moesim.__all__) <= set(dir(moesim)) and moesim.__all__ == sorted(moesim.__all__)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("room", ["sim", "hwmodels", "traces", "calibrate", "reports"])
def test_a_room_imported_out_of_the_checkout_says_what_to_write(room: str) -> None:
    root = Path(__file__).parents[3]
    said = subprocess.run([sys.executable, "-c", f"import {room}"], cwd=root, capture_output=True, text=True)
    assert said.returncode == 1 and "write `from moesim import" in said.stderr


def test_a_closed_pipe_is_not_a_traceback() -> None:
    command = f"{sys.executable} -m moesim show --json | true"
    said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert said.stderr == ""


def test_formats_without_a_peak_are_shown_as_weight_only(capsys: Capture) -> None:
    """Hopper has no 4-bit tensor path: what it reads and widens is no format of an fp4 peak."""
    for name, native, widened in (
        ("H100", [], ["w8a16", "int4", "mxfp4", "nvfp4"]),
        ("B200", ["nvfp4", "mxfp4"], ["w8a16", "int4"]),
        ("V100", [], []),
    ):
        assert run(["show", name, "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        facts = facts[0] if isinstance(facts, list) else facts
        assert (facts["fp4_formats"], facts["weight_only_formats"]) == (native, widened), name
    assert run(["show", "H100"]) == 0
    said = capsys.readouterr().out
    assert "fp4 formats" not in said and "weight only formats  w8a16, int4, mxfp4, nvfp4" in said
