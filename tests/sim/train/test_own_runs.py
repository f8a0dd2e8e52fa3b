"""What own runs say of a deployment reaches every verb that trains it."""

from __future__ import annotations

import json
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moesim
from moesim.hwmodels.interval import NORMAL_90
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.train.job import deployment_of, resolve
from moesim.sim.train.memory import step_memory
from moesim.sim.train.own_runs import (
    AXES,
    NOISE_SIGMA,
    Correction,
    OwnRun,
    OwnRuns,
    law_of,
    load_own_runs,
    place_of,
    write_own_runs,
)
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.segments import SegmentFactory

JOB: dict[str, Any] = {
    "model": {"base": "mixtral-8x7b", "layers": 4},
    "cluster": {"node": "dgx-h100", "gpus": 16},
    "layout": {"ep": 8},
    "train": {"global_batch": 64, "seq_len": 2048},
}
FACTOR = 1.25


def runs_of(ratios: tuple[float, ...] = (1.25, 1.25, 1.25), **changes: Any) -> OwnRuns:
    """Own runs of the job that took so many times what is predicted."""
    job = moesim.predict_train({**JOB, **changes}).resolved.job
    return OwnRuns(deployment_of(job), tuple(OwnRun(log(ratio), place_of(job)) for ratio in ratios))


@pytest.fixture
def corrected(tmp_path: Path) -> dict[str, Any]:
    """The job with a file of own runs that knows its deployment."""
    file = tmp_path / "corrections.json"
    write_own_runs([runs_of()], file)
    return {**JOB, "corrections": str(file)}


def at(own: OwnRuns, **changes: Any) -> Correction:
    return own.at(resolve(moesim.parse_scenario({**JOB, **changes})).job)


TWICE_AS_LONG = {"train": {"global_batch": 64, "seq_len": 4096}}
FAR = {"cluster": {"node": "dgx-h100", "gpus": 256}, "train": {"global_batch": 512, "seq_len": 8192}}


def test_runs_narrow_their_own_layout_most_and_far_ones_hardly() -> None:
    own = runs_of()
    same, near, far = at(own), at(own, **TWICE_AS_LONG), at(own, **FAR)
    assert same.factor == pytest.approx(1.25, rel=0.01) and same.doublings == 0.0
    assert 1.0 < far.factor <= near.factor < same.factor  # what runs alike share is forgotten with distance
    assert same.half_width < 0.06 < 0.09 < near.half_width < far.half_width
    assert near.doublings == pytest.approx(1.0) and far.doublings == pytest.approx(9.0)


def test_more_runs_narrow_as_statistics_allow_and_stray_ones_widen() -> None:
    one, three, many = (at(runs_of((1.25,) * n)).half_width for n in (1, 3, 30))
    assert one > three > many > NORMAL_90 * NOISE_SIGMA  # never below the noise of one run
    assert at(runs_of((0.8, 1.25, 2.0))).half_width > 2.5 * three


def test_runs_of_other_layouts_tell_what_all_runs_share() -> None:
    spread = [runs_of(**change).runs[0] for change in (TWICE_AS_LONG, {"layout": {"ep": 4}}, {"layout": {"ep": 2}})]
    alone, together = (OwnRuns("x", tuple(spread[:n])) for n in (1, 3))
    assert at(together, **FAR).half_width < at(alone, **FAR).half_width
    assert at(together, **FAR).factor > at(alone, **FAR).factor


def test_half_widths_hold_nine_of_ten_next_runs() -> None:
    """Deployments drawn as the law says: a part that all runs share, one that like runs share, and noise."""
    rng, job = np.random.default_rng(7), resolve(moesim.parse_scenario(JOB)).job
    places = [place_of(job), *(replace(place_of(job), doublings=tuple(d + step for d in place_of(job).doublings))
              for step in (0.1, 0.3))]  # fmt: skip
    apart = np.array([[a.distance(b) for b in places] for a in places])
    held = 0
    for _ in range(400):
        shared = law_of(job).shared_sigma * rng.standard_normal()
        like = rng.multivariate_normal(np.zeros(3), law_of(job).layout_sigma ** 2 * np.exp(-apart / 2.0))
        true = shared + like + NOISE_SIGMA * rng.standard_normal(3)
        own = OwnRuns("x", tuple(OwnRun(float(t), place) for t, place in zip(true[1:], places[1:], strict=True)))
        it = own.at(job)
        held += abs(true[0] - log(it.factor)) <= it.half_width
    assert 0.86 < held / 400 < 0.96


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"corrections": []}', '{"own_runs": [{"deployment": "x", "runs": [{"log_ratio": 1e400}]}]}',
     '{"own_runs": [{"deployment": "x", "runs": [{"log_ratio": -50}]}]}',
     '{"own_runs": [{"deployment": "x", "runs": []}]}'],
)  # fmt: skip
def test_files_that_hold_no_own_runs_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(moesim.ScenarioError, match="calibrate --from rows"):
        moesim.predict_train({**JOB, "corrections": str(tmp_path / "c.json")})


