"""What a report consists of: chapters of sections, each a sentence, numbers, and the template that shows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Section:
    """One thing a person asks. `data` is what the page says, ready for JSON; `shown` is only for the template."""

    key: str  # names the template and the anchor
    title: str
    lead: str  # what the section says, in a sentence
    data: dict[str, Any]
    shown: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"title": self.title, "lead": self.lead, **self.data}


@dataclass(frozen=True, slots=True)
class Tile:
    """One number to remember."""

    title: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class Chapter:
    """Everything about one scenario."""

    key: str
    title: str
    question: str
    answer: str
    points: tuple[str, ...]  # what else must be known, most important first
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]

    def value(self, name: str) -> str:
        """The number of the tile called so; nothing where there is none."""
        return next((t.value for t in self.tiles if t.title == name), "")

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "title": self.title,
            "question": self.question,
            "answer": self.answer,
            "points": list(self.points),
            "numbers": {t.title: {"value": t.value, "note": t.note} for t in self.tiles},
            "sections": {s.key: s.to_dict() for s in self.sections},
        }


@dataclass(frozen=True, slots=True)
class Page:
    """The whole report."""

    title: str
    chapters: tuple[Chapter, ...]
    sections: tuple[Section, ...]  # about all chapters

    @property
    def heading(self) -> str:
        """What stands above several chapters."""
        return f"{len(self.chapters)} questions, answered by simulation"

    @property
    def columns(self) -> list[str]:
        """Titles of all tiles, for the table of all chapters."""
        return list(dict.fromkeys(t.title for c in self.chapters for t in c.tiles))

    def to_dict(self) -> dict[str, Any]:
        """What the page says, ready for JSON."""
        return {
            "title": self.title,
            "chapters": [c.to_dict() for c in self.chapters],
            "sections": {s.key: s.to_dict() for s in self.sections},
        }
