"""Training logs become rows: steps, memory and settings; what a log lacks or contradicts is said."""

from __future__ import annotations

import csv
import gzip
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from log_forms import ARGUMENTS, deepspeed, megatron, nemo, torchtitan

from moesim.calibrate.record.validation import validate
from moesim.calibrate.rows.files import BadRows, load_rows, write_rows
from moesim.calibrate.rows.measured import read as read_module
from moesim.calibrate.rows.measured.read import Loaded, load_measured, settings_asked
from moesim.refusal import Refusal
from moesim.sim.train.predict import predict_train

H100 = {"gpu": "H100"}
# ten logged intervals: two of warm-up, then 5 s with a little noise around it
TIMES = [9000.0, 6000.0, 5000.0, 5050.0, 4950.0, 5000.0, 5100.0, 4900.0, 5050.0, 4950.0]


def read(tmp_path: Path, text: str, settings: dict[str, str] | None = None, scenario: Path | None = None) -> Loaded:
    path = tmp_path / "train.log"
    path.write_text(text)
    return load_measured(path, scenario, settings)


def row_of(tmp_path: Path, text: str, settings: dict[str, str] | None = None) -> dict[str, str]:
    [row] = read(tmp_path, text, settings).file.rows
    return row


def test_megatron_states_the_whole_setup(tmp_path: Path) -> None:
    loaded = read(tmp_path, megatron(TIMES), H100)
    assert dict(loaded.file.rows[0]) == {
        "id": "train", "source": "Megatron-LM log", "gpu": "H100", "model": "mixtral-8x7b", "gpus": "64",
        "seq_len": "4096", "gbs": "256", "mbs": "1", "tp": "1", "pp": "4", "vpp": "8", "cp": "1", "ep": "8", "etp": "1",
        "zero": "1", "precision": "BF16", "recompute": "none", "dispatcher": "alltoall", "routing": "force_balanced",
        "software": "Megatron-LM", "step_time_s": "5", "repeats": "8", "spread_pct": "1.00",
        "peak_allocated_gib": "40",
    }  # fmt: skip
    assert any("median of 8 logged steps (2 of warm-up left out), spread 1.0 %" in note for note in loaded.notes)
    assert any("model mixtral-8x7b by its sizes" in note for note in loaded.notes)


@pytest.mark.parametrize(
    "prefix", ["", "[1,63]<stdout>:", "worker-0: ", "63: ", "2026-05-04T10:11:12.123456789Z ", "[rank63]: "]
)
def test_launchers_prefixes_change_nothing(tmp_path: Path, prefix: str) -> None:
    text = "".join(prefix + line for line in megatron(TIMES).splitlines(keepends=True))
    assert row_of(tmp_path, text, H100) == row_of(tmp_path, megatron(TIMES), H100)


def test_a_megatron_run_is_predicted_and_compared(tmp_path: Path) -> None:
    path = tmp_path / "train.log.gz"
    path.write_bytes(gzip.compress(megatron(TIMES).encode()))
    validation = validate(path, settings=H100)
    step, peak = validation.records
    assert (step.metric, step.measured, peak.metric, peak.measured) == ("step_time_s", 5.0, "peak_allocated_gib", 40.0)
    assert step.status == peak.status == "ok"
    assert validation.to_dict()["read"][0] == "Megatron-LM log: 1 row"


def test_rows_are_kept_and_read_again_alike(tmp_path: Path) -> None:
    first = validate(_written(tmp_path, megatron(TIMES)), settings=H100)
    with (tmp_path / "rows.csv").open("w", newline="") as handle:
        write_rows(first.files[0], handle)
    again = validate(tmp_path / "rows.csv")
    assert [(r.metric, r.measured, r.predicted) for r in again.records] == [
        (r.metric, r.measured, r.predicted) for r in first.records
    ]
    with (tmp_path / "rows.csv").open() as lines:
        assert next(csv.DictReader(lines))["model"] == "mixtral-8x7b"
    assert load_rows(tmp_path / "rows.csv").unknown == ()


def _written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "train.log").write_text(text)
    return tmp_path / "train.log"


