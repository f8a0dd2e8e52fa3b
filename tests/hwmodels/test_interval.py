"""Intervals by hand: two sides, what widens them in quadrature, and whose share of the square is whose."""

from __future__ import annotations

from math import log

import pytest

from moesim.hwmodels.interval import Sureness, Width, widened, width_of


def test_below_and_above_are_not_each_other() -> None:
    width = width_of({"below": log(1.25), "above": log(2.0)})
    assert width.around(10.0) == pytest.approx((8.0, 20.0))
    assert width.reach() == "-20% to +100%"
    assert width.scaled(2.0).around(1.0) == pytest.approx((0.64, 4.0))
    sure = Sureness("class", width, "", {"class": 1.0}, "more rows")
    assert sure.around(3.0) == pytest.approx((2.4, 6.0))
    assert sure.to_dict() == {"band": "class", "band_parts": {"class": 1.0}, "narrower": "more rows"}


def test_reasons_add_in_quadrature_on_both_sides_and_share_the_square() -> None:
    whole, parts = widened("class", Width(0.3, 0.4), {"strange": 1.2, "far": 0.0})
    assert (whole.below, whole.above) == pytest.approx(((0.09 + 1.44) ** 0.5, (0.16 + 1.44) ** 0.5))
    square = 0.09 + 0.16 + 2 * 1.44
    assert parts == pytest.approx({"class": 0.25 / square, "strange": 2.88 / square, "far": 0.0})
