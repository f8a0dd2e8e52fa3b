"""Words of an engine's own command line as settings of ours: what a person started is what is simulated."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from moesim.hwmodels.facts import did_you_mean, read_yaml
from moesim.sim.software.stack import StackError

_WORDS = Path(__file__).parent / "engines" / "arguments.yaml"


@dataclass(slots=True)
class Arguments:
    """What a command line says: settings of the engine, degrees that the layout has to agree with, words unused."""

    settings: dict[str, Any] = field(default_factory=dict)
    layout: dict[str, int] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


@cache
def _words() -> dict[str, dict[str, Any]]:
    words: dict[str, dict[str, Any]] = read_yaml(_WORDS)
    return words


def pairs_of(text: str) -> list[tuple[str, str | None]]:
    """(word, value or None) of a command line; a value stands behind `=` or is the next word without dashes."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise StackError(f"serve.engine.args cannot be read as a command line: {error}") from None
    pairs: list[tuple[str, str | None]] = []
    for word in words:
        if word.startswith("-") and not _is_number(word):
            name, equals, value = word.lstrip("-").partition("=")
            pairs.append((name.replace("_", "-"), value if equals else None))
        elif pairs and pairs[-1][1] is None:
            pairs[-1] = (pairs[-1][0], word)
        else:
            raise StackError(
                f"serve.engine.args: {word!r} belongs to no option; write the words behind the model's name"
            )
    return pairs


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _number(word: str, value: str | None) -> float:
    """A number as engines take them: 8192, 0.9 or 8k."""
    text = value or ""
    factor = 1000.0 if text.endswith("k") else 1024.0 if text.endswith("K") else 1.0
    try:
        return float(text[:-1] if factor > 1.0 else text) * factor
    except ValueError:
        raise StackError(f"serve.engine.args: --{word} needs a number, not {text!r}") from None


def arguments_of(family: str, text: str) -> Arguments:
    """A command line of this family of engines. StackError for a word that is unknown, or said in another key."""
    known, found = _words()[family], Arguments()
    every = [*known["settings"], *known["switches"], *known["layout"], *known["elsewhere"], *known["unused"]]
    for word, value in pairs_of(text):
        if word in known["settings"]:
            found.settings[known["settings"][word]] = _number(word, value)
        elif word in known["switches"]:
            if value is not None:
                raise StackError(f"serve.engine.args: --{word} takes no value, not {value!r}")
            found.settings.update(known["switches"][word])
        elif word in known["layout"]:
            found.layout[known["layout"][word]] = int(_number(word, value))
        elif word in known["elsewhere"]:
            raise StackError(f"serve.engine.args: --{word} is said elsewhere in a scenario: {known['elsewhere'][word]}")
        elif word in known["unused"]:
            found.unused.append(word)
        else:
            raise StackError(f"serve.engine.args: {family} has no --{word} here; {did_you_mean(word, every)}")
    return found
