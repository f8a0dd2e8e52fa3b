"""Options of engines as their documentation has them: what may be written into a command line, a YAML or a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from moesim.hwmodels.facts import did_you_mean, read_yaml
from moesim.sim.software.stack import StackError

_FOLDER = Path(__file__).parent / "engines" / "options"


@cache
def engine_options(name: str) -> dict[str, Any]:
    """The record of an engine or platform: version, source, options by name or path, words of its own."""
    record: dict[str, Any] = read_yaml(_FOLDER / f"{name}.yaml")
    return record


def option_targets() -> tuple[str, ...]:
    """Engines and platforms whose options are known."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def check_option(name: str, option: str) -> None:
    """StackError for an option that the documentation of an engine does not have."""
    record = engine_options(name)
    known = [*record["options"], *record.get("words", {})]
    if not any(_same(option.split("."), each.split(".")) for each in known):
        raise StackError(f"{name} {record['version']} has no option {option!r}; {did_you_mean(option, known)}")


def _same(path: list[str], known: list[str]) -> bool:
    """Whether a path of keys is a known one; `*` stands for any name, the last one also with dots in it."""
    if len(path) > len(known) and known[-1] == "*":
        path = [*path[: len(known) - 1], ".".join(path[len(known) - 1 :])]
    return len(path) == len(known) and all(k in ("*", p) for p, k in zip(path, known, strict=True))


def paths_of(mapping: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Every key of nested mappings as a dotted path; lists are leaves."""
    for key, value in mapping.items():
        path = f"{before}{key}"
        if isinstance(value, Mapping):
            yield from paths_of(value, f"{path}.")
        else:
            yield path


def source_of(name: str) -> str:
    """'vllm 0.12.0 (https://...)'."""
    record = engine_options(name)
    return f"{name} {record['version']} ({record['source']})"
