"""What every what-if has: outcomes by knob, the one that matters most first, in tokens per dollar."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from moesim.sim.variation.settings import GROUPS, Reach
from moesim.sim.variation.sweep import Progress

T = TypeVar("T")


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

    @property
    def group(self) -> Reach:
        """What users can change, would have to buy, or would be another question."""
        ...

    @property
    def keys(self) -> Mapping[str, Any] | None:
        """Of the scenario that say it; None: not a scenario key."""
        ...


C = TypeVar("C", bound=Change)


def effect(outcome: Change) -> float:
    """Change of tokens per dollar, as a share of those as asked; 0 for what cannot run and so has none."""
    return outcome.value_factor - 1.0 if outcome.value_factor else 0.0


def by_knob(outcomes: Iterable[C]) -> list[tuple[str, list[C]]]:
    """Outcomes of every knob together, the one that matters most first."""
    together: dict[str, list[C]] = {}
    for outcome in outcomes:
        together.setdefault(outcome.knob, []).append(outcome)
    return sorted(together.items(), key=lambda kv: (-max(abs(effect(o)) for o in kv[1]), kv[0]))


def by_group(outcomes: Iterable[C]) -> list[tuple[Reach, list[tuple[str, list[C]]]]]:
    """Knobs as in `by_knob`, what can be changed apart from what would have to be bought; groups that have any."""
    every = list(outcomes)
    found = [(group, by_knob(o for o in every if o.group == group)) for group in GROUPS]
    return [(group, knobs) for group, knobs in found if knobs]


def in_order(outcomes: Iterable[C]) -> tuple[C, ...]:
    """Largest effect first."""
    return tuple(sorted(outcomes, key=lambda o: (-abs(effect(o)), o.knob, o.change)))


@dataclass(slots=True)
class Tally:
    """Says how many of all changes are done, as they are run one after the other."""

    progress: Progress | None
    total: int
    done: int = 0

    def of(self, changes: Iterable[T]) -> Iterator[T]:
        """The changes; a change is done when the next one is asked for."""
        for change in changes:
            self._say()
            yield change
            self.done += 1
        self._say()

    def _say(self) -> None:
        if self.progress is not None and self.total:
            self.progress("changes run", self.done, self.total)
