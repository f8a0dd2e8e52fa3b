"""What own runs say of a deployment reaches every verb that trains it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import moesim
from moesim.sim.train.job import deployment_of, resolve
from moesim.sim.train.memory import step_memory
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.segments import SegmentFactory

JOB: dict[str, Any] = {
    "model": {"base": "mixtral-8x7b", "layers": 4},
    "cluster": {"node": "dgx-h100", "gpus": 16},
    "layout": {"ep": 8},
    "train": {"global_batch": 64, "seq_len": 2048},
}
FACTOR = 1.25


@pytest.fixture
def corrected(tmp_path: Path) -> dict[str, Any]:
    """The job with a file of corrections that knows its deployment."""
    own = {"deployment": deployment_of(moesim.predict_train(JOB).resolved.job), "factor": FACTOR, "half_width": 0.1}
    file = tmp_path / "corrections.json"
    file.write_text(json.dumps({"corrections": [{**own, "rows": 3}]}), encoding="utf-8")
    return {**JOB, "corrections": str(file)}


def test_a_step_a_sweep_and_a_comparison(corrected: dict[str, Any]) -> None:
    plain, own = moesim.predict_train(JOB), moesim.predict_train(corrected)
    assert own.step_time_s == pytest.approx(FACTOR * plain.step_time_s)
    assert moesim.sweep(corrected, {"layout.zero": (1,)}).rows[0]["step_time_s"] == own.step_time_s
    column = moesim.compare([corrected, JOB], break_even=False).columns[0]
    assert column.train is not None and column.train.step_time_s == own.step_time_s


def test_a_plan_and_its_bounds(corrected: dict[str, Any]) -> None:
    given, effort = {"tp": 1, "pp": 1, "micro_batch": 1, "recompute": "none"}, moesim.Effort(top=2)
    plain, own = (moesim.plan(job, given=given, effort=effort) for job in (JOB, corrected))
    assert isinstance(plain, moesim.Plan) and isinstance(own, moesim.Plan)
    for option, other in zip(own.options, plain.options, strict=True):
        assert option.finalist.candidate == other.finalist.candidate
        assert option.finalist.step_time_s == pytest.approx(FACTOR * other.finalist.step_time_s)
        assert option.finalist.bound_s <= option.finalist.step_time_s
    assert any("own runs" in note for note in own.notes) and not any("own runs" in note for note in plain.notes)


def test_a_what_if(corrected: dict[str, Any]) -> None:
    plain, own = (moesim.whatif(job) for job in (JOB, corrected))
    assert isinstance(plain, moesim.WhatIf) and isinstance(own, moesim.WhatIf)
    assert own.step_time_s == pytest.approx(FACTOR * plain.step_time_s)
    assert own.outcomes[0].speed_factor == pytest.approx(plain.outcomes[0].speed_factor)


def test_memory_counts_parameters_without_building_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = resolve(moesim.parse_scenario(JOB))
    expected = step_memory(StepPrices(resolved.job, resolved.kernels, resolved.tuning()))

    def build(*_: object) -> None:
        raise AssertionError("memory built the operations of a layer")

    monkeypatch.setattr(SegmentFactory, "blocks", build)
    assert step_memory(StepPrices(resolved.job, resolved.kernels, resolved.tuning())) == expected
