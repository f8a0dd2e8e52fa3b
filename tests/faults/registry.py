"""Fault scenarios by title."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.bench import Bench

SCENARIOS: dict[str, Callable[[Bench], None]] = {}
REPORT = ("report", "job.yaml", "--plan", "none", "--out")


def scenario(title: str) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Puts a function into SCENARIOS under its title."""

    def keep(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
        SCENARIOS[title] = function
        return function

    return keep


class Skipped(Exception):  # not an error: this machine cannot play the scenario
    """The scenario needs something that is not here; its text says what."""
