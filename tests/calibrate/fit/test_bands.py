"""Widths of intervals: what holds the next source, by hand and on sources drawn at random."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.calibrate.fit.bands import NOISE, Error, bands, bands_by_root, chosen, judged
from moesim.calibrate.fit.widths import training_errors, training_jobs


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
    assert found["a"].half_width == pytest.approx(0.3) and found["a"].sources == 2 and found["a"].rows == 12


def test_a_class_of_one_source_or_few_rows_has_none_but_the_widest_has() -> None:
    errors = [Error(("one", "all"), "x", 0.01)] * 30 + [Error(("few", "all"), s, 0.2) for s in "yz"]
    found = bands(errors)
    assert set(found) == {"all"}
    assert bands([Error(("all",), "x", 0.001)])["all"].half_width == NOISE


def test_rows_alike_promise_more_than_they_hold_where_sources_lie_apart() -> None:
    errors = drawn(10, 4, between=0.3, within=0.03) + [Error(("kind",), "large", 0.01)] * 200
    narrow, wide = judged(errors, "rows alike"), judged(errors, "the same at the conformal level")
    assert narrow.coverage < 0.7 < 0.85 <= wide.coverage
    assert wide.score < narrow.score


def test_the_chosen_estimator_holds_sources_left_out() -> None:
    errors = drawn(12, 10, between=0.2, within=0.1, seed=3)
    assert judged(errors, chosen(errors)).coverage >= 0.85
    assert bands_by_root(errors)["kind"].half_width > 0.2


def test_shipped_errors_give_bands_that_hold_left_out_sources() -> None:
    errors = training_errors(training_jobs())
    for root in ("dense", "moe"):
        own = [e for e in errors if e.classes[-1] == root]
        assert judged(own, chosen(own)).coverage >= 0.85, root
