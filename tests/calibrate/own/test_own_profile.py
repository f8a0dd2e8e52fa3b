"""Profiles of own machines: a machine that obeys a simple law is learned, loaded, asked, and kept apart from others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic import MACHINE, made, sample, samples, seconds_of

from moesim.calibrate.measure.asks import ask, work_of
from moesim.calibrate.prove.cases import Scale, cases
from moesim.calibrate.prove.proof import predict_case
from moesim.hwmodels.machine import load_machine, machine_cluster
from moesim.hwmodels.profile import NoFit
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.train.predict import predict_train

pytest.importorskip("scipy", reason="fits need scipy")


def test_laws_are_found_on_shapes_left_out() -> None:
    for body in (made(), made()["beside"]["2"]):
        assert body["not_fitted"] == []
        for op, p in body["provenance"].items():
            assert p["median_error"] < 0.10, op
            assert p["samples_left_out"] == p["samples_fit"], op  # every sample was left out once
            assert p["fit_date"] == "2026-01-02", op  # of the samples, not of the day of the fit


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    from moesim.calibrate.own.profile import make_own_profile, write_profile

    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, order in zip(paths, (samples(1, True), samples(1, True)), strict=True):
        write_profile(make_own_profile(order, MACHINE, Path("s.csv")), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_loaded_profile_prices_work_as_the_machine_did(profile: str) -> None:
    from moesim.hwmodels.cost import KernelCostModel, Sustained

    held = load_machine(profile, 2)
    model = KernelCostModel(machine_cluster(held, 2), held, Sustained())
    for a in (
        ask("gemm", "forward", "fp32", m=300, n=700, k=500),
        ask("stream", "norm", "fp32", rows=700, cols=600),
        ask("collective", "all_to_all", "fp32", bytes=300_000, ranks=2),
    ):
        work = work_of(a)
        assert work is not None
        assert model.cost(work).time_s == pytest.approx(seconds_of(a), rel=0.12), a


def test_prediction_and_law_agree_on_a_whole_step(profile: str) -> None:
    """The simulator's step is what the law gives for its parts: within the error of fits on a smooth law."""
    case = cases(Scale(1))[1]
    seconds, breakdown = predict_case(case, profile)
    assert sum(breakdown.values()) == pytest.approx(seconds, rel=1e-9)
    parameters = 2 * case.vocab * case.hidden + case.layers * (
        case.hidden * (4 * case.hidden + 3 * case.inner) + 2 * case.hidden
    )
    gemms = 6.0 * (parameters - case.vocab * case.hidden) * case.tokens / 1e11
    assert gemms < seconds < 2.5 * gemms


def test_ranks_that_were_not_measured_are_refused(profile: str) -> None:
    with pytest.raises(NoFit, match=r"measured with 1, 2 ranks on this CPU, not with 4; calibrate with --ranks 4"):
        load_machine(profile, 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 0}, "has schema 0"),
        ({"schema": None}, "has schema None"),
        ({"gemm": {"fp32": {"tile": 1}}}, r"gemm\.fp32\.tile is not known"),
    ],
)
def test_old_and_broken_profiles_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(made() | change))
    with pytest.raises(NoFit, match=said):
        load_machine(str(path))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}'])
def test_files_that_are_no_profile_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "no.json"
    path.write_text(text)
    with pytest.raises(NoFit, match="moesim calibrate"):
        load_machine(str(path))
    with pytest.raises(NoFit, match="cannot read"):
        load_machine(str(tmp_path / "none.json"))


def test_a_profile_of_another_machine_is_not_used_for_a_named_gpu(profile: str, tmp_path: Path) -> None:
    question = cases(Scale(1))[0].scenario(profile, tmp_path) | {"cluster": {"node": "dgx-h100", "gpus": 1}}
    with pytest.raises(ScenarioError, match="was measured on cpu-test-2, the scenario asks for h100-sxm"):
        predict_train(question)


def test_samples_without_copies_or_gemms_make_no_profile() -> None:
    from moesim.calibrate.measure.samples import BadSamples
    from moesim.calibrate.own.profile import make_own_profile

    only = [sample(ask("stream", "norm", "fp32", rows=8, cols=8))]
    with pytest.raises(BadSamples, match="hold no GEMM or no copy"):
        make_own_profile(only, MACHINE, Path("s.csv"))


def test_few_samples_are_named_not_fitted() -> None:
    from moesim.calibrate.own.profile import make_own_profile

    kept = [s for s in samples(1) if s.ask.op != "attention"][:60]
    profile = make_own_profile(kept, MACHINE, Path("s.csv"))
    assert profile["attention"] == {} and profile["not_fitted"]
