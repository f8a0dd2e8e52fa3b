"""Validation: blind to what was measured, deterministic, complete, and its statistics done by hand."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from moesim.calibrate.record.summary import accuracy, summarise
from moesim.calibrate.record.validate import Record, family_of, validate_files, write_records
from moesim.calibrate.record.validation import validate
from moesim.calibrate.rows import outcomes as predicting
from moesim.calibrate.rows.files import BadRows, blinded, load_rows, measured, published_rows
from moesim.calibrate.rows.kinds import HIDDEN, SERVING, TABLES, TRAINING
from moesim.calibrate.rows.outcomes import MEMORY_BAND, predict_rows
from moesim.calibrate.rows.sources import source_of

HEADER = "id,source,model,gpu,gpus,seq_len,gbs,mbs,tp,pp,dp,precision,step_time_s,peak_allocated_gib,split,notes\n"
ROWS = (
    "a,Lab README x.md,mistral-7b,H100,8,4096,64,1,1,1,8,BF16,5.0,60,fit,fast\n"
    "b,Lab (2025),mistral-7b,H100,8,4096,64,1,1,1,8,BF16,,,test,same question as a\n"
    "c,Lab,mistral-7b,H100,8,4096,64,1,8,1,1,BF16,7.0,,stress,\n"
    "d,Lab,mistral-7b,H100,8,4096,64,1,3,1,1,BF16,7.0,,test,\n"
    ",,mixtral-8x7b,A100-80GB,64,2048,256,1,2,4,8,BF16,7.0,,,\n"
)


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(HEADER + ROWS)
    return path


def written(records: Sequence[Record]) -> list[dict[str, str]]:
    handle = io.StringIO()
    write_records(records, handle)
    return list(csv.DictReader(io.StringIO(handle.getvalue())))


def test_one_line_per_row_and_metric_in_order(own_file: Path) -> None:
    lines = written(validate(own_file).records)
    assert [line["id"] for line in lines] == ["a", "a", "b", "b", "c", "c", "d", "d", "5", "5"]
    assert [line["metric"] for line in lines] == list(TRAINING.metrics) * 5
    assert [line["split"] for line in lines[::2]] == ["fit", "test", "stress", "test", "own"]
    assert [line["status"] for line in lines[::2]] == ["ok", "ok", "ok", "refused", "ok"]
    assert [line["measured"] for line in lines[:3]] == ["5", "60", ""]
    assert "tp=3" in lines[6]["reason"] and lines[6]["predicted"] == ""
    for line in lines:
        if line["status"] == "ok":
            assert float(line["low"]) < float(line["predicted"]) < float(line["high"])
        both = bool(line["measured"] and line["predicted"])
        assert bool(line["error_pct"]) == both
    error = 100 * (float(lines[0]["predicted"]) / 5.0 - 1)
    assert float(lines[0]["error_pct"]) == pytest.approx(error, abs=1e-3)


def test_memory_has_its_assumed_band(own_file: Path) -> None:
    line = written(validate(own_file).records)[1]
    assert float(line["high"]) / float(line["predicted"]) == pytest.approx(1 + MEMORY_BAND)


def test_predictions_are_blind(tmp_path: Path) -> None:
    """Measured values, source, notes and ids changed: the same bytes, for every 97th published row."""
    columns = ("metric", "predicted", "low", "high", "status", "reason")
    for file in published_rows():
        kept = file.rows[::97]
        changed = [dict(r) | {k: "" for k in HIDDEN if k in r} | {"id": f"x{i}"} for i, r in enumerate(kept)]
        paths = []
        for name, rows in (("seen.csv", kept), ("blind.csv", changed)):
            paths.append(tmp_path / name)
            with paths[-1].open("w", newline="") as handle:
                writer = csv.DictWriter(handle, list(file.rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        seen, blind = (written(validate(p).records) for p in paths)
        assert [[line[c] for c in columns] for line in seen] == [[line[c] for c in columns] for line in blind]


def test_what_is_hidden_is_never_handed_on() -> None:
    assert not any(set(HIDDEN) & set(table.workload) for table in TABLES)
    row = published_rows()[0].rows[0]
    assert not set(blinded(row)) & set(HIDDEN)


def test_equal_questions_are_predicted_once(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []
    original = predicting.predict_workload

    def counting(row: dict[str, str]) -> predicting.Outcome:
        asked.append(row)
        return original(row)

    monkeypatch.setattr(predicting, "predict_workload", counting)
    validate(own_file)
    assert len(asked) == 4


def test_two_processes_give_the_same_bytes_as_one(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = written(validate(own_file).records)
    monkeypatch.setattr(predicting, "_PARALLEL_FROM", 0)
    steps: list[tuple[int, int]] = []
    together = written(validate(own_file, workers=2, progress=lambda *done: steps.append(done)).records)
    assert together == alone
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_defects_are_not_turned_into_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(row: dict[str, str]) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(predicting, "simulate_row", broken)
    with pytest.raises(ZeroDivisionError):
        predict_rows([dict.fromkeys(TRAINING.workload, "1")])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is empty"),
        ("model,gpu\nx,y\n", "lacks column gpus, seq_len, gbs"),
        ("model,gpu,gpus,seq_len,gbs\n", "no rows"),
        ("model,gpu,gpus,seq_len,gbs,gbs\na,b,1,1,1,1\n", "twice"),
        ("model,gpu,gpus,seq_len,gbs\na,b,1\n", "line 2: 3 cells under 5 columns"),
        ('model,gpu,gpus,seq_len,gbs\n"a"b,c,1,1,1\n', "not a CSV"),
        ("\x00\x01", "binary file"),
    ],
)
def test_bad_files(text: str, part: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(BadRows, match=part):
        load_rows(path)


def test_a_file_without_metric_columns_is_predicted(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("\ufeffmodel,gpu,gpus,seq_len,gbs,dp\r\nmistral-7b,H100,8,4096,64,8\r\n\r\n", encoding="utf-8")
    (record,) = validate(path).records
    assert (record.id, record.split, record.metric, record.status) == ("1", "own", "step_time_s", "ok")
    assert summarise([record]).lines == ()


@pytest.mark.parametrize(
    ("text", "value", "note"),
    [
        ("", None, ""),
        ("2.5", 2.5, ""),
        ("abc", None, "a positive number is expected"),
        ("nan", None, "'nan' is not counted"),
        ("-1", None, "'-1' is not counted"),
    ],
)
def test_measured(text: str, value: float | None, note: str) -> None:
    number, why = measured({"step_time_s": text}, "step_time_s")
    assert number == value
    assert note in why and bool(note) == bool(why)


def record(predicted: float | None, value: float | None, split: str = "fit", **groups: str) -> Record:
    low, high = (0.9 * predicted, 1.1 * predicted) if predicted else (None, None)
    reason = "" if predicted else "cannot be"
    return Record(
        id="x", split=split, metric="step_time_s", measured=value, predicted=predicted, low=low, high=high,
        reason=reason, groups=groups,
    )  # fmt: skip


def test_rows_of_other_teams_stand_apart(tmp_path: Path) -> None:
    """The same row in a file of other teams: same prediction, families and kinds of their own."""
    kinds = {}
    for name in ("training.csv", "training_other_teams.csv"):
        (tmp_path / name).write_text(HEADER + ROWS.splitlines(keepends=True)[0])
        first = validate(tmp_path / name).records[0]
        kinds[name] = (first.predicted, first.groups["kind"], first.groups["whose rows"])
    (ours, kind, whose), (theirs, other, others) = kinds.values()
    assert ours == theirs and other == f"other teams: {kind}" and (whose, others) == ("first files", "other teams")


def test_statistics_by_hand() -> None:
    errors = accuracy([record(1.1, 1.0), record(0.8, 1.0), record(1.0, 1.0), record(1.0, None), record(None, 1.0)])
    assert errors is not None
    assert errors.rows == 3
    assert errors.median_abs_pct == pytest.approx(10.0)
    assert errors.mean_abs_pct == pytest.approx(10.0)
    assert errors.p90_abs_pct == pytest.approx(18.0)  # linear between 10 and 20
    assert errors.median_bias_pct == pytest.approx(0.0)
    assert errors.mean_bias_pct == pytest.approx(-10.0 / 3)
    assert errors.coverage_pct == pytest.approx(200.0 / 3)
    assert errors.half_width_pct == pytest.approx(10.0)
    wide = replace(record(1.0, 1.0), high=2.0)
    told = accuracy([record(1.0, 1.0), wide, wide])
    assert told is not None and told.half_width_pct == pytest.approx(100.0)  # of the interval in the middle
    assert accuracy([record(1.0, None)]) is None


def test_summary_keeps_splits_apart_and_does_not_count_stress() -> None:
    records = [record(1.0, 1.0, s, GPU="g") for s in ("stress", "test", "fit", "own")] + [record(None, 2.0, "test")]
    summary = summarise(records)
    assert (summary.rows, summary.answered, summary.refused) == (5, 4, {"cannot be": 1})
    assert summary.splits == {"fit": 1, "test": 2, "own": 1, "stress": 1}
    assert [(line.split, line.counted) for line in summary.of("all", "step_time_s")] == [
        ("fit", True), ("test", True), ("own", True), ("stress", False),
    ]  # fmt: skip
    assert summary.dimensions() == ("GPU",)
    assert len(summary.to_dict()["accuracy"]) == len(summary.lines)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        (
            "NVIDIA Megatron-Bridge docs performance-summary.md (2026-08), 26.08",
            "NVIDIA Megatron-Bridge docs",
        ),
        ("Korthikanti et al. 2022 (arXiv 2205.05198) Table 5", "Korthikanti et al. 2022"),
        ("MosaicML llm-foundry scripts/train/README.md, section", "MosaicML llm-foundry"),
        ("", ""),
    ],
)
def test_source_of(text: str, short: str) -> None:
    assert source_of(text) == short


def test_family_of() -> None:
    names = ("llama-3.1-8b", "gpt-oss-20b", "gpt3-175b", "my/dir/qwen3.json", "123")
    assert [family_of(m) for m in names] == ["llama", "gpt-oss", "gpt", "qwen", "123"]


def test_published_rows_are_the_documented_ones() -> None:
    shipped = published_rows()
    runs, sweeps, comm, serving, *others = shipped
    assert (len(runs.rows), len(sweeps.rows), len(comm.rows), len(serving.rows)) == (357, 705, 1531, 2058)
    assert [len(file.rows) for file in others] == [76, 55, 227]
    assert runs.metrics == ("step_time_s",) and sweeps.metrics == TRAINING.metrics
    assert comm.metrics == ("time_us", "bandwidth_gbs")
    assert serving.metrics == tuple(m for m in SERVING.metrics if m != "requests_per_s")  # no published row has one
    assert all(file.unknown == () for file in shipped)
    ids = [row["id"] for file in shipped for row in file.rows]
    assert len(set(ids)) == len(ids)
    assert all(row["source"] and row["split"] in ("fit", "test", "stress") for file in shipped for row in file.rows)


def test_published_files_name_no_workplace() -> None:
    for file in (f for f in files("moesim.calibrate").joinpath("published").iterdir() if f.is_file()):
        text = file.read_text(encoding="utf-8")
        for word in ("read:", "(memory)", "transcription", "concordant"):
            assert word not in text, (file.name, word)
        folder = re.search(r"/(?:work/|tmp)|(?<![\w.:/-])/(?:home|root|mnt|usr|var|opt|data)\b", text)
        assert folder is None, (file.name, folder)


def test_own_files_and_published_files_take_the_same_way(own_file: Path) -> None:
    assert written(validate_files((load_rows(own_file),))) == written(validate(own_file).records)