@pytest.mark.parametrize(
    ("change", "column", "cell"),
    [
        ({"fp8": "hybrid", "fp8_recipe": "blockwise"}, "precision", "FP8-block"),
        ({"fp8": "e4m3", "fp8_recipe": "mxfp8"}, "precision", "MXFP8"),
        ({"fp8": "hybrid", "fp8_recipe": "delayed"}, "precision", "FP8"),
        (
            {"recompute_granularity": "selective", "recompute_modules": "['moe_act', 'layernorm']"},
            "recompute",
            "moe_act, layernorm",
        ),
        ({"recompute_granularity": "full"}, "recompute", "full"),
        ({"use_distributed_optimizer": "False"}, "zero", "0"),
        ({"moe_token_dispatcher_type": "flex", "moe_enable_deepep": "True"}, "dispatcher", "deepep"),
        ({"moe_router_force_load_balancing": "False"}, "routing", "natural"),
        ({"virtual_pipeline_model_parallel_size": "None"}, "vpp", "1"),
        ({"virtual_pipeline_model_parallel_size": "None", "num_layers_per_virtual_pipeline_stage": "4"}, "vpp", "2"),
        ({"overlap_moe_expert_parallel_comm": "True"}, "ep_overlap", "yes"),
    ],
)  # fmt: skip
def test_arguments_of_megatron_are_cells(tmp_path: Path, change: dict[str, str], column: str, cell: str) -> None:
    assert row_of(tmp_path, megatron(TIMES, arguments={**ARGUMENTS, **change}), H100)[column] == cell


def test_primus_prints_the_mean_of_the_run_behind_each_time(tmp_path: Path) -> None:
    text = "".join(
        line.replace(".0 | throughput", ".0/6000.0 | throughput") for line in megatron(TIMES).splitlines(True)
    )
    assert "/6000.0" in text
    assert row_of(tmp_path, text, H100)["step_time_s"] == "5"


def test_a_plain_gpt_is_its_sizes_and_a_stranger_is_asked_for(tmp_path: Path) -> None:
    plain = {**ARGUMENTS, "num_experts": "None", "swiglu": "False", "group_query_attention": "False"}
    plain |= {"num_layers": "33", "padded_vocab_size": "50304"}
    row = row_of(tmp_path, megatron(TIMES, arguments=plain), H100)
    assert {k: row[k] for k in ("model", "layers", "hidden", "heads", "vocab")} == {
        "model": "gpt", "layers": "33", "hidden": "4096", "heads": "32", "vocab": "50304",
    }  # fmt: skip
    with pytest.raises(BadRows, match=r"does not say model; its sizes \(layers 33.*are those of no model"):
        read(tmp_path, megatron(TIMES, arguments={**ARGUMENTS, "num_layers": "33"}), H100)


def test_batches_that_ramp_runs_that_begin_again_and_dead_lines(tmp_path: Path) -> None:
    ramp = megatron([3000.0] * 4, batch=128) + megatron([5000.0] * 14, arguments={}, first=5)
    loaded = read(tmp_path, ramp, H100)
    assert loaded.file.rows[0]["gbs"] == "256"
    assert any("the batch changes during the run: 14 of 18" in note for note in loaded.notes)
    twice = read(tmp_path, megatron([9000.0] * 8) + megatron(TIMES, arguments={}), H100)
    assert twice.file.rows[0]["step_time_s"] == "5"
    assert any("the file holds 2 runs; the last one counts" in note for note in twice.notes)
    dead = read(tmp_path, megatron(TIMES) + megatron([float("nan")], arguments={}, first=99), H100)
    assert any("1 line without a positive time" in note for note in dead.notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (megatron([5000.0]), r"1 steady step time \(1 logged, 0 of warm-up\); at least 3 are needed"),
        (megatron([5000.0] * 2), r"2 steady step times \(2 logged"),
        (megatron([5000.0] * 3), r"2 steady step times \(3 logged, 1 of warm-up\)"),
        (
            megatron([float("nan"), -5000.0, 5000.0, 0.0, 5000.0, 5000.0]),
            r"2 steady step times \(3 logged, 1 of warm-up, 3 lines without a positive time\)",
        ),
        (nemo([5.0, 5.0]), "2 steady step times"),
        (torchtitan([1024.0] * 2), "2 steady step times"),
        (deepspeed([6.4, -6.4, 6.4]), "2 steady step times"),
    ],
)
def test_a_median_needs_three_steady_steps(tmp_path: Path, text: str, said: str) -> None:
    settings = dict(H100)
    if "SamplesPerSec" in text:  # its rate becomes seconds once the row is complete
        settings |= {"model": "llama-3.1-8b", "seq_len": "4096"}
    with pytest.raises(BadRows, match=f"train.log: {said}"):
        read(tmp_path, text, {} if "tps:" in text else settings)


