"""How the requests of a measured run came: at a rate, all at once, one batch, queued without end, or from clients.

Only the text of `arrival` and the cell of `concurrency` are read. A text that cannot be read refuses its row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from moesim.calibrate.rows.cells import Row, text_of, whole_of
from moesim.sim.question.scenario import ScenarioError

CLOSED, RATE, BURST, OFFLINE, BATCH = "closed loop", "open loop", "burst", "offline", "one batch"
_N = r"(\d[\d,_]*(?:\.\d+)?|\.\d+)"
_ASKED = r"(?:req(?:uest)?s?\.?|quer(?:y|ies)|prompts?)"
_PER = r"(?:/|per|a|each|every)"
_PER_SECOND = (
    rf"{_N}\s*(?:qps|rps)\b",
    rf"{_N}\s*{_ASKED}?\s*{_PER}\s*(?:s|sec|secs|second|seconds)\b",
    rf"\b(?:qps|rps|rate|poisson|lambda)\b[^\d.,;]{{0,24}}{_N}(?!\s*(?:clients?|users?|{_ASKED}))",
)
_PER_MINUTE = (rf"{_N}\s*{_ASKED}?\s*{_PER}\s*(?:m|min|mins|minute|minutes)\b", rf"{_N}\s*rpm\b")
_COUNT = (
    rf"{_N}\s*(?:[a-z-]+\s+)?{_ASKED}(?![a-z])(?!\s*(?:/|per\b|a\b|each\b|every\b))",
    rf"(?:burst|batch) of {_N}",
    rf"(?:num[ _-]?prompts|count|n)\s*[=:]\s*{_N}",
)
_CLIENTS = (
    rf"{_N}\s*(?:concurrent|parallel|clients?|users?|streams?)",
    rf"(?:concurrency|clients?|users?)[^\d.]{{0,4}}{_N}",
)
_ONE_CLIENT = r"one at a time|sequential|one after (?:the other|another)|single (?:client|user|stream)"
_BATCH = r"\bstatic\b|\b(?:one|single) batch\b|\bbatch of\b"
_BURST = (
    r"at once|all together|at the same time|simultaneous|burst|\bqueued\b|\binf(?:inite|inity)?\b|\bt\s*=\s*0\b|"
    r"no (?:rate )?limit|unlimited|as fast as possible"
)
_LOOP = r"closed|concurren|clients?\b|\busers?\b"


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a row says: the kind, requests per second of an open loop, and how many there are or wait for each other."""

    kind: str
    rate_per_s: float = 0.0
    count: int | None = None  # clients of a closed loop, requests of everything else; None: not stated


def _first(patterns: tuple[str, ...], text: str) -> float | None:
    """The number in the first pattern that fits."""
    for pattern in patterns:
        found = re.search(pattern, text)
        if found:
            return float(found.group(1).replace(",", "").replace("_", ""))
    return None


def _rate(text: str) -> float | None:
    rate, per_minute = _first(_PER_SECOND, text), _first(_PER_MINUTE, text)
    return rate if rate is not None else None if per_minute is None else per_minute / 60.0


def arrival_of(row: Row) -> Arrival:
    """How the requests of a row came. ScenarioError where the text says nothing that could be simulated."""
    said, cell = text_of(row, "arrival"), text_of(row, "concurrency").lower()
    text = said.lower()
    endless = cell in ("max", "inf", "infinite")
    cell_count = None if endless else whole_of(row, "concurrency") or None
    rate, stated = _rate(text), _first(_COUNT, text)
    count = int(stated) if stated else cell_count
    if rate is not None:
        if not 0.0 < rate <= 1e6:
            raise ScenarioError(f"column arrival: {said[:40]!r} is no rate at which requests can come")
        return Arrival(RATE, rate, int(stated) if stated else None)
    if endless or "offline" in text:
        return Arrival(OFFLINE, count=count)
    if re.search(_BATCH, text) or re.search(_BURST, text):
        if count is None:
            raise ScenarioError(
                f"column arrival: {said[:40]!r} does not say how many requests; write it there (1000 prompts at once) "
                "or in the column concurrency"
            )
        return Arrival(BATCH if re.search(_BATCH, text) else BURST, count=count)
    if re.search(_ONE_CLIENT, text):
        return Arrival(CLOSED, count=cell_count or 1)
    if not text or re.search(_LOOP, text):
        clients = cell_count or int(_first(_CLIENTS, text) or 0)
        if clients:
            return Arrival(CLOSED, count=clients)
        raise ScenarioError("columns concurrency and arrival say neither clients nor a rate; write one, such as QPS 5")
    raise ScenarioError(
        f"column arrival: {said[:40]!r} cannot be read; write a rate (QPS 5), all at once, offline or closed loop"
    )
