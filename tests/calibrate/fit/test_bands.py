"""Widths of intervals: what holds the next source, by hand and on sources drawn at random."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.calibrate.fit.bands import (
    ESTIMATORS,
    NOISE,
    Band,
    Error,
    bands,
    bands_by_root,
    by_kind,
    by_source,
    chosen,
    judged,
)
from moesim.calibrate.fit.unseen import read_unseen
from moesim.calibrate.fit.widths import training_errors, training_jobs
from moesim.hwmodels.interval import Width


def drawn(sources: int, rows: int, between: float, within: float, seed: int = 0) -> list[Error]:
    rng = np.random.default_rng(seed)
    centres = between * rng.standard_normal(sources)
    return [
        Error(("kind",), f"source {i}", float(centre + within * rng.standard_normal()))
        for i, centre in enumerate(centres)
        for _ in range(rows)
    ]


def test_two_sources_give_the_width_of_the_worse_one() -> None:
    errors = [Error(("a", "all"), "x", 0.1)] * 10 + [Error(("a", "all"), "y", -0.3)] * 2
    found = bands(errors)
    assert found["a"].width.above == pytest.approx(0.3) and found["a"].sources == 2 and found["a"].rows == 12


def test_a_class_of_few_sources_leans_on_the_wider_one_unless_it_stands_alone() -> None:
    def of(alone: str) -> dict[str, Band]:
        calm = [Error(("a", "all"), source, 0.1, alone) for source in "xy" for _ in range(6)]
        return bands([*calm, *[Error(("all",), source, 0.4, alone) for source in "pqr"]])

    three = [Error(("a", "all"), source, 0.1) for source in "xyz" for _ in range(4)]
    leaning = bands([*three, *[Error(("all",), source, 0.4) for source in "pqr"]])["a"].width.above
    assert leaning == pytest.approx(0.1**0.6 * 0.4**0.4)  # three against two
    assert of("")["a"].width.above == pytest.approx(0.2)  # two sources against two: the geometric middle of 0.1 and 0.4
    assert of("a")["a"].width.above == pytest.approx(0.1) and of("")["all"].width.above == pytest.approx(0.4)


def test_a_class_of_one_source_or_few_rows_has_none_but_the_widest_has() -> None:
    errors = [Error(("one", "all"), "x", 0.01)] * 30 + [Error(("few", "all"), s, 0.2) for s in "yz"]
    found = bands(errors)
    assert set(found) == {"all"}
    assert bands([Error(("all",), "x", 0.001)])["all"].width == Width(NOISE, NOISE)


def test_rows_alike_promise_more_than_they_hold_where_sources_lie_apart() -> None:
    errors = drawn(10, 4, between=0.3, within=0.03) + [Error(("kind",), "large", 0.01)] * 200
    narrow, wide = judged(errors, "rows alike"), judged(errors, "the same at the conformal level")
    assert narrow.coverage < 0.7 < 0.85 <= wide.coverage
    assert wide.score < narrow.score


def test_the_chosen_estimator_holds_sources_left_out() -> None:
    errors = drawn(12, 10, between=0.2, within=0.1, seed=3)
    assert judged(errors, chosen(errors)).coverage >= 0.85
    assert bands_by_root(errors)["kind"].width.above > 0.2


def test_shipped_errors_give_bands_that_hold_left_out_sources() -> None:
    errors = training_errors(training_jobs())
    for root in ("dense", "moe"):
        own = [e for e in errors if e.classes[-1] == root]
        assert judged(own, chosen(own)).coverage >= 0.85, root


def test_a_source_is_judged_by_widths_that_it_had_no_part_in() -> None:
    errors = [Error(("kind",), s, 0.05) for s in "ab" for _ in range(6)] + [Error(("kind",), "far", 0.9)] * 6
    verdict = judged(errors, "the same at the conformal level")
    assert verdict.coverage == pytest.approx(2.0 / 3.0)  # the far one is outside, and makes the others' intervals wide


def test_a_stack_of_one_source_says_how_far_an_unknown_stack_is() -> None:
    """Leaving vTrain out leaves its stack without constants: that error is not the next run's of that stack."""
    errors = [e for e in training_errors(training_jobs()) if e.source == "vTrain"]
    own = [abs(e.log_error) for e in errors if e.classes[-1] == "dense"]
    unknown = [abs(e.log_error) for e in errors if e.classes == ("a stack without fitted runs",)]
    assert len(own) == len(unknown) > 50 and float(np.median(unknown)) > 3 * float(np.median(own))


def test_other_sources_are_judged_with_themselves_left_out() -> None:
    errors = training_errors(training_jobs())
    for source in ("NVIDIA NeMo docs", "torchtitan", "KempnerInstitute/KempnerForge"):
        left_out = [u.source_log for u in read_unseen("training") if u.source == source]
        assert left_out and [e.log_error for e in errors if e.source == source] == left_out


def test_each_side_by_itself_is_narrow_where_errors_lean_to_one() -> None:
    """Runs are slower than predicted, seldom faster: a width for both sides promises the same on the empty one."""
    rng = np.random.default_rng(1)
    errors = [Error(("kind",), f"source {i}", -abs(float(rng.normal(0.3, 0.2)))) for i in range(12) for _ in range(8)]
    sides = bands(errors, ESTIMATORS["the same, each side by itself"])["kind"].width
    assert sides.below == NOISE and sides.above > 0.4
    leaning = judged(errors, "the same, each side by itself")
    assert leaning.coverage >= 0.85 and leaning.score < judged(errors, "the same at the conformal level").score


def test_small_sources_of_a_team_are_one() -> None:
    errors = [Error(("kind",), f"team, engine {i}", 0.1) for i in range(3)] + [Error(("kind",), "large, a", 0.1)] * 4
    assert set(by_source(by_kind(errors)["kind"])) == {"team, small ones", "large, a"}
