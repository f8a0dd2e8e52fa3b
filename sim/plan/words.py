"""What people write on the command line: sizes of the cluster, values of axes, numbers of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from moesim.hwmodels.facts import did_you_mean
from moesim.hwmodels.units import parse_count
from moesim.sim.layout.pipeline import SCHEDULES
from moesim.sim.plan.train.space import AXES
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.question.sections import RECOMPUTE_MODULES
from moesim.sim.software.dispatchers import DISPATCHERS

_WORDS = {
    "recompute": tuple(word for word in RECOMPUTE_MODULES if word != "keep_collectives"),
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
    counted = [parse_count(p) for p in parts]
    numbers = [n for n in counted if isinstance(n, int) and 0 < n <= MOST_GPUS]
    if len(numbers) < len(parts):
        raise ScenarioError(f"gpus={text[:60]!r} is not a list of numbers; write 64,128 or 64..512")
    if not dots:
        return tuple(dict.fromkeys(numbers))
    if numbers[1] < numbers[0]:
        raise ScenarioError(f"gpus={text!r} counts down; write the smaller number first")
    doubled = [numbers[0]]
    while doubled[-1] * 2 <= numbers[1]:
        doubled.append(doubled[-1] * 2)
    return tuple(doubled)


def token_count(text: str) -> float | None:
    """'14.8e12' or '14.8T' as a number; None for an empty text. ScenarioError for anything else."""
    if not text:
        return None
    count = parse_count(text)
    if count is None:
        raise ScenarioError(f"tokens={text[:60]!r} is not a number; write for example 14.8e12 or 14.8T")
    return float(count)


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
    number = parse_count(text)
    if not isinstance(number, int) or not least <= number <= MOST_GPUS:
        raise ScenarioError(f"{name}={text[:60]!r} is not a whole number of at least {least}")
    return number
