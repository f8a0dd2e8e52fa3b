"""What matters: the tornado of one change at a time."""

from __future__ import annotations

from typing import Any

from reports.page.section import Section
from reports.page.train_case import TrainCase
from reports.text import three
from sim.plan.whatif import Outcome, WhatIf


def matters(case: TrainCase) -> Section:
    """Diverging bars, largest effect on top, and what each change is worth."""
    found = case.whatif
    groups = found.by_knob()
    widest = max(abs(o.speed_factor - 1.0) for o in found.outcomes)
    rows = [_row(knob, outcomes, widest, found) for knob, outcomes in groups]
    return Section(
        "matters",
        "What would change the answer",
        lead(found),
        found.to_dict(),
        {"rows": rows, "unit": "tokens per second"},
    )


def lead(found: WhatIf) -> str:
    """The change that gains most and the one that costs most."""
    fitting = [o for o in found.outcomes if o.fits]
    best, worst = max(fitting, key=lambda o: o.speed_factor), min(found.outcomes, key=lambda o: o.speed_factor)
    up = f"{best.knob} {best.change} gains most ({best.speed_factor - 1.0:+.0%} tokens per second)"
    return f"Of single changes {up}; {worst.knob} {worst.change} costs most ({worst.speed_factor - 1.0:+.0%})."


def _row(knob: str, outcomes: list[Outcome], widest: float, found: WhatIf) -> dict[str, Any]:
    """Bars of one knob: the longest to each side, with the words of all."""
    sides = {}
    for name, up in (("loss", False), ("gain", True)):
        own = sorted((o for o in outcomes if (o.speed_factor >= 1.0) == up), key=lambda o: -abs(o.speed_factor - 1.0))
        sides[name] = {
            "width": max((abs(o.speed_factor - 1.0) for o in own), default=0.0) / widest,
            "text": ", ".join(f"{o.change}: {_percent(o)}" + ("" if o.fits else " (does not fit)") for o in own),
            "fits": all(o.fits for o in own),
        }
    best = max(outcomes, key=lambda o: o.speed_factor)
    worth = ""
    if found.usd_per_hour is not None and best.speed_factor > 1.0 + 5e-4 and best.fits:
        worth = f"{best.change} is worth up to ${three(found.usd_per_hour * best.speed_factor)} a GPU-hour"
    return {"title": knob, **sides, "worth": worth}


def _percent(o: Outcome) -> str:
    text = f"{o.speed_factor - 1.0:+.1%}"
    return "no change" if text in ("+0.0%", "-0.0%") else text
