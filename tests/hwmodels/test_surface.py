"""Surfaces: exact at nodes, linear between them, constant outside, and refused when their parts do not fit."""

from __future__ import annotations

from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.hwmodels.kernel_fits import Surface, surface_from

FLAT = Surface(("a", "b"), ((0.0, 1.0, 4.0), (2.0, 3.0)), (10, 20, 30, 40, 50, 60))


def test_nodes_are_met_and_between_them_the_logarithm_is_linear() -> None:
    assert FLAT.factor(1.0, 2.0) == pytest.approx(exp(0.030))
    assert FLAT.factor(4.0, 3.0) == pytest.approx(exp(0.060))
    assert log(FLAT.factor(2.5, 2.5)) == pytest.approx((0.030 + 0.040 + 0.050 + 0.060) / 4.0)


def test_constant_outside() -> None:
    assert FLAT.factor(-9.0, 99.0) == FLAT.factor(0.0, 3.0)


@given(st.floats(-2.0, 6.0), st.floats(0.0, 5.0))
def test_weights_add_up_and_stay_between_the_extremes(a: float, b: float) -> None:
    corners = FLAT.corners((a, b))
    assert sum(w for _, w in corners) == pytest.approx(1.0)
    assert all(0.0 <= w <= 1.0 for _, w in corners)
    assert exp(0.010) - 1e-12 <= FLAT.factor(a, b) <= exp(0.060) + 1e-12


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Surface(("a",), ((0.0, 1.0),), (1, 2, 3))


def test_record_from_json() -> None:
    raw = {"axes": ["a", "b"], "nodes": [[0.0, 1.0, 4.0], [2.0, 3.0]], "per_mille": [10, 20, 30, 40, 50, 60]}
    assert surface_from(raw) == FLAT
    assert surface_from(None) is None
