"""The journal of a sweep: finished points on disk, so that one that was killed goes on where it stopped.

Its first line is a digest of everything that decides a point: scenario, the content of every file that it names, this
package's version. A line a point follows, with a checksum. What is not such a line is passed over and counted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import IO, Any

from moesim.files.whole import OutputError, writing
from moesim.files.words import counted
from moesim.sim.question.paths import files_named

SCHEMA = 2  # of the lines
MAX_BYTES = 4_000_000_000  # a million points
_LARGEST_INPUT = 2_000_000_000


class Journal:
    """Finished points of one sweep on disk; opened again, it knows what is done. One process holds it at a time.

    said: what a person should know of how it was found (points that go on, lines passed over, inputs that changed).
    OutputError where another process holds it, or where it cannot be written.
    """

    def __init__(
        self, path: Path, scenario: Mapping[str, Any], settings: Mapping[str, Sequence[Any]] | None = None
    ) -> None:
        self._path = path
        self._head = json.dumps({"schema": SCHEMA, "inputs": digest(scenario, settings or {})})
        self.done: dict[str, dict[str, Any]] = {}
        self.said: list[str] = []
        with writing(path):
            self._handle = _held(path)
            text = self._handle.read()
            if text and text.partition("\n")[0] != self._head:
                self._begin_anew()
                text = ""
            if not text:
                self._write(self._head)
            elif not text.endswith("\n"):
                self._handle.write("\n")  # the end of the line that was being written when the sweep was killed
        self._learn(text.split("\n")[1:])

    def _begin_anew(self) -> None:
        """Other inputs made what is there: it is put aside, not lost, and not mixed with what comes."""
        aside = self._path.with_name(self._path.name + ".before")
        os.replace(self._path, aside)
        self._handle.close()
        self._handle = _held(self._path)
        self.said.append(f"inputs, or moesim, changed since {self._path} was begun: all points anew; it is {aside} now")

    def _learn(self, lines: Sequence[str]) -> None:
        entries = [_entry(line) for line in lines if line]
        for entry in entries:
            if entry is not None:
                self.done[entry[0]] = entry[1]
        if self.done:
            self.said.append(f"going on: {counted(len(self.done), 'point')} done already")
        bad = sum(entry is None for entry in entries)
        if bad:
            self.said.append(f"{bad} of {len(entries)} lines of {self._path} are torn or foreign: those points anew")

    def add(self, key: str, row: dict[str, Any]) -> None:
        """Keep one finished point."""
        self.done[key] = row
        body = json.dumps({"key": key, "row": row}, default=str)
        with writing(self._path):
            self._write(json.dumps({"crc": zlib.crc32(body.encode())})[:-1] + ", " + body[1:])

    def _write(self, line: str) -> None:
        self._handle.write(line + "\n")
        self._handle.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()

    def free(self) -> None:
        """Let go of the file, which stays for whoever goes on."""
        with writing(self._path):  # what a full disk did not take before is tried once more
            self._handle.close()

    def close(self) -> None:
        """All points are in the table: the journal is not needed any more."""
        self._path.unlink(missing_ok=True)
        self._handle.close()


def _held(path: Path) -> IO[str]:
    """The file opened and locked: two sweeps into one table would each lose the other's points."""
    handle = path.open("a+", encoding="utf-8", errors="replace", newline="\n")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise OutputError(f"another sweep is writing {path}; wait for it, or write to another file") from None
    if os.fstat(handle.fileno()).st_size > MAX_BYTES:
        handle.close()
        raise OutputError(f"{path} is larger than any journal; remove it, or write to another file")
    handle.seek(0)
    return handle


def _entry(line: str) -> tuple[str, dict[str, Any]] | None:
    """Key and row of a line; None for one that is torn, foreign or altered."""
    try:
        raw = json.loads(line)
        crc, body = raw.pop("crc"), json.dumps(raw)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return None
    row = raw.get("row")
    if crc != zlib.crc32(body.encode()) or set(raw) != {"key", "row"} or not isinstance(row, dict):
        return None
    numbers = (value for value in row.values() if isinstance(value, float))
    return (str(raw["key"]), row) if all(isfinite(value) for value in numbers) else None


def digest(scenario: Mapping[str, Any], settings: Mapping[str, Sequence[Any]]) -> str:
    """Of everything that decides a point: what is asked, the content of the files that it names, the version."""
    from importlib.metadata import version

    whole = hashlib.sha256(f"{SCHEMA} {version('moesim')}\n".encode())
    whole.update(json.dumps(scenario, sort_keys=True, default=str).encode(errors="backslashreplace"))
    for path in sorted({*files_named(scenario), *_varied(scenario, settings)}):
        whole.update(f"\n{path} ".encode(errors="backslashreplace"))
        whole.update(_content(Path(path)))
    return whole.hexdigest()


def _varied(scenario: Mapping[str, Any], settings: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    from moesim.sim.variation.sweep import with_settings

    for key, values in settings.items():
        for value in values:
            if isinstance(value, str):
                yield from files_named(with_settings(scenario, {key: value}))


def _content(path: Path) -> bytes:
    """A digest of a file; of what cannot be read, that: its point will say why."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_INPUT:
            return b"unread"
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").digest()
    except (OSError, ValueError):
        return b"unread"
