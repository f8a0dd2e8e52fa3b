"""Names of systems, profiles from tables of samples, corrections from own rows: what is read, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moesim.calibrate.measure.samples import BadSamples
from moesim.calibrate.own.bad_source import BadSource
from moesim.calibrate.own.deployments import BadDeployment, learn
from moesim.calibrate.own.sources import from_samples, machine_file, system_name
from moesim.calibrate.rows.files import load_rows
from moesim.sim.train.own_runs import write_own_runs
from moesim.sim.train.predict import predict_train


def test_systems_are_spelled_either_way() -> None:
    assert system_name("h200_sxm") == system_name("h200-sxm") == "h200-sxm"
    with pytest.raises(BadSource, match="did you mean 'h200"):
        system_name("h200_smx")
    with pytest.raises(BadSource, match="--system is missing: one of"):
        system_name("")


def test_a_table_of_samples_makes_the_profile_that_measuring_made(tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="fits need scipy")
    from dataclasses import asdict

    from synthetic import MACHINE, samples

    from moesim.calibrate.measure.samples import append, load_samples
    from moesim.calibrate.own.profile import make_own_profile

    table, rows = tmp_path / "law.samples.csv", samples(1, quick=True)
    append(table, rows)
    with pytest.raises(BadSamples, match=r"needs law.samples.machine.json beside it"):
        from_samples(table)
    machine_file(table).write_text(json.dumps(asdict(MACHINE)))
    assert from_samples(table).raw == make_own_profile(load_samples(table), MACHINE, table)


ROW = "llama-3.1-8b,H100,8,4096,128,1,1,1,1,megatron-tuned,26.02"
HEADER = "model,gpu,gpus,seq_len,gbs,mbs,tp,pp,cp,stack,release,step_time_s"


def own_rows(path: Path, factors: list[float]) -> Path:
    """Runs of one deployment that take `factors` times what is predicted."""
    from moesim.calibrate.record.validation import validate

    path.write_text(f"{HEADER}\n{ROW},\n")
    predicted = validate(path).records[0].predicted
    assert predicted is not None
    path.write_text("\n".join([HEADER, *(f"{ROW},{predicted * f}" for f in factors)]) + "\n")
    return path


def test_own_rows_correct_their_deployment_and_no_other(tmp_path: Path) -> None:
    kept = learn([load_rows(own_rows(tmp_path / "mine.csv", [1.2, 1.25, 1.3]))])
    assert [len(each.runs) for each in kept] == [3]
    file = tmp_path / "corrections.json"
    write_own_runs(kept, file)
    job: dict[str, Any] = {
        "model": "llama-3.1-8b", "cluster": {"gpu": "H100", "gpus": 8}, "stack": "megatron-tuned",
        "train": {"global_batch": 64, "seq_len": 8192},
    }  # fmt: skip
    plain = predict_train(job, check_memory=False)
    ours = predict_train({**job, "corrections": str(file)}, check_memory=False)
    assert 1.1 < ours.step_time_s / plain.step_time_s < 1.25  # two doublings away: part of it is not believed yet
    assert ours.high_s > 1.25 * plain.step_time_s
    assert sum(ours.breakdown_s.values()) == pytest.approx(ours.step_time_s, rel=1e-9)
    assert ours.sureness.band.startswith("own runs") and ours.low_s < ours.step_time_s < ours.high_s
    other = {**job, "model": "mixtral-8x7b", "corrections": str(file)}
    stretched = predict_train(other, check_memory=False)
    assert stretched.step_time_s == predict_train({**job, "model": "mixtral-8x7b"}, check_memory=False).step_time_s
    assert any("knows no own runs of mixtral-8x7b" in note for note in stretched.assumptions)


def test_rows_without_a_measured_step_teach_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(f"{HEADER}\n{ROW},\n")
    with pytest.raises(BadDeployment, match="no row has a measured step_time_s"):
        learn([load_rows(tmp_path / "mine.csv")])


@pytest.mark.parametrize("cell", ["-5", "0", "soon", "nan"])
def test_a_measured_cell_that_is_no_time_is_named(tmp_path: Path, cell: str) -> None:
    text = own_rows(tmp_path / "mine.csv", [1.2, 1.25]).read_text()
    head, first, *rest = text.splitlines()
    at = head.split(",").index("step_time_s")
    cells = first.split(",")
    cells[at] = cell
    (tmp_path / "mine.csv").write_text("\n".join([head, ",".join(cells), *rest]))
    said = (
        f"mine.csv, row 1: measured step_time_s '{cell}' is not counted: a positive number is expected; mend the cell"
    )
    with pytest.raises(BadDeployment, match=said):
        learn([load_rows(tmp_path / "mine.csv")])
