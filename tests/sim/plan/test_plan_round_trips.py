"""Every row of a training plan is a scenario: written, read and run it gives its number to the digit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from moesim import plan, predict_train
from moesim.reports.cli.app import run
from moesim.reports.emit.scenario import write_answer
from moesim.sim.plan.train.plan import TIE, Plan
from moesim.sim.plan.train.search import Effort

JOBS: dict[str, dict[str, Any]] = {
    "experts": {
        "model": {"base": "qwen3-30b-a3b", "layers": 8}, "cluster": {"node": "dgx-h100", "gpus": 32},
        "layout": {"ep": 8}, "train": {"global_batch": 128, "seq_len": 4096},
    },
    "skewed, own stack settings, several sizes": {
        "model": {"base": "mixtral-8x7b", "layers": 8}, "cluster": {"gpu": "p5.48xlarge", "gpus": 16},
        "train": {"global_batch": 64, "seq_len": 2048, "precision": "fp8"}, "routing": {"lognormal": 0.6},
        "stack": {"name": "megatron-core", "grad_dtype": "bf16"}, "price_usd_per_gpu_hour": 2.0,
    },
    "dense": {
        "model": {"base": "llama-3.1-8b", "layers": 8}, "cluster": {"node": "dgx-h100", "gpus": 16},
        "train": {"global_batch": 64, "seq_len": 4096}, "layout": {"sequence_parallel": False},
    },
}  # fmt: skip


def planned(name: str) -> Plan:
    sizes = (16, 32) if "several" in name else ()
    answer = plan(JOBS[name], gpus=sizes, effort=Effort(top=4, most=60))
    assert isinstance(answer, Plan)
    return answer


@pytest.mark.parametrize("name", JOBS)
def test_every_row_of_a_plan_runs_and_gives_its_number(name: str, tmp_path: Path) -> None:
    answer = planned(name)
    write_answer(answer, "a plan", tmp_path)
    files = sorted(tmp_path.glob("*.yaml"), key=lambda file: int(file.stem))
    assert len(files) == len(answer.options) > 1
    for option, file in zip(answer.options, files, strict=True):
        written = predict_train(file)
        assert written.step_time_s == option.finalist.step_time_s
        assert (written.low_s, written.high_s) == (option.finalist.low_s, option.finalist.high_s)
        left = written.usable_bytes - max(m.total for m in written.memory)
        assert left == option.headroom_bytes
        assert written.resolved.job.recompute is not None
    for option in answer.pareto:
        estimate = predict_train(answer.scenario(option)).step_time_s / option.finalist.step_time_s
        assert estimate == 1.0 if option.finalist.drawn else 0.9 < estimate < 1.15


def test_one_file_holds_the_best(tmp_path: Path) -> None:
    answer = planned("dense")
    write_answer(answer, "a plan", tmp_path / "best.yaml")
    assert yaml.safe_load((tmp_path / "best.yaml").read_text()) == answer.scenario(answer.options[0])


def test_ties_are_said_and_nothing_else_is_one() -> None:
    answer = planned("experts")
    best = answer.options[0].finalist.step_time_s
    for option in answer.options[1:]:
        assert option.ties == (option.finalist.step_time_s < best * (1.0 + TIE))
    assert not answer.options[0].ties
    assert any("a tie" in note for note in answer.notes) == any(option.ties for option in answer.options)


@pytest.mark.parametrize(("gpus", "words"), [(64, "`moesim plan` finds the fastest of them"), (8, "use more GPUs")])
def test_what_does_not_fit_says_whether_a_plan_would_help(gpus: int, words: str) -> None:
    asked = {
        "model": "qwen3-235b-a22b", "cluster": {"node": "dgx-h100", "gpus": gpus},
        "train": {"global_batch": 256, "seq_len": 4096},
    }  # fmt: skip
    with pytest.raises(Exception, match="does not fit") as refusal:
        predict_train(asked)
    assert words in str(refusal.value)


def test_an_answer_never_overwrites_its_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = tmp_path / "asked.yaml"
    asked.write_text(yaml.safe_dump(JOBS["dense"]))
    assert run(["plan", str(asked), "--out", str(tmp_path / "." / "asked.yaml")]) == 2
    assert "is a file of the question" in capsys.readouterr().err
    assert yaml.safe_load(asked.read_text()) == JOBS["dense"]


def test_a_dispatcher_that_is_not_the_software_s_own_choice_is_written() -> None:
    across = {**JOBS["experts"], "layout": {}, "train": {"global_batch": 128, "seq_len": 4096}}
    given = {"dispatcher": "alltoall", "ep": 16, "tp": 1, "pp": 1}  # over two hosts, where kernels differ most
    answer = plan(across, given=given, effort=Effort(top=1, most=30))
    assert isinstance(answer, Plan)
    best = answer.options[0]
    written = answer.scenario(best)
    assert written["stack"] == {"dispatcher": "alltoall"}
    assert predict_train(written).step_time_s == best.finalist.step_time_s
    usual = {key: value for key, value in written.items() if key != "stack"}
    assert predict_train(usual).step_time_s != best.finalist.step_time_s
