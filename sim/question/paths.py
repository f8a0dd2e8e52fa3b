"""Paths in a scenario's file: they are found from the folder of that file, wherever the command is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moesim.hwmodels.plain_yaml import FileError

# keys that hold a path, and those that hold one where they do not hold a name of a catalogue
_PATHS = (("corrections",), ("routing", "counts"), ("cluster", "hardware"), ("serve", "requests", "file"))
_OR_NAMES = (("model",), ("model", "base"), ("profile",), ("serve", "speculative", "model"))
_SUFFIXES = (".json", ".yaml", ".yml")


def from_folder(raw: Any, folder: Path) -> Any:
    """A parsed scenario whose relative paths start at `folder`. FileError where a file is only in the current one."""
    if not isinstance(raw, dict) or folder == Path():
        return raw
    for keys in (*_PATHS, *_OR_NAMES):
        raw = _joined(raw, keys, folder, keys in _OR_NAMES)
    return raw


def _joined(raw: dict[str, Any], keys: tuple[str, ...], folder: Path, or_name: bool) -> dict[str, Any]:
    value = raw.get(keys[0])
    if len(keys) > 1:
        return {**raw, keys[0]: _joined(value, keys[1:], folder, or_name)} if isinstance(value, dict) else raw
    if not isinstance(value, str) or not value.strip() or Path(value).is_absolute():
        return raw
    there = folder / value
    if or_name and not value.endswith(_SUFFIXES) and not ("/" in value and _exists(there)):
        return raw
    if not _exists(there) and _exists(Path(value)):
        raise FileError(
            f"{'.'.join(keys)}: {value[:100]!r} is looked for beside the scenario, in {str(folder)[:100]}, where it is "
            "not; it is in the current folder: write its whole path, or one from the scenario's folder"
        )
    return {**raw, keys[0]: str(there)}


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that the file system cannot even be asked for
        return False
