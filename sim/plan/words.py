"""What people write on the command line: sizes of the cluster, values of axes, numbers of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from moesim.hwmodels.facts import did_you_mean
from moesim.sim.layout.pipeline import SCHEDULES
from moesim.sim.plan.train.space import AXES, RECOMPUTE
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.software.dispatchers import DISPATCHERS

_WORDS = {
    "recompute": RECOMPUTE,
    "schedule": SCHEDULES,
    "dispatcher": ("auto", *DISPATCHERS),
}
MOST_GPUS = 10_000_000


def sizes(text: str) -> tuple[int, ...]:
    """'64,128' or '64..512' (doubling) as numbers; none for an empty text. ScenarioError for anything else."""
    if not text:
        return ()
    first, dots, last = text.partition("..")
    parts = [first, last] if dots else text.split(",")
    if not all(p.strip().isdecimal() and 0 < int(p) <= MOST_GPUS for p in parts):
        raise ScenarioError(f"gpus={text!r} is not a list of numbers; write 64,128 or 64..512")
    numbers = [int(p) for p in parts]
    if not dots:
        return tuple(dict.fromkeys(numbers))
    if numbers[1] < numbers[0]:
        raise ScenarioError(f"gpus={text!r} counts down; write the smaller number first")
    doubled = [numbers[0]]
    while doubled[-1] * 2 <= numbers[1]:
        doubled.append(doubled[-1] * 2)
    return tuple(doubled)


def token_count(text: str) -> float | None:
    """'14.8e12' as a number; None for an empty text. ScenarioError for anything else."""
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise ScenarioError(f"tokens={text!r} is not a number; write for example 14.8e12") from None


def axes(texts: Iterable[str]) -> dict[str, tuple[object, ...]]:
    """'tp=4,8' as {"tp": (4, 8)}. ScenarioError for axes or values that do not exist."""
    values: dict[str, tuple[object, ...]] = {}
    for name, words in named_words(texts, "train"):
        if name not in AXES:
            raise ScenarioError(f"{name!r} is not searched; {did_you_mean(name, list(AXES))}")
        values[name] = tuple(_value(name, word) for word in words)
    return values


def named_words(texts: Iterable[str], section: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """'layout.tp=4, 8' as ("tp", ("4", "8")). ScenarioError for a text without a value."""
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not values.strip():
            raise ScenarioError(f"{text!r} fixes nothing; write an axis and its values, for example tp=4,8")
        short = name.strip().removeprefix("layout.").removeprefix(f"{section}.")
        yield short, tuple(word.strip() for word in values.split(","))


def _value(name: str, text: str) -> object:
    if name in _WORDS:
        if text not in _WORDS[name]:
            raise ScenarioError(f"{name}={text!r} is not known; use one of {', '.join(_WORDS[name])}")
        return text
    least = 0 if name in ("etp", "zero") else 1
    if not text.isdecimal() or not least <= int(text) <= MOST_GPUS:
        raise ScenarioError(f"{name}={text!r} is not a whole number of at least {least}")
    return int(text)
