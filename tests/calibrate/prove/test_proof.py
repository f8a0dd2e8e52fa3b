"""A proof says what was measured beside what was predicted before, and its rows are read by validate."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import MACHINE

from moesim.calibrate.prove.cases import Case, Scale, cases
from moesim.calibrate.prove.proof import predict_case, prove

pytest.importorskip("scipy", reason="fits need scipy")


def test_proof_compares_what_was_measured_with_what_was_said_before(profile: str) -> None:
    """With timings equal to the predictions the errors are zero; with timings twice as long, half is missing."""
    from moesim.calibrate.measure.clock import Timing
    from moesim.calibrate.measure.session import crew_of

    programs = cases(Scale(1), quick=True)
    said = [predict_case(case, profile)[0] for case in programs]

    def run(asked: list[Case], *_: object) -> list[list[Timing]]:
        return [[Timing(2.0 * s, 0.0, 3, 0.0), Timing(2.2 * s, 0.0, 3, 0.0)] for s, _ in zip(said, asked, strict=True)]

    proof = prove(programs, crew_of(MACHINE, 1), profile, run=run)
    assert proof.median_error_pct == pytest.approx(50.0) and proof.worst_error_pct == pytest.approx(50.0)
    assert proof.noise_pct == pytest.approx(5.0)
    assert set(proof.to_dict()) == {"programs", "median_error_pct", "worst_error_pct", "noise_pct"}


def test_proved_rows_are_read_by_validate(profile: str, tmp_path: Path) -> None:
    from moesim.calibrate.prove.proof import Proof, Proved
    from moesim.calibrate.prove.proved_rows import write_proved_rows
    from moesim.calibrate.record.validation import validate

    programs = cases(Scale(2))
    proved = []
    for case in programs:
        seconds, breakdown = predict_case(case, profile)
        proved.append(
            Proved(
                name=case.name, kind=case.kind, mode=case.mode, ranks=2, measured_s=seconds, predicted_s=seconds,
                error_pct=0.0, noise_pct=1.0, breakdown_s=breakdown,
            )
        )  # fmt: skip
    rows = tmp_path / "rows.csv"
    write_proved_rows(programs, Proof(tuple(proved)), profile, rows)
    records = validate(rows).records
    assert len(records) == sum(case.mode == "train" for case in programs)
    for record in records:  # the same question, asked through the rows
        assert record.error_pct == pytest.approx(0.0, abs=1e-3), record.reason


def test_programs_are_no_shapes_of_the_plan() -> None:
    """The loop is closed only if whole programs are new: none of their widths is measured."""
    from moesim.calibrate.measure.plan import CPU

    for ranks in (1, 2):
        programs = cases(Scale(ranks))
        assert len(programs) >= 24 and len({c.name for c in programs}) == len(programs)
        assert {c.mode for c in programs} == {"train", "decode"} and {c.kind for c in programs} == {"dense", "MoE"}
        assert not {c.hidden for c in programs} & {k for _, k in CPU.pairs}
