"""What the outside world sends: requests, and which expert each token picks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from traces.routing import BadTrace, Routing, busiest_over_mean, load_counts, save_counts

# where each public name lives; loaded when first asked for, so that importing the room stays cheap
_HOME = {
    "BadTrace": "traces.routing",
    "Routing": "traces.routing",
    "busiest_over_mean": "traces.routing",
    "load_counts": "traces.routing",
    "save_counts": "traces.routing",
}

__all__ = [
    "BadTrace",
    "Routing",
    "busiest_over_mean",
    "load_counts",
    "save_counts",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
