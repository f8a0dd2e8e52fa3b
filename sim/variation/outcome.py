"""What every what-if has: outcomes by knob, the one that matters most first, in tokens per dollar."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Change(Protocol):
    """One change and what it does."""

    @property
    def knob(self) -> str:
        """What is changed."""
        ...

    @property
    def change(self) -> str:
        """How."""
        ...

    @property
    def value_factor(self) -> float:
        """Tokens per dollar over those of the run as asked."""
        ...

    @property
    def fits(self) -> bool:
        """Whether memory is large enough."""
        ...


C = TypeVar("C", bound=Change)


def by_knob(outcomes: Iterable[C]) -> list[tuple[str, list[C]]]:
    """Outcomes of every knob together, the one that matters most first."""
    together: dict[str, list[C]] = {}
    for outcome in outcomes:
        together.setdefault(outcome.knob, []).append(outcome)
    return sorted(together.items(), key=lambda kv: (-max(abs(o.value_factor - 1.0) for o in kv[1]), kv[0]))


def in_order(outcomes: Iterable[C]) -> tuple[C, ...]:
    """Largest effect first."""
    return tuple(sorted(outcomes, key=lambda o: (-abs(o.value_factor - 1.0), o.knob, o.change)))
