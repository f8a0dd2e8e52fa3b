"""Links of a cluster that run slower than their data sheet, or not at all: how people write and name them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

from moesim.hwmodels.facts import FactError, did_you_mean

_FORM = 'write LINK=FACTOR, for example "nic3 -> leaf3=0.5", or "leaf0 - spine1=0" for both directions of a dead link'
_LINK = re.compile(r"^\s*([a-z]+\d+)\s*(->|-)\s*([a-z]+\d+)\s*=\s*(\S+)\s*$")
_NAME = re.compile(r"^([a-z]+)(\d+)$")


@dataclass(frozen=True, slots=True)
class LinkFault:
    """One direction of a link, by the names of its ends in hwmodels.topology, at `factor` of its rate: 0 is dead."""

    source: str
    target: str
    factor: float

    @property
    def link(self) -> str:
        """As links are named in answers."""
        return f"{self.source} -> {self.target}"

    def gpus(self) -> set[int]:
        """The GPU whose port it is, by its own name or its NIC's; none for a link among switches."""
        ends = (end for end in (self.source, self.target) if end.startswith(("gpu", "nic")))
        return {int(end[3:]) for end in ends}


def parse_faults(texts: Iterable[str]) -> tuple[LinkFault, ...]:
    """Faults as people write them, "nic3 -> leaf3=0.5": that direction; with "-" both. FactError for anything else."""
    faults: dict[tuple[str, str], LinkFault] = {}
    for text in texts:
        match = _LINK.match(text)
        if match is None:
            raise FactError(f"degrade {text!r} cannot be read: {_FORM}")
        source, arrow, target, number = match.groups()
        factor = _factor(text, number)
        for a, b in ((source, target), (target, source))[: 1 if arrow == "->" else 2]:
            if (a, b) in faults:
                raise FactError(f"degrade {text!r}: {a} -> {b} is degraded twice; give one factor for each direction")
            faults[a, b] = LinkFault(a, b, factor)
    return tuple(faults.values())


def _factor(text: str, number: str) -> float:
    try:
        factor = float(number)
    except ValueError:
        raise FactError(f"degrade {text!r}: {number!r} is not a number; {_FORM}") from None
    if not (isfinite(factor) and 0.0 <= factor <= 1.0):
        raise FactError(f"degrade {text!r}: a factor is a share of the link's rate, 0 (dead) to 1")
    return factor


def unknown_link(fault: LinkFault, nodes: Iterable[str], neighbours: Iterable[str], cluster: str) -> FactError:
    """The refusal of a link that does not exist, with those that are near: `neighbours` of its source, if that is."""
    names, joined = list(nodes), sorted(neighbours, key=_order)
    asked = f"{cluster} has no link {fault.link}"
    for end in (fault.source, fault.target):
        if end not in names:
            match = _NAME.match(end)
            kind = match.group(1) if match else end
            numbers = sorted(
                int(n[len(kind) :]) for n in names if n[: len(kind)] == kind and n[len(kind) :].isdecimal()
            )
            if not numbers:
                kinds = sorted({n.rstrip("0123456789") for n in names})
                return FactError(f"{asked}: nothing is called {end}; {did_you_mean(kind, kinds)}")
            return FactError(f"{asked}: there is no {end}; use {kind}{numbers[0]} to {kind}{numbers[-1]}")
    shown = ", ".join(joined[:8]) + (", ..." if len(joined) > 8 else "")
    return FactError(f"{asked}: {fault.source} is joined to {shown or 'nothing'}")


def _order(name: str) -> tuple[str, int]:
    match = _NAME.match(name)
    return (match.group(1), int(match.group(2))) if match else (name, 0)
