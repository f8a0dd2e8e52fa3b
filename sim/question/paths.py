"""Paths in a scenario's file: they are found from the folder of that file, wherever the command is run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moesim.files.plain_yaml import FileError, read_plain

# keys that hold a path, and those that hold one where they do not hold a name of a catalogue
_PATHS = (("corrections",), ("routing", "counts"), ("cluster", "hardware"), ("serve", "requests", "file"))
_OR_NAMES = (("model",), ("model", "base"), ("profile",), ("serve", "speculative", "model"))
_SUFFIXES = (".json", ".yaml", ".yml")


def from_folder(raw: Any, folder: Path) -> Any:
    """A parsed scenario whose relative paths start at `folder`. FileError where a file is only in the current one."""
    if not isinstance(raw, dict) or folder == Path():
        return raw
    for keys in (*_PATHS, *_OR_NAMES):
        raw = _changed(raw, keys, lambda value, where: _joined(value, where, folder))
    return raw


def for_folder(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A scenario whose relative paths start at the current folder, to be written into `folder`."""
    for keys in (*_PATHS, *_OR_NAMES):
        raw = _changed(raw, keys, lambda value, _: os.path.relpath(value, folder))
    return raw


def whole_paths(raw: dict[str, Any]) -> dict[str, Any]:
    """A scenario for processes that may run in another folder: relative paths from the current one, written out."""
    for keys in (*_PATHS, *_OR_NAMES):
        raw = _changed(raw, keys, lambda value, _: os.path.abspath(value))
    return raw


def files_named(raw: Mapping[str, Any]) -> set[str]:
    """Files whose content decides the answer to a scenario: all that its keys name, and what is read beside those."""
    found: set[str] = set()

    def keep(value: str, _: tuple[str, ...]) -> str:
        found.add(value)
        return value

    for keys in (*_PATHS, *_OR_NAMES):
        _changed(dict(raw), keys, keep, whole_too=True)
    found |= {base for name in found if (base := _base_of(Path(name))) is not None}
    folders = {str(Path(name) / "config.json") for name in found if _exists(Path(name) / "config.json")}
    beside = {str(Path(name).parent / "hf_quant_config.json") for name in found | folders}
    return found | folders | {name for name in beside if _exists(Path(name))}


def _base_of(file: Path) -> str | None:
    """The file or folder that a model's file starts from; what cannot be read is refused by its reader."""
    if file.suffix not in _SUFFIXES:
        return None
    try:
        raw = read_plain(file, "is not there")
    except FileError:
        return None
    base = raw.get("base") if isinstance(raw, dict) else None
    return base if isinstance(base, str) and (base.endswith(_SUFFIXES) or _exists(Path(base))) else None


def _changed(
    raw: dict[str, Any],
    keys: tuple[str, ...],
    change: Callable[[str, tuple[str, ...]], str],
    whole_too: bool = False,
) -> dict[str, Any]:
    """The same with the relative path (`whole_too`: any path) behind these keys changed; names of catalogues stay."""
    value: Any = raw
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, str) or not value.strip() or (Path(value).is_absolute() and not whole_too):
        return raw
    there = value.endswith(_SUFFIXES) or (("/" in value or whole_too) and _exists(Path(value)))
    if keys in _OR_NAMES and not there:
        return raw
    return _with(raw, keys, change(value, keys))


def _with(raw: dict[str, Any], keys: tuple[str, ...], value: str) -> dict[str, Any]:
    return {**raw, keys[0]: value if len(keys) == 1 else _with(raw[keys[0]], keys[1:], value)}


def _joined(value: str, keys: tuple[str, ...], folder: Path) -> str:
    there = folder / value
    if not _exists(there) and _exists(Path(value)):
        raise FileError(
            f"{'.'.join(keys)}: {value[:100]!r} is looked for beside the scenario, in {str(folder)[:100]}, where it is "
            "not; it is in the current folder: write its whole path, or one from the scenario's folder"
        )
    return str(there)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that the file system cannot even be asked for
        return False
