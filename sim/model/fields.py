"""Fields: a mapping from outside, read field by field; each wrong, missing or unknown one is an ArchError."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any

from moesim.hwmodels.facts import did_you_mean
from moesim.sim.model.arch import ArchError, short

_MAX_SIZE = 1_000_000_000  # no single dimension of a real model comes near; beyond it a unit was mistaken
_SLIP = 0.8  # how alike two words are of which one is a slip of the other: hiden and hidden, but not nope and rope


def _slip(given: str, key: str) -> bool:
    """Whether a field is this one misspelled, word by word: fields of other sizes are often spelled alike."""
    if len(given) > len(key) + 3:
        return False
    ours, theirs = key.lower().split("_"), given.lower().replace("-", "_").split("_")
    if len(ours) != len(theirs):
        return "".join(ours) == "".join(theirs)
    return all(SequenceMatcher(None, a, b).ratio() >= _SLIP for a, b in zip(ours, theirs, strict=True))


class Fields:
    """A mapping being read: each getter checks one field and remembers that it was asked for."""

    def __init__(self, record: object, where: str) -> None:
        if not isinstance(record, Mapping):
            raise ArchError(f"{where}: is {short(record)}; needs a mapping of sizes, e.g. {{heads: 32}}")
        self.record: Mapping[Any, Any] = record
        self._asked: list[str] = []
        self._parts: dict[str, Fields] = {}
        self.where = where
        self.said: list[str] = []  # what a reader of these fields has to say about them

    def get(self, key: str) -> Any:
        """The raw value, None when absent."""
        self._asked.append(key)
        return self.record.get(key)

    def has(self, key: str) -> bool:
        """True when the field is there and not null."""
        return self.get(key) is not None

    def names(self) -> list[str]:
        """The fields that are there, as text."""
        return [str(key) for key in self.record]

    def first(self, *keys: str) -> str:
        """The first of several spellings that is there (the first spelling when none is)."""
        return next((key for key in keys if self.has(key)), keys[0])

    def fail(self, key: str, why: str) -> ArchError:
        """An error about one field, to be raised by the caller."""
        return ArchError(f"{self.where}: {key} {why}")

    def _missing(self, key: str, needs: str) -> ArchError:
        unread = [str(given) for given in self.record if given not in self._asked]
        close = next((given for given in unread if _slip(given, key)), None)
        hint = f" (did you mean it by {close!r}?)" if close else ""
        return self.fail(key, f"is missing{hint}; needs {needs}")

    def whole(self, key: str, least: int, default: int | None = None) -> int:
        """A whole number of at least `least`; `default` when absent, an error when there is no default."""
        value = self.get(key)
        if value is None:
            if default is None:
                raise self._missing(key, f"a whole number of at least {least}")
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(key, f"is {short(value)}; needs a whole number of at least {least}")
        if not least <= value <= _MAX_SIZE:
            raise self.fail(key, f"is {short(value)}; needs a whole number from {least} to {_MAX_SIZE}")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1."""
        return self.whole(key, 1, default)

    def count(self, key: str, default: int = 0) -> int:
        """A whole number of at least 0; 0 when absent unless told otherwise."""
        return self.whole(key, 0, default)

    def size_or_none(self, key: str) -> int | None:
        """A whole number of at least 1, or None when absent or null."""
        return self.size(key) if self.has(key) else None

    def number_or_none(self, key: str) -> float | None:
        """A positive finite number, or None when absent or null."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= _MAX_SIZE:
            raise self.fail(key, f"is {short(value)}; needs a positive number")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """true or false; `default` when absent, an error when there is no default."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise self._missing(key, "true or false")
        if not isinstance(value, bool):
            raise self.fail(key, f"is {short(value)}; needs true or false")
        return value

    def text(self, key: str, default: str) -> str:
        """A string; `default` when absent."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.fail(key, f"is {short(value)}; needs text")
        return value

    def choice(self, key: str, allowed: tuple[str, ...], default: str) -> str:
        """One of a few words; `default` when absent."""
        value = self.text(key, default)
        if value not in allowed:
            raise self.fail(key, f"is {short(value)}; needs one of {', '.join(allowed)}")
        return value

    def part(self, key: str) -> Fields | None:
        """A nested mapping, or None when absent or null."""
        if not self.has(key):
            return None
        if key not in self._parts:
            self._parts[key] = Fields(self.record[key], f"{self.where}: {key}")
            self._parts[key].said = self.said  # what is assumed inside is said with the whole
        return self._parts[key]

    def assume(self, line: str) -> None:
        """What stands in for a field, once, for the answer to say."""
        if line not in self.said:
            self.said.append(line)

    def also(self, **more: int) -> Fields:
        """These fields with some that the file holds elsewhere; what is asked and said counts for both."""
        wider = Fields({**self.record, **more}, self.where)
        wider._asked, wider._parts, wider.said = self._asked, self._parts, self.said
        return wider

    def pass_over(self, *keys: str) -> None:
        """These fields say what others say too, or nothing about sizes, in this family: not reported as unread."""
        self._asked += keys

    def alike(self, key: str, least: int, default: int | None = None) -> int:
        """A whole number, or a list with the same number for every layer; ArchError when they differ."""
        value = self.get(key)
        if not isinstance(value, list):
            return self.whole(key, least, default)
        if not value or any(each != value[0] for each in value):
            raise self.fail(key, "differs between layers; needs one number for all (write the layers as a YAML model)")
        return Fields({key: value[0]}, self.where).whole(key, least)

    def unread(self) -> dict[str, Any]:
        """Fields that no getter asked for, those of parts that were read as 'part.field'."""
        left = {str(key): value for key, value in self.record.items() if key not in self._asked}
        for name, part in self._parts.items():
            left |= {f"{name}.{key}": value for key, value in part.unread().items()}
        return left

    def items(self, key: str, length: int | None = None) -> list[Any] | None:
        """A list (with one entry per layer when `length` is given), or None when absent or null."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self.fail(key, f"is {short(value)}; needs a list")
        if length is not None and len(value) != length:
            raise self.fail(key, f"has {len(value)} entries; needs one for each of {length} layers")
        return value

    def places(self, key: str, layers: int) -> tuple[int, ...] | None:
        """Numbers of layers, from 0, or None when absent or null."""
        value = self.items(key)
        for place in value or ():
            if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < layers:
                raise self.fail(key, f"holds {short(place)}; needs numbers of layers from 0 to {layers - 1}")
        return None if value is None else tuple(value)

    def refuse_unknown(self) -> None:
        """Raise for the first field that no getter asked for."""
        for key in self.record:
            if key not in self._asked:
                hint = did_you_mean(str(key), sorted(set(self._asked)))
                raise ArchError(f"{self.where}: unknown key {short(key)}; {hint}")
