"""Where the seconds of a step go, beside those of the dense twin on one scale."""

from __future__ import annotations

from moesim.reports.figures.palette import CLASS_OF, CLASSES
from moesim.reports.page.section import Section
from moesim.reports.page.train_case import TrainCase
from moesim.reports.tables.train import CATEGORY_TITLES
from moesim.reports.text import seconds

_SMALL = 0.004  # of the step: shown together below that


def spent(case: TrainCase) -> Section:
    """One bar per category, largest first."""
    p, twin = case.asked, case.twin.breakdown_s if case.twin else {}
    names = sorted({*p.breakdown_s, *twin}, key=lambda k: (-p.breakdown_s.get(k, 0.0), -twin.get(k, 0.0), k))
    longest = max([*p.breakdown_s.values(), *twin.values()])
    shown = [k for k in names if max(p.breakdown_s.get(k, 0.0), twin.get(k, 0.0)) >= _SMALL * p.step_time_s]
    bars = []
    for key in shown:
        own, other = p.breakdown_s.get(key, 0.0), twin.get(key)
        bars.append({
            "title": CATEGORY_TITLES.get(key, key),
            "colour": CLASSES[CLASS_OF.get(key, "waiting")],
            "width": own / longest,
            "value": f"{seconds(own)}, {own / p.step_time_s:.0%}" if own else "none",
            "twin_width": None if other is None else other / longest,
            "twin_value": "" if other is None else seconds(other),
        })  # fmt: skip
    rest = sum(v for k, v in p.breakdown_s.items() if k not in shown)
    data = {"breakdown_s": dict(p.breakdown_s), "twin_breakdown_s": dict(twin) or None}
    parts = {
        "bars": bars,
        "legend": [(name, colour) for name, colour in CLASSES.items() if name in {CLASS_OF.get(k) for k in shown}],
        "twin": case.twin is not None,
        "rest": seconds(rest) if rest > 0 else "",
    }
    return Section("spent", "Where the step goes", _lead(case), data, parts)


def _lead(case: TrainCase) -> str:
    p = case.asked
    by_class: dict[str, float] = {}
    for key, value in p.breakdown_s.items():
        name = CLASS_OF.get(key, "waiting")
        by_class[name] = by_class.get(name, 0.0) + value / p.step_time_s
    first, second = sorted(by_class.items(), key=lambda kv: -kv[1])[:2]
    useful = by_class.get("tensor-core work", 0.0)
    tail = "" if "tensor-core work" in (first[0], second[0]) else f"; tensor-core work is {useful:.0%}"
    return f"{first[1]:.0%} of the step is {first[0]}, {second[1]:.0%} {second[0]}{tail}."
