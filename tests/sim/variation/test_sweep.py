"""Sweeps: every combination once, failures recorded, killed sweeps go on, cores and Dask give the same table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from moesim.files.whole import OutputError
from moesim.refusal import MachineFailure
from moesim.reports.cli.app import run
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.train import workers as crews
from moesim.sim.train.predict import predict_train
from moesim.sim.variation.journal import Journal, digest
from moesim.sim.variation.sweep import evaluate, key_of, points, read_settings, sweep, with_settings

JOB: dict[str, Any] = {
    "model": "mixtral-8x7b",
    "cluster": {"node": "dgx-h100", "gpus": 64},
    "layout": {"pp": 4, "vpp": 8, "ep": 8},
    "train": {"global_batch": 256, "seq_len": 4096},
}
VARIED = {"cluster.gpus": (32, 64), "train.precision": ("bf16", "fp7")}


def test_points_are_what_predict_train_says_and_failures_are_rows() -> None:
    found = sweep(JOB, VARIED)
    assert [(r["cluster.gpus"], r["train.precision"]) for r in found.rows] == [
        (32, "bf16"), (32, "fp7"), (64, "bf16"), (64, "fp7")
    ]  # fmt: skip
    assert found.rows[2]["step_time_s"] == predict_train(JOB).step_time_s
    assert found.failed == 2 and "did you mean" in found.rows[1]["error"]


def test_cores_give_the_same_table() -> None:
    assert sweep(JOB, VARIED, workers=2) == sweep(JOB, VARIED)


def test_a_dask_cluster_gives_the_same_table() -> None:
    distributed = pytest.importorskip("distributed", reason="the extra 'dask' is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        found = sweep(JOB, VARIED, dask=cluster.scheduler_address)
    assert found == sweep(JOB, VARIED)


def test_nobody_answers_for_an_unknown_dask_address(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="the extra 'dask' is not installed")
    monkeypatch.setattr(crews, "_ANSWER_S", 1)  # of 5
    with pytest.raises(MachineFailure, match="no Dask scheduler answers"):
        sweep(JOB, VARIED, dask="tcp://127.0.0.1:9")


def test_a_killed_sweep_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.part"
    whole = sweep(JOB, VARIED)
    first = Journal(path, JOB)
    first.add(key_of(points(VARIED)[0]), whole.rows[0])
    first.add(key_of(points(VARIED)[3]), {**whole.rows[3], "error": "kept from before"})
    with path.open("a", encoding="utf-8") as handle:
        handle.write('{"key": "half a li')  # killed while it wrote
    first.free()
    again = Journal(path, JOB)
    assert len(again.done) == 2
    found = sweep(JOB, VARIED, journal=again)
    assert found.rows[:3] == whole.rows[:3] and found.rows[3]["error"] == "kept from before"  # not predicted again
    again.free()
    with Journal(path, JOB) as once_more:
        assert len(once_more.done) == 4 and any("1 of 5 lines" in line for line in once_more.said)


def test_settings_are_paths_and_values() -> None:
    assert read_settings(["a.b=1,2.5,x", "c=[1]"]) == {"a.b": (1, 2.5, "x"), "c": ([1],)}
    assert with_settings({"a": {"b": 1}}, {"a.b": 2, "c.d": 3}) == {"a": {"b": 2}, "c": {"d": 3}}
    for texts, message in (
        (["a"], "sets nothing"),
        ([], "nothing is varied"),
        (["a=1", "a=2"], "set twice"),
        (["a=]"], "not valid YAML"),
    ):
        with pytest.raises(ScenarioError, match=message):
            read_settings(texts)
    assert "gpus holds 64, not keys" in evaluate(JOB, {"cluster.gpus.each": 3})["error"]


def test_fields_of_the_model_are_varied_by_the_name_of_its_base() -> None:
    changed = with_settings({"model": "qwen3-30b-a3b"}, {"model.top_k": 4, "model.moe.expert_intermediate": 512})
    assert changed["model"] == {"base": "qwen3-30b-a3b", "top_k": 4, "moe": {"expert_intermediate": 512}}
    one, two = (evaluate(JOB, {"model.top_k": picked}) for picked in (1, 2))
    assert one["error"] is two["error"] is None
    assert one["step_time_s"] < two["step_time_s"] == predict_train(JOB).step_time_s


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario, out = tmp_path / "job.yaml", tmp_path / "table.csv"
    scenario.write_text(json.dumps(JOB), encoding="utf-8")
    ask = ["sweep", str(scenario), "--set", "cluster.gpus=32,64", "--workers", "1"]
    assert run([*ask, "--out", str(out)]) == 0
    with out.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 2 and float(rows[1]["step_time_s"]) == predict_train(JOB).step_time_s
    assert not out.with_name("table.csv.part").exists()
    capsys.readouterr()
    assert run([*ask, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["cluster.gpus"] == 32
    assert run([*ask, "--out", str(tmp_path / "table.txt")]) == 2


def test_serving_is_swept_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = {
        "model": "mixtral-8x7b",
        "cluster": {"node": "dgx-h100", "gpus": 2},
        "layout": {"tp": 2},
        "serve": {"engine": "vllm", "requests": {"kind": "closed", "concurrency": 8, "input_tokens": 512,
                                                 "output_tokens": 64}},
    }  # fmt: skip
    found = sweep(scenario, {"serve.requests.concurrency": (4, 16), "layout.tp": (2, 3)})
    few, wrong, many, _ = found.rows
    assert many["output_tokens_per_s_per_gpu"] > few["output_tokens_per_s_per_gpu"]
    assert many["tpot_s"] > few["tpot_s"] and wrong["error"]
    path = tmp_path / "serve.yaml"
    path.write_text(json.dumps(scenario), encoding="utf-8")
    assert run(["sweep", str(path), "--set", "serve.requests.concurrency=4,16", "--workers", "1"]) == 0
    assert "tokens/s/GPU" in capsys.readouterr().out


def test_a_journal_begins_anew_when_an_input_changes(tmp_path: Path) -> None:
    model, path = tmp_path / "model.yaml", tmp_path / "t.csv.part"
    model.write_text("base: mixtral-8x7b\n", encoding="utf-8")
    asked = {**JOB, "model": str(model)}
    first = Journal(path, asked)
    first.add("{}", {"step_time_s": 1.0})
    first.free()
    with Journal(path, asked) as same:
        assert same.done == {"{}": {"step_time_s": 1.0}}
    model.write_text("base: mixtral-8x7b\ntop_k: 1\n", encoding="utf-8")  # the same name, another content
    with Journal(path, asked) as other:
        assert not other.done and "changed" in other.said[0]
    assert '"step_time_s": 1.0' in path.with_name("t.csv.part.before").read_text(encoding="utf-8")  # nothing is lost


def test_files_that_only_a_setting_names_count_too(tmp_path: Path) -> None:
    model, path = tmp_path / "model.yaml", tmp_path / "t.csv.part"
    model.write_text("base: mixtral-8x7b\n", encoding="utf-8")
    settings = {"model": ("dbrx", str(model))}
    for content, said in (("base: mixtral-8x7b\n", 0), ("base: dbrx\n", 1)):
        model.write_text(content, encoding="utf-8")
        with Journal(path, JOB, settings) as journal:
            assert len(journal.said) == said


def test_the_file_that_a_models_file_starts_from_counts_too(tmp_path: Path) -> None:
    base, model, path = tmp_path / "base.yaml", tmp_path / "model.yaml", tmp_path / "t.csv.part"
    model.write_text(f"base: {base}\nlayers: 4\n", encoding="utf-8")
    for content, said in (("name: a\n", 0), ("name: a\n", 0), ("name: b\n", 1)):
        base.write_text(content, encoding="utf-8")
        with Journal(path, {**JOB, "model": str(model)}) as journal:
            assert len(journal.said) == said


def test_lines_of_a_journal_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.part"
    first = Journal(path, JOB)
    for number in range(3):
        first.add(str(number), {"step_time_s": float(number)})
    first.free()
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[2] = lines[2].replace("1.0", "9.0")  # altered
    lines.insert(2, '["foreign"]')
    path.write_text("\n".join(lines), encoding="utf-8")
    with Journal(path, JOB) as again:
        assert set(again.done) == {"0", "2"} and "2 of 4 lines" in again.said[-1]


def test_two_sweeps_do_not_share_a_journal(tmp_path: Path) -> None:
    held = Journal(tmp_path / "t.csv.part", JOB)
    with pytest.raises(OutputError, match="another sweep"):
        Journal(tmp_path / "t.csv.part", JOB)
    held.close()


def test_keys_that_lead_nowhere_are_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ScenarioError, match=r"--set layout\.foo"):
        sweep(JOB, {"cluster.gpus": (32, 64), "layout.foo": (1, 2)})
    with pytest.raises(ScenarioError, match="gpus holds 64, not keys"):
        sweep(JOB, {"cluster.gpus.each": (3,)})
    scenario = tmp_path / "job.yaml"
    scenario.write_text(json.dumps(JOB), encoding="utf-8")
    assert run(["sweep", str(scenario), "--set", "train.precision=fp7", "--workers", "1"]) == 1  # no point at all
    assert "1 of 1 point " in capsys.readouterr().err


def _config(folder: Path, layers: int) -> None:
    config = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "hidden_size": 512,
              "intermediate_size": 256, "num_hidden_layers": layers, "num_attention_heads": 8, "vocab_size": 1000,
              "num_key_value_heads": 2, "num_local_experts": 8, "num_experts_per_tok": 2,
              "max_position_embeddings": 4096, "tie_word_embeddings": False}  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize("named", ["mm", {"base": "mm"}, "own.yaml", "./mm"])
def test_what_a_folder_of_a_model_holds_counts_too(
    named: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder by its bare name, as the base of a model, and as the base of a model's file; and what lies beside."""
    monkeypatch.chdir(tmp_path)
    _config(Path("mm"), 4)
    Path("own.yaml").write_text("base: mm\nlayers: 2\n", encoding="utf-8")
    asked, seen = {**JOB, "model": named}, []
    seen.append(digest(asked, {}))
    _config(Path("mm"), 6)
    seen.append(digest(asked, {}))
    Path("mm/hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}', encoding="utf-8")
    seen.append(digest(asked, {}))
    assert len(set(seen)) == 3
