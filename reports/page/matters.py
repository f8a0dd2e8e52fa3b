"""What matters: the tornado of one change at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moesim.reports.page.section import Section
from moesim.reports.tables.whatif import NOT_BOUGHT
from moesim.reports.text import three
from moesim.sim.variation.outcome import Change
from moesim.sim.variation.whatif_serve import ServeWhatIf
from moesim.sim.variation.whatif_train import WhatIf


def matters(answer: WhatIf | ServeWhatIf) -> Section:
    """Diverging bars, largest effect on top, and what each change is worth."""
    groups: Sequence[tuple[str, Sequence[Change]]] = answer.by_knob()
    widest = max(abs(o.value_factor - 1.0) for o in answer.outcomes)
    rows = [_row(knob, outcomes, widest, answer) for knob, outcomes in groups]
    return Section(
        "matters",
        "What would change the answer",
        lead(answer),
        answer.to_dict(),
        {"rows": rows, "unit": "tokens per dollar"},
    )


def lead(answer: WhatIf | ServeWhatIf) -> str:
    """The change that gains most and the one that costs most."""
    fitting: list[Change] = [o for o in answer.outcomes if o.fits and o.knob != "price"]
    best, worst = max(fitting, key=lambda o: o.value_factor), min(fitting, key=lambda o: o.value_factor)
    up = f"{best.knob} {best.change} gains most ({best.value_factor - 1.0:+.0%} tokens per dollar)"
    return f"Of single changes {up}; {worst.knob} {worst.change} costs most ({worst.value_factor - 1.0:+.0%})."


def _row(knob: str, outcomes: Sequence[Change], widest: float, answer: WhatIf | ServeWhatIf) -> dict[str, Any]:
    """Bars of one knob: the longest to each side, with the words of all."""
    sides = {}
    for name, up in (("loss", False), ("gain", True)):
        own = sorted((o for o in outcomes if (o.value_factor >= 1.0) == up), key=lambda o: -abs(o.value_factor - 1.0))
        sides[name] = {
            "width": max((abs(o.value_factor - 1.0) for o in own), default=0.0) / widest,
            "text": ", ".join(f"{o.change}: {_percent(o)}" + ("" if o.fits else " (does not fit)") for o in own),
            "fits": all(o.fits for o in own),
        }
    best = max(outcomes, key=lambda o: o.value_factor)
    worth = ""
    if answer.usd_per_hour is not None and knob not in NOT_BOUGHT and best.value_factor > 1.0 + 5e-4 and best.fits:
        worth = f"{best.change} is worth up to ${three(answer.usd_per_hour * best.value_factor)} a GPU-hour"
    return {"title": knob, **sides, "worth": worth}


def _percent(o: Change) -> str:
    text = f"{o.value_factor - 1.0:+.1%}"
    return "no change" if text in ("+0.0%", "-0.0%") else text
