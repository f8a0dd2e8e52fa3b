"""What users can change: each such row of a what-if is a scenario, which by itself gives its number to the digit."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from moesim.reports.cli.app import run
from moesim.reports.emit.scenario import write_changes
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.predict import predict_serve
from moesim.sim.train.job import resolve
from moesim.sim.train.predict import predict_train
from moesim.sim.variation import whatif_train as module
from moesim.sim.variation.settings import asked_with
from moesim.sim.variation.settings_train import train_settings
from moesim.sim.variation.whatif_serve import ServeWhatIf, tokens_at_most, whatif_serve
from moesim.sim.variation.whatif_train import WhatIf, whatif_train

TRAIN: dict[str, Any] = {
    "model": {"base": "mixtral-8x7b", "layers": 8},
    "cluster": {"node": "dgx-h100", "gpus": 32},
    "layout": {"tp": 2, "pp": 2, "ep": 4},
    "train": {"global_batch": 64, "micro_batch": 2, "seq_len": 2048, "recompute": "light"},
    "routing": {"lognormal": 0.5, "seed": 2},
    "stack": "megatron-tuned",
    "price_usd_per_gpu_hour": 2.0,
}
SERVE: dict[str, Any] = {
    "model": {"base": "deepseek-v3", "layers": 5},
    "cluster": {"node": "dgx-h200", "gpus": 16},
    "layout": {"tp": 2, "ep": 4},
    "serve": {
        "attention_dp": 2, "precision": "fp8",
        "requests": {"kind": "poisson", "rate_per_s": 20, "count": 60, "input_tokens": 800, "output_tokens": 60},
    },
    "price_usd_per_gpu_hour": 4.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained() -> WhatIf:
    return whatif_train(TRAIN)


@pytest.fixture(scope="module")
def served() -> ServeWhatIf:
    return whatif_serve(SERVE)


def written(answer: WhatIf | ServeWhatIf, folder: Path) -> list[Path]:
    """The files, in the order of the changes that fit."""
    write_changes(answer, folder)
    return list(folder.glob("*.yaml"))


def test_every_change_of_a_training_run_gives_its_step_to_the_digit(trained: WhatIf, tmp_path: Path) -> None:
    files = written(trained, tmp_path)
    able = [o for o in trained.outcomes if o.keys is not None and o.fits]
    assert len(files) == len(able) > 15  # no two changes share a file
    for o in able:
        assert o.keys is not None and not o.estimated
        mapping = asked_with(parse_scenario(TRAIN), o.keys)
        assert any(yaml.safe_load(file.read_text(encoding="utf-8")) == mapping for file in files), o
        assert predict_train(mapping).step_time_s == o.step_time_s, o
    for o in trained.outcomes:
        if o.keys is not None and not o.fits:
            assert not predict_train(asked_with(parse_scenario(TRAIN), o.keys), check_memory=False).memory_fits


def test_every_change_of_a_deployment_gives_its_numbers_to_the_digit(served: ServeWhatIf, tmp_path: Path) -> None:
    files = written(served, tmp_path)
    able = [o for o in served.outcomes if o.keys is not None and o.fits]
    assert len(files) == len(able) > 12
    by_text = {file.read_text(encoding="utf-8").splitlines()[0].removeprefix("# "): file for file in files}
    for o in able:
        p = predict_serve(next(file for said, file in by_text.items() if said.startswith(f"{o.knob} {o.change}: ")))
        if o.knob != "price":
            assert tokens_at_most(p) / served.tokens_per_s == o.speed_factor, o
        assert (p.ttft_s.mean, p.tpot_s.mean) == (o.ttft_s, o.tpot_s), o


def test_what_can_be_changed_is_told_from_what_has_to_be_bought(trained: WhatIf, served: ServeWhatIf) -> None:
    of: dict[str, set[str]] = {"settings": set(), "hardware": set(), "question": set()}
    for o in trained.outcomes:
        of[o.group].add(o.knob)
        assert (o.keys is None) == (o.group == "hardware")
    assert of["hardware"] == {
        "GPU FLOP/s", "HBM bandwidth", "HBM size", "NVLink bandwidth", "NIC bandwidth", "network latency"
    }  # fmt: skip
    assert of["settings"] == {
        "micro-batch", "recompute", "token dispatcher", "CUDA graphs", "expert parallel", "virtual stages", "ZeRO",
        "overlap of tensor parallelism", "overlap of gradients", "overlap of the expert exchange", "sequence parallel",
        "precision",
    }  # fmt: skip
    assert of["question"] == {"global batch", "expert imbalance", "price"}
    assert {o.knob for o in served.outcomes if o.group == "settings"} == {
        "tokens of a pass", "running sequences", "tensor parallel", "expert parallel", "attention", "KV cache",
        "speculative", "two batches overlapped", "spare expert slots", "precision",
    }  # fmt: skip
    record = trained.to_dict()["outcomes"]
    assert {row["group"] for row in record} == set(of) and all(
        row["keys"] for row in record if row["group"] != "hardware"
    )


def test_no_change_is_the_run_as_asked_and_none_comes_twice(trained: WhatIf) -> None:
    jobs = [resolve(parse_scenario(TRAIN)).job]
    for o in trained.outcomes:
        if o.keys is not None and o.knob != "price":
            job = resolve(parse_scenario(asked_with(parse_scenario(TRAIN), o.keys))).job
            assert job not in jobs, o
            jobs.append(job)


def test_large_steps_are_estimated_unless_asked_to_be_run(monkeypatch: pytest.MonkeyPatch, trained: WhatIf) -> None:
    monkeypatch.setattr(module, "_MOST_ROWS", 0)
    ratios = whatif_train(TRAIN)
    assert all(o.estimated for o in ratios.outcomes if o.knob != "price") and "--out runs" in ratios.notes[0]
    exact = whatif_train(TRAIN, exact=True)
    assert exact.outcomes == trained.outcomes
    run_as_is = {(o.knob, o.change): o.step_time_s for o in exact.outcomes}
    for o in ratios.outcomes:
        assert o.step_time_s == pytest.approx(run_as_is[o.knob, o.change], rel=0.25), o


def test_a_dispatcher_is_one_that_the_machines_can_run() -> None:
    def words(**cluster: Any) -> set[str]:
        asked = {**TRAIN, "model": "qwen3-30b-a3b", "cluster": {"gpus": 32, **cluster}, "layout": {"ep": 16}}
        return {s.change for s in train_settings(resolve(parse_scenario(asked))) if s.knob == "token dispatcher"}

    assert words(node="dgx-h100") == {"alltoall", "deepep", "hybridep", "two-level"}
    assert words(gpu="mi300x") == {"alltoall", "mori", "two-level"}
    assert words(gpu="p5.48xlarge") == {"alltoall", "deepep-uccl", "deepep-nvshmem", "two-level"}


def test_keys_go_where_the_scenario_says_something_short() -> None:
    scenario = parse_scenario(TRAIN | {"serve": deepcopy(SERVE["serve"])})
    said = asked_with(scenario, {"stack.dispatcher": "alltoall", "serve.engine.token_budget": 512, "layout.tp": None})
    assert said["stack"] == {"name": "megatron-tuned", "dispatcher": "alltoall"}
    assert said["serve"]["engine"] == {"name": "vllm", "token_budget": 512} and "tp" not in said["layout"]
    assert scenario.layout.tp == 2 and asked_with(scenario, {"serve.speculative": None}) == asked_with(scenario, {})


def test_command_writes_into_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = tmp_path / "job.yaml"
    scenario.write_text(yaml.safe_dump(TRAIN), encoding="utf-8")
    assert run(["whatif", str(scenario), "--out", str(tmp_path / "missing")]) == 2
    assert "is no folder" in capsys.readouterr().err
    folder = tmp_path / "changes"
    folder.mkdir()
    assert run(["whatif", str(scenario), "--out", str(folder)]) == 0
    said = capsys.readouterr()
    assert "what you can change" in said.out and "what you would have to buy" in said.out
    assert "changes as scenarios" in said.err and (folder / "price-minus-20.yaml").exists()
