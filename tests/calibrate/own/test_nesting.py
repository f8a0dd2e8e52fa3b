"""Spans inside spans: the innermost first, whatever begins or ends at the same moment."""

from __future__ import annotations

from moesim.calibrate.own.nesting import Nesting


def test_the_innermost_comes_first() -> None:
    spans = [(0.0, 100.0), (10.0, 50.0), (10.0, 20.0), (30.0, 40.0), (60.0, 60.0), (200.0, 210.0)]
    nesting = Nesting(spans)
    inside = {15.0: [2, 1, 0], 25.0: [1, 0], 35.0: [3, 1, 0], 60.0: [4, 0], 99.0: [0], 150.0: [], 205.0: [5], -1.0: []}
    assert {moment: list(nesting.around(moment)) for moment in inside} == inside


def test_many_spans_beside_each_other_are_passed_at_once() -> None:
    nesting = Nesting([(0.0, 1e9), *((2.0 * i, 2.0 * i + 1.0) for i in range(1, 10_000))])
    assert list(nesting.around(15_000.5)) == [7500, 0]
    assert list(nesting.around(15_001.5)) == [0]
