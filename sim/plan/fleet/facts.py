"""FleetFacts: what a serving fleet depends on beyond its traffic, each with where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from moesim.hwmodels.facts import did_you_mean, read_yaml
from moesim.hwmodels.power_and_money import power_records
from moesim.sim.question.scenario import ScenarioError

_FILE = Path(__file__).parent / "fleet.yaml"
_MAY_BE_ZERO = (
    "network_share",
    "housing_usd_per_kwh",
    "staff_share",
    "host_power_share",
    "start_s",
    "server_usd",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetFacts:
    """Meanings and sources are in fleet.yaml and hwmodels/specs/power.yaml."""

    years: float
    power_usd_per_kwh: float
    pue: float
    host_power_share: float
    network_share: float
    housing_usd_per_kwh: float
    staff_share: float
    rack_w: float
    start_s: float
    used_share: float
    server_usd: float


@cache
def _records() -> dict[str, dict[str, Any]]:
    records: dict[str, dict[str, Any]] = read_yaml(_FILE)
    return records | {name: power_records()[name] for name in ("pue", "host_power_share")}


def fleet_facts(changes: Mapping[str, float] | None = None) -> FleetFacts:
    """The shipped facts with a user's own in their place. ScenarioError for names or values that cannot be."""
    values = {name: float(record["value"]) for name, record in _records().items()}
    for name, value in (changes or {}).items():
        if name not in values:
            raise ScenarioError(f"fact {name!r} is not known; {did_you_mean(name, list(values))}")
        least = 0.0 if name in _MAY_BE_ZERO else 1e-9
        if not least <= value < float("inf") or (name == "used_share" and value > 1.0):
            raise ScenarioError(f"fact {name}={value:g} must be a number of at least {least:g}")
        values[name] = float(value)
    return FleetFacts(**values)


def read_facts(texts: Iterable[str]) -> dict[str, float]:
    """'power_usd_per_kwh=0.12' as numbers by name. ScenarioError for anything else."""
    facts = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        try:
            facts[name] = float(value)
        except ValueError:
            raise ScenarioError(f"{text!r} is no fact; write for example power_usd_per_kwh=0.12") from None
        if not equals:
            raise ScenarioError(f"{text!r} is no fact; write for example power_usd_per_kwh=0.12")
    return facts


def fact_sources(changes: Mapping[str, float]) -> dict[str, str]:
    """Where every fact comes from, with its value."""
    said = {}
    for f in fields(FleetFacts):
        record = _records()[f.name]
        own = (
            f"{changes[f.name]:g}, given"
            if f.name in changes
            else f"{record['value']:g}, {record['kind']}: {record['source']}"
        )
        said[f.name] = own
    return said