def test_a_step_a_sweep_and_a_comparison(corrected: dict[str, Any]) -> None:
    plain, own = moesim.predict_train(JOB), moesim.predict_train(corrected)
    assert own.step_time_s == pytest.approx(FACTOR * plain.step_time_s, rel=0.01)
    assert moesim.sweep(corrected, {"layout.zero": (1,)}).rows[0]["step_time_s"] == own.step_time_s
    column = moesim.compare([corrected, JOB], break_even=False).columns[0]
    assert column.train is not None and column.train.step_time_s == own.step_time_s


def test_a_plan_and_its_bounds(corrected: dict[str, Any]) -> None:
    given, effort = {"tp": 1, "pp": 1, "micro_batch": 1, "recompute": "none"}, moesim.Effort(top=2)
    plain, own = (moesim.plan(job, given=given, effort=effort) for job in (JOB, corrected))
    assert isinstance(plain, moesim.Plan) and isinstance(own, moesim.Plan)
    for option, other in zip(own.options, plain.options, strict=True):
        assert option.finalist.candidate == other.finalist.candidate
        assert 1.1 < option.finalist.step_time_s / other.finalist.step_time_s < FACTOR  # by how like its layout is
        assert option.finalist.bound_s <= option.finalist.step_time_s
    for option, other in zip(own.options, plain.options, strict=True):  # bounds move with what is bounded
        ratio = option.finalist.step_time_s / other.finalist.step_time_s
        assert option.finalist.bound_s / other.finalist.bound_s == pytest.approx(ratio)
    assert any("own runs" in note for note in own.notes) and not any("own runs" in note for note in plain.notes)


def test_a_what_if(corrected: dict[str, Any]) -> None:
    plain, own = (moesim.whatif(job) for job in (JOB, corrected))
    assert isinstance(plain, moesim.WhatIf) and isinstance(own, moesim.WhatIf)
    assert own.step_time_s == pytest.approx(FACTOR * plain.step_time_s, rel=0.01)
    known, corrected_by = ({(o.knob, o.change): o for o in each.outcomes} for each in (plain, own))
    assert known.keys() == corrected_by.keys()
    for key, outcome in corrected_by.items():  # what own runs say of both cancels, near as much as they are alike
        assert outcome.speed_factor == pytest.approx(known[key].speed_factor, rel=0.03), key
    fp8 = corrected_by["precision", "fp8"]  # another deployment, of which own runs say nothing
    assert fp8.estimated and not fp8.keys


def test_memory_counts_parameters_without_building_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = resolve(moesim.parse_scenario(JOB))
    expected = step_memory(StepPrices(resolved.job, resolved.kernels, resolved.tuning()))

    def build(*_: object) -> None:
        raise AssertionError("memory built the operations of a layer")

    monkeypatch.setattr(SegmentFactory, "blocks", build)
    assert step_memory(StepPrices(resolved.job, resolved.kernels, resolved.tuning())) == expected


@pytest.mark.parametrize(("name", "value"), [("zero", 4), ("zero", -1), ("tp", 0), ("tp", 1.5), ("log_ratio", 1e9)])
def test_a_place_that_no_run_has_is_refused(name: str, value: float, tmp_path: Path) -> None:
    run = {"log_ratio": 0.1, "recompute": "none", "zero": 3, **dict.fromkeys(AXES, 8)}
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"own_runs": [{"deployment": "x", "runs": [run]}]}), encoding="utf-8")
    (kept,) = load_own_runs(str(path)).values()
    assert kept.runs[0].place.zero == 3
    path.write_text(json.dumps({"own_runs": [{"deployment": "x", "runs": [{**run, name: value}]}]}), encoding="utf-8")
    with pytest.raises(ScenarioError, match=name):
        load_own_runs(str(path))
