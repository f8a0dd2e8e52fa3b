"""What matters: the tornado of one change at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moesim.reports.page.section import Section
from moesim.reports.text import three
from moesim.sim.variation.outcome import Change, by_group, effect
from moesim.sim.variation.settings import GROUPS
from moesim.sim.variation.whatif_serve import ServeWhatIf
from moesim.sim.variation.whatif_train import WhatIf


def matters(answer: WhatIf | ServeWhatIf) -> Section:
    """Diverging bars, largest effect on top, and what each change is worth."""
    every: Sequence[Change] = answer.outcomes
    widest = max(abs(effect(o)) for o in every) or 1.0
    groups = [
        {"title": GROUPS[group], "rows": [_row(knob, outcomes, widest, answer) for knob, outcomes in knobs]}
        for group, knobs in by_group(every)
    ]
    return Section(
        "matters",
        "What would change the answer",
        lead(answer),
        answer.to_dict(),
        {"groups": groups, "unit": "tokens per dollar"},
    )


def lead(answer: WhatIf | ServeWhatIf) -> str:
    """What gains most of all that can be changed, and of all that would have to be bought."""
    said = []
    for group in ("settings", "hardware"):
        fitting: list[Change] = [o for o in answer.outcomes if o.fits and o.group == group]
        best = max(fitting, key=lambda o: o.value_factor, default=None)
        if best is None or best.value_factor < 1.0005:
            said.append(f"of {GROUPS[group]} nothing gains")
        else:
            gain = f"{best.value_factor - 1.0:+.0%} tokens per dollar"
            said.append(f"of {GROUPS[group]} {best.knob} {best.change} gains most ({gain})")
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}."


def _row(knob: str, outcomes: Sequence[Change], widest: float, answer: WhatIf | ServeWhatIf) -> dict[str, Any]:
    """Bars of one knob: the longest to each side, with the words of all."""
    sides = {}
    for name, up in (("loss", False), ("gain", True)):
        own = sorted((o for o in outcomes if (effect(o) >= 0.0) == up), key=lambda o: -abs(effect(o)))
        sides[name] = {
            "width": max((abs(effect(o)) for o in own), default=0.0) / widest,
            "text": ", ".join(f"{o.change}: {_percent(o)}" for o in own),
            "fits": all(o.fits for o in own),
        }
    best = max(outcomes, key=lambda o: o.value_factor)
    worth = ""
    if answer.usd_per_hour is not None and best.group == "hardware" and best.value_factor > 1.0 + 5e-4 and best.fits:
        worth = f"{best.change} is worth up to ${three(answer.usd_per_hour * best.value_factor)} a GPU-hour"
    return {"title": knob, **sides, "worth": worth}


def _percent(o: Change) -> str:
    if not o.value_factor:
        return "does not fit"
    text = f"{effect(o):+.1%}"
    return ("no change" if text in ("+0.0%", "-0.0%") else text) + ("" if o.fits else " (does not fit)")
