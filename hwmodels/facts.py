"""Read fact sheets (YAML with a source per record) and say what was meant when a name is not there."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from moesim.refusal import Refusal

_SPECS = Path(__file__).parent / "specs"
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class FactError(Refusal):
    """A fact that was asked for does not exist; the message says what does."""


def read_yaml(path: Path) -> Any:
    """Parse one YAML file that ships with the product."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)


@cache
def catalogue(kind: str) -> dict[str, dict[str, Any]]:
    """All records of specs/<kind>.yaml by name. Every record must carry a source."""
    records: dict[str, dict[str, Any]] = read_yaml(_SPECS / f"{kind}.yaml")
    for name, record in records.items():
        if not record.get("source"):
            raise FactError(f"specs/{kind}.yaml: {name} has no source")
    return records


def did_you_mean(name: str, known: list[str]) -> str:
    """'; did you mean 'x'?' when something is close, else the (shortened) list of what is known."""
    spelled = {k.lower(): k for k in known}
    close = get_close_matches(name.lower()[:100], list(spelled), n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(spelled[c]) for c in close) + "?"
    shown = ", ".join(sorted(known)[:12])
    return f"known: {shown}{', ...' if len(known) > 12 else ''}"


def lookup(records: dict[str, dict[str, Any]], name: str, what: str) -> dict[str, Any]:
    """The record called `name`, or a FactError that names near misses."""
    if name not in records:
        raise FactError(f"unknown {what} {name!r}; {did_you_mean(name, list(records))}")
    return records[name]
