"""What a recorded step shows inside its slots: pieces on every stream, and how full each wire is over time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from moesim.hwmodels.wires import WIRES, Wire, wire_of
from moesim.sim.clock.network import Loads, fair_rates
from moesim.sim.clock.plan import ScriptRun, Send
from moesim.sim.clock.shared_links import seen_from_network
from moesim.sim.train.step import StepResult

_FULL = 1.0 + 1e-9


@dataclass(frozen=True, slots=True)
class Stretch:
    """One piece of a slot: its rank and stream, what it is, and when it began and ended (the latest member's)."""

    rank: int
    stream: str
    name: str
    category: str
    start_s: float
    end_s: float


def stretches(step: StepResult) -> Iterator[Stretch]:
    """Pieces of all slots that consist of several, in the order in which they ended; none unless it was recorded."""
    plan = step.timeline.program
    for item, number, start, end in step.pieces:
        slot = plan.items[item]
        if isinstance(slot, ScriptRun) and len(slot.script.pieces) > 1 and end > start:
            piece = slot.script.pieces[number]
            yield Stretch(plan.lane_of[item].rank, piece.stream, piece.name, piece.category, start, end)


@dataclass(slots=True, eq=False)
class _Flight:
    """A transfer: the links that it fills, from when to when, and at which of its full rate it moves now."""

    loads: Loads
    flow_weight: float
    start_s: float
    end_s: float
    pace_share: float = 0.0


def wire_use(step: StepResult) -> dict[tuple[int, Wire], list[tuple[float, float]]]:
    """Share of the rate in use by (pipeline rank, wire): (second, share from then on), the last share 0.

    Uplinks, which ranks share, have numbers of their own: (number from 0, "uplink"), as in sim/layout/uplinks.py.
    Rates are the clock's own: fair where wires are full. Where the GPUs of a stage differ, the busiest one's wires.
    """
    marks: dict[float, tuple[list[_Flight], list[_Flight]]] = {}
    for flight in _flights(step):
        marks.setdefault(flight.start_s, ([], []))[0].append(flight)
        marks.setdefault(flight.end_s, ([], []))[1].append(flight)
    flying: dict[int, list[_Flight]] = {}
    level: dict[int, float] = {}
    use: dict[int, list[tuple[float, float]]] = {}
    for second in sorted(marks):
        begun, over = marks[second]
        touched: dict[int, None] = {}
        for flight in over:
            for link, _ in flight.loads:
                flying[link].remove(flight)
                touched[link] = None
        for flight in begun:
            for link, _ in flight.loads:
                flying.setdefault(link, []).append(flight)
                touched[link] = None
        for link in _paced(flying, touched):
            now = sum(f.pace_share * share for f in flying[link] for on, share in f.loads if on == link)
            if now != level.get(link, 0.0):
                level[link] = now
                use.setdefault(link, []).append((second, now))
    return {_wire_of(link): use[link] for link in sorted(use)}


def _wire_of(link: int) -> tuple[int, Wire]:
    return (-1 - link, "uplink") if link < 0 else wire_of(link)


def _paced(flying: dict[int, list[_Flight]], touched: Iterable[int]) -> dict[int, None]:
    """Give every transfer that a change on these links reaches its rate; returns the links whose use may differ."""
    links = dict.fromkeys(touched)
    met: dict[_Flight, None] = {}
    todo = list(links)
    for link in todo:  # grows
        for flight in flying.get(link, ()):
            if flight in met:
                continue
            met[flight] = None
            for other, _ in flight.loads:
                if other not in links:
                    links[other] = None
                    todo.append(other)
    flights = list(met)
    full = {link for link in links if sum(s for f in flying[link] for on, s in f.loads if on == link) > _FULL}
    rates = fair_rates([f.loads for f in flights], [f.flow_weight for f in flights], full)
    for flight, rate in zip(flights, rates, strict=True):
        flight.pace_share = rate
    return links


def _flights(step: StepResult) -> Iterator[_Flight]:
    """Every transfer of the step: inside slots, and between them."""
    plan, timeline = step.timeline.program, step.timeline
    for item, number, start, end in step.pieces:
        slot = plan.items[item]
        if isinstance(slot, ScriptRun) and end > start and slot.script.pieces[number].loads:
            piece, first = slot.script.pieces[number], plan.lane_of[item].rank * len(WIRES)
            loads = tuple((first + wire, share) for wire, share in piece.loads)
            yield _Flight(seen_from_network(loads, step.common), piece.flow_weight, start, end)
    for item, send in enumerate(plan.items):
        start, end = timeline.start_s[item], timeline.end_s[item]
        if isinstance(send, Send) and send.loads and end > start:
            yield _Flight(seen_from_network(send.loads, step.common), send.flow_weight, start, end)
