"""The track record: predictions of published runs that are most like this one, beside what was measured."""

from __future__ import annotations

from typing import Any

from moesim.calibrate.record.comparable import MOST, Comparable
from moesim.calibrate.record.summary import accuracy
from moesim.calibrate.record.validate import Record
from moesim.reports.figures.palette import PHASES
from moesim.reports.page.section import Section
from moesim.reports.tables.accuracy import METRIC_TITLES
from moesim.reports.text import three

_SPLITS = {"test": PHASES["F"], "fit": "#BDBDBD", "stress": PHASES["B"]}
_SHOWN = 12  # rows listed one by one
_REACH = 0.5  # half of the strip, as a relative error


def record_section(comparable: Comparable, metrics: tuple[str, ...]) -> Section:
    """Errors by split, and a strip of single rows."""
    of = [r for r in comparable.records if r.metric in metrics]
    answered = [r for r in of if r.error_pct is not None]
    if not answered:
        lead = "No published measurement is comparable; the interval is that of the nearest class of runs."
        return Section(
            "record", "How wrong it was before", lead, {"rule": comparable.rule, "rows": 0}, {"strips": [], "table": []}
        )
    strips = [
        {"title": METRIC_TITLES.get(m, m), "dots": _dots([r for r in answered if r.metric == m])} for m in metrics
    ]
    shown = {
        "strips": [s for s in strips if s["dots"]],
        "legend": [(f"{k} rows", colour) for k, colour in _SPLITS.items() if any(r.split == k for r in answered)],
        "table": [_line(r) for r in _first(answered)],
        "left_out": max(0, len(answered) - _SHOWN),
        "reach": f"{_REACH:.0%}",
        "limited": comparable.rows > MOST,
    }
    data = {"rule": comparable.rule, "rows": comparable.rows, "accuracy": _accuracy(answered, metrics),
            "records": [_record(r) for r in answered]}  # fmt: skip
    return Section("record", "How wrong it was before", _lead(comparable, answered, metrics[0]), data, shown)


def _accuracy(answered: list[Record], metrics: tuple[str, ...]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for metric in metrics:
        for split in _SPLITS:
            a = accuracy(r for r in answered if (r.metric, r.split) == (metric, split))
            if a is not None:
                table[f"{metric}, {split}"] = {
                    "rows": a.rows,
                    "median_abs_pct": a.median_abs_pct,
                    "mean_abs_pct": a.mean_abs_pct,
                    "median_bias_pct": a.median_bias_pct,
                    "in_interval_pct": a.coverage_pct,
                }
    return table


def _lead(comparable: Comparable, answered: list[Record], metric: str) -> str:
    own = [r for r in answered if r.metric == metric] or answered
    test = accuracy(r for r in own if r.split == "test")
    every = accuracy(own)
    assert every is not None  # `own` holds answered rows
    if test is None:
        return (
            f"{every.rows} published measurements ({comparable.rule}): median error {every.median_abs_pct:.1f} %, "
            "all from rows that constants were fitted on."
        )
    return (
        f"{test.rows} published measurements that nothing was fitted on ({comparable.rule}): median error "
        f"{test.median_abs_pct:.1f} %, {test.coverage_pct:.0f} % of them inside the interval."
    )


def _first(answered: list[Record]) -> list[Record]:
    """Rows that only judge come first."""
    return sorted(answered, key=lambda r: (r.split != "test", r.metric, r.id))[:_SHOWN]


def _dots(rows: list[Record]) -> list[dict[str, Any]]:
    dots = []
    for r in rows:
        error = (r.error_pct or 0.0) / 100.0
        place = 0.5 + max(-0.5, min(0.5, 0.5 * error / _REACH))
        beyond = " (beyond the strip)" if abs(error) > _REACH else ""
        dots.append({"left": place, "colour": _SPLITS.get(r.split, "#BDBDBD"), "text": f"{r.id}: {error:+.1%}{beyond}"})
    return dots


def _line(r: Record) -> list[str]:
    assert r.measured is not None and r.predicted is not None and r.error_pct is not None  # answered rows only
    inside = "yes" if r.covered else "no"
    return [
        r.id,
        r.split,
        METRIC_TITLES.get(r.metric, r.metric),
        three(r.measured),
        three(r.predicted),
        f"{r.error_pct:+.1f} %",
        inside,
    ]


def _record(r: Record) -> dict[str, Any]:
    return {"id": r.id, "split": r.split, "metric": r.metric, "measured": r.measured, "predicted": r.predicted,
            "low": r.low, "high": r.high, "error_pct": r.error_pct}  # fmt: skip