def test_counts_of_settings_are_written_as_people_do(tmp_path: Path) -> None:
    lines = "\n".join(line for line in torchtitan([1024.0] * 8).splitlines() if "Trainer" not in line)
    row = row_of(tmp_path, lines, {"seq_len": "8Ki", "gbs": "64", "mbs": "8"})
    assert (row["seq_len"], row["step_time_s"]) == ("8192", "8")


@pytest.mark.parametrize("bar", [False, True])
def test_nemo_in_both_forms(tmp_path: Path, bar: bool) -> None:
    row = row_of(tmp_path, nemo([t / 1000.0 for t in TIMES], bar), {**H100, "model": "mixtral-8x7b", "gbs": "256"})
    expected = {
        "step_time_s": "5",
        "gpus": "64",
        "gbs": "256",
        "mbs": "1",
        "tp": "1",
        "pp": "4",
        "ep": "8",
        "software": "NeMo",
    }
    assert {name: row[name] for name in expected} == expected


def test_torchtitan_counts_tokens_of_one_gpu(tmp_path: Path) -> None:
    row = row_of(tmp_path, torchtitan([100.0, 800.0, *[1024.0] * 6]))
    expected = {
        "model": "llama-3.1-70b", "gpu": "h100-sxm", "gpus": "64", "tp": "8", "pp": "1", "gbs": "64", "mbs": "8",
        "seq_len": "8192", "recompute": "full", "step_time_s": "8",  # 64 x 8192 tokens / (1,024 x 64 GPUs)
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert "peak_allocated_gib" not in row  # it prints what is reserved


def test_torchtitans_settings_on_the_command_line_and_in_toml(tmp_path: Path) -> None:
    lines = torchtitan([1024.0] * 8).splitlines()
    steps = [line for line in lines if "tps:" in line]
    command = "train.py --training.seq_len 8192 --training.global_batch_size=64 --parallelism.tensor_parallel_degree=8"
    row = row_of(tmp_path, "\n".join([command, *steps]), {**H100, "model": "llama-3.1-70b", "gpus": "64"})
    assert (row["step_time_s"], row["tp"], row["seq_len"]) == ("8", "8", "8192")
    toml = [
        "[training]",
        "seq_len = 8192",
        "global_batch_size = 64  # in all",
        "[parallelism]",
        "tensor_parallel_degree = 8",
    ]
    assert row_of(tmp_path, "\n".join([*toml, *steps]), {**H100, "model": "llama-3.1-70b", "gpus": "64"})["tp"] == "8"
    with pytest.raises(BadRows, match="does not say model, gpu, gpus, seq_len, gbs, pp"):
        read(tmp_path, "\n".join(steps))


def test_torchtitans_newer_mesh_and_ranks_that_share_a_line(tmp_path: Path) -> None:
    lines = [line for line in torchtitan([1024.0] * 8).splitlines() if "2-D device mesh" not in line]
    mesh = "Building device mesh with parallelism: pp=1, dp_replicate=1, dp_shard=8, cp=1, tp=8, ep=1, etp=1"
    row = row_of(tmp_path, "\n".join([mesh, *lines]))
    assert (row["gpus"], row["tp"], row["step_time_s"]) == ("64", "8", "8")
    memory = "(after 1 iterations) memory (MB) | allocated: 1.0 | max allocated: {} | reserved: 3.0 | max reserved: 4.0"
    shared = f"[Rank 6] {memory.format(2048.0)}[Rank 0] {memory.format(1024.0)}\n"
    assert row_of(tmp_path, shared + megatron(TIMES).replace("40960.0", "512.0"), H100)["peak_allocated_gib"] == "2"


@pytest.mark.parametrize("old", [False, True])
def test_deepspeed_counts_samples(tmp_path: Path, old: bool) -> None:
    row = row_of(tmp_path, deepspeed([1.0, 3.0, *[6.4] * 6], old), {**H100, "model": "llama-3.1-8b", "seq_len": "4096"})
    expected = {
        "step_time_s": "10",
        "gpus": "8",
        "gbs": "64",
        "mbs": "8",
        "zero": "3",
        "precision": "BF16",
        "stack": "hf-eager",
    }
    assert {name: row[name] for name in expected} == expected
    assert row["peak_allocated_gib"] == "35.25"


JOB: dict[str, Any] = {
    "model": "mixtral-8x7b", "cluster": {"node": "dgx-h100", "gpus": 64}, "layout": {"pp": 4, "vpp": 8, "ep": 8},
    "train": {"global_batch": 256, "seq_len": 4096},
}  # fmt: skip


def scenario(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump({**JOB, **changes}))
    return path


def test_a_scenario_says_what_the_log_lacks_and_is_what_is_predicted(tmp_path: Path) -> None:
    bare = megatron(TIMES, arguments={})
    with pytest.raises(
        BadRows, match=r"does not say model, gpu, gpus, seq_len, pp; give a scenario.*--scenario my.yaml"
    ):
        read(tmp_path, bare)
    validation = validate(_written(tmp_path, bare), scenario=scenario(tmp_path))
    assert validation.records[0].predicted == predict_train(JOB, check_memory=False).step_time_s
    assert validation.files[0].rows[0]["scenario"] == str(tmp_path / "my.yaml")


def test_a_log_that_contradicts_the_scenario_is_refused(tmp_path: Path) -> None:
    path = scenario(tmp_path)
    with pytest.raises(BadRows, match=r"says gbs = 512, but .*my.yaml says 256; mend one of them"):
        read(tmp_path, megatron(TIMES, batch=512, arguments={}), None, path)
    with pytest.raises(BadRows, match=r"says tp = 2, but .*my.yaml says 1|says gpus"):
        read(
            tmp_path,
            megatron(TIMES, arguments={**ARGUMENTS, "tensor_model_parallel_size": "2"}),
            None,
            scenario(tmp_path, layout={"tp": 1, "pp": 4, "vpp": 8, "ep": 8}),
        )
    with pytest.raises(BadRows, match="says gbs = 256, but --set says 512"):
        read(tmp_path, megatron(TIMES), {"gbs": "512"})
    with pytest.raises(BadRows, match="says precision = FP8-block, but"):
        odd = megatron(TIMES, arguments={**ARGUMENTS, "fp8": "hybrid", "fp8_recipe": "blockwise"})
        read(tmp_path, odd, None, scenario(tmp_path, train={**JOB["train"], "precision": "bf16"}))


def test_what_the_log_says_beside_the_scenario_counts(tmp_path: Path) -> None:
    full = megatron(TIMES, arguments={**ARGUMENTS, "recompute_granularity": "full"})
    got = validate(_written(tmp_path, full), scenario=scenario(tmp_path, stack="megatron-core")).records[0].predicted
    job = {**JOB, "stack": {"name": "megatron-core", "dispatcher": "alltoall"}, "routing": "balanced"}
    job["train"] = {**JOB["train"], "recompute": ["full"], "micro_batch": 1, "precision": "bf16"}
    job["layout"] = {**JOB["layout"], "tp": 1, "cp": 1, "etp": 1, "zero": 1}
    assert got == predict_train(job, check_memory=False).step_time_s


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("hello\nworld\n", "no line with a step time that is known"),
        ("\0\0\0", "binary file"),
        (megatron([float("nan")] * 3), "3 logged steps, none with a positive step time"),
        (torchtitan([0.0] * 4), "4 logged steps, none with a positive step time"),
        ("iteration 1/2 | elapsed time per iteration (ms): -5 |\n", "1 logged step, none with a positive step time"),
        ('{"a": 1}', "a result of no form that is known"),
        ("[1, 2]", "no objects of results"),
        ('{"a": ', "is not JSON"),
    ],
)
def test_files_that_say_nothing_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(Refusal, match=said) as refused:
        read(tmp_path, text, {})
    assert len(str(refused.value)) < 500


def test_pipes_folders_and_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path / "pipe", "no plain file"),
        (tmp_path, "is a folder"),
        (tmp_path / "none", "cannot read"),
    ):
        with pytest.raises(BadRows, match=said):
            load_measured(path)
    small = replace(read_module.MEASURED_FILE, most_bytes=10_000)
    monkeypatch.setattr(read_module, "MEASURED_FILE", small)
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(b"x\n" * 100_000))
    assert bomb.stat().st_size < 10_000
    with pytest.raises(BadRows, match="unpacks to more than 10,000 bytes"):
        load_measured(bomb)


def test_settings_are_columns(tmp_path: Path) -> None:
    assert settings_asked(["gpu=H100", "tp=8"]) == {"gpu": "H100", "tp": "8"}
    for bad in ("gpu", "=3", "gpu="):
        with pytest.raises(BadRows, match="write COLUMN=VALUE"):
            settings_asked([bad])
    with pytest.raises(BadRows, match="given twice"):
        settings_asked(["tp=1", "tp=2"])
    with pytest.raises(BadRows, match="no column of training rows; did you mean 'gpus'"):
        read(tmp_path, megatron(TIMES), {"gpuss": "3"})
