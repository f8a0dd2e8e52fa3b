"""What a row says of routing: balanced by force, natural, or counted; and how many tokens an expert takes."""

from __future__ import annotations

import re
from typing import Any

from moesim.calibrate.rows.cells import Row, text_of
from moesim.sim.question.scenario import ScenarioError


def routing_of(text: str) -> dict[str, Any]:
    """How tokens were routed: forced balance where a row does not say, as vendors' benchmarks do; the usual process
    where the model's own router ran."""
    counted = re.fullmatch(r"counts (\S.*)", text)
    if counted:
        return {"routing": {"counts": counted.group(1)}}
    words = text.lower()
    if not words or re.fullmatch(r"(force[_ -]?)?balanced(,.*)?|capacity.*", words):
        return {"routing": "balanced"}
    if re.fullmatch(r"natural|real|router|learned", words):
        return {}
    raise ScenarioError(f"column routing: {text!r} is not known; write force_balanced, natural or counts FILE")


def set_capacity(row: Row, train: dict[str, Any]) -> None:
    """Sets the capacity factor that a row states, in a column of its own or with its routing."""
    text = text_of(row, "capacity_factor").lower()
    routed = text_of(row, "routing").lower()
    match = re.search(r"capacity\s*(\d+(?:\.\d+)?)", routed)
    if match:
        train["capacity_factor"] = float(match.group(1))
    elif "drop" in text and "dropless" not in text:
        train["capacity_factor"] = 1.0
    else:
        number = re.fullmatch(r"\d+(?:\.\d+)?", text)
        if number:
            train["capacity_factor"] = float(text)
