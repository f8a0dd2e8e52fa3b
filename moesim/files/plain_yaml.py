"""YAML and JSON that people hand over: bounded, plain, numbers as YAML 1.2 reads them, one line when it fails.

Plain: no anchors, tags or keys that come twice, no control characters, no deeper than a scenario ever is. `010` is ten
and `1:30` text, as in YAML 1.2 and JSON; the parser's own YAML 1.1 takes them for octal eight and ninety seconds.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from moesim.files.words import LINES, is_visible
from moesim.refusal import Refusal

MAX_BYTES = 400_000  # many pages of text; anything larger is a mistake or an attack
MAX_DEPTH = 30  # of mappings and lists in each other
_MOST_DIGITS = 300  # of a number; more has no meaning here
_SHOWN = 60


class FileError(Refusal):
    """A file that is not there, too large, no text, or not YAML; the message says which, without the file's name."""


_INT = re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+", re.ASCII)
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    re.ASCII,
)
_GROUPED = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)+", re.ASCII)  # 1_000_000, as people write it


class _Plain(yaml.SafeLoader):
    """YAML without what a scenario has no use for, and what a small file can blow up with."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise FileError("YAML aliases (*name) are not allowed here; write the value out")
        tag = getattr(self.peek_event(), "tag", None)  # type: ignore[no-untyped-call]  # the library has no types
        if tag is not None and tag != "!":
            raise FileError(f"YAML tags ({tag[:_SHOWN]}) are not allowed here; write the value as it is")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise FileError(f"is nested deeper than {MAX_DEPTH} levels; no key of ours is")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise FileError(f"key {key.value[:_SHOWN]!r} is given twice in one mapping; keep one")
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else "")
        return super().construct_mapping(node, deep)

    def whole(self, node: Any) -> Any:
        text = _short_number(node.value.replace("_", ""))
        return int(text, 16 if "x" in text else 8 if "o" in text else 10)

    def number(self, node: Any) -> Any:
        text = _short_number(node.value.replace("_", "").lower())
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _short_number(text: str) -> str:
    if len(text) > _MOST_DIGITS:
        raise FileError(f"a number has {len(text):,} digits; at most {_MOST_DIGITS} are read")
    return text


def _resolvers() -> dict[str, list[tuple[str, Any]]]:
    """The parser's own, less what YAML 1.2 has not: octal and sexagesimal numbers, dates."""
    dropped = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp")}
    kept = yaml.SafeLoader.yaml_implicit_resolvers.items()
    return {first: [each for each in rules if each[0] not in dropped] for first, rules in kept}


_Plain.yaml_implicit_resolvers = _resolvers()
for _tag, _rule in (
    ("int", re.compile(rf"(?:{_INT.pattern}|{_GROUPED.pattern})\Z")),
    ("float", re.compile(rf"(?:{_FLOAT.pattern})\Z")),
):
    _Plain.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _rule, list("-+.0123456789"))
_Plain.add_constructor("tag:yaml.org,2002:int", _Plain.whole)
_Plain.add_constructor("tag:yaml.org,2002:float", _Plain.number)


def read_plain(file: Path, missing: str) -> Any:
    """The parsed file; every way in which it can be broken is a FileError, a file that is not there says `missing`."""
    return parsed_plain(read_text(file, missing))


def read_text(file: Path, missing: str, most_bytes: int = MAX_BYTES) -> str:
    """The text of a plain file of bounded size; FileError otherwise. Never waits for a pipe or a device."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name with a zero byte
        raise FileError(missing) from None
    except OSError as error:
        raise FileError(missing if error.errno == errno.ENAMETOOLONG else f"cannot be read: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise FileError(missing)
        if not stat.S_ISREG(status.st_mode):
            raise FileError("is no plain file but a pipe or a device; write it to a file first")
        with os.fdopen(os.dup(descriptor), "rb") as handle:
            raw = handle.read(most_bytes + 1)
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(raw) > most_bytes:
        raise FileError(f"the file has {status.st_size:,} bytes; at most {most_bytes:,} are read")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FileError("is not a text file in UTF-8") from None


def parsed_plain(text: str) -> Any:
    """The value that YAML text stands for; every way in which it can be broken is a FileError without the text."""
    try:
        value = yaml.load(text, Loader=_Plain)  # a SafeLoader
    except FileError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise FileError(f"is not valid YAML: {str(error.problem or error.context)[:100]}{at}") from None
    except yaml.reader.ReaderError as error:
        raise FileError(f"is not valid YAML: a character that YAML has not, at position {error.position}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError) as error:
        raise FileError(f"is not valid YAML: {' '.join(str(error).split())[:100]}") from None
    check_printable(value)
    return value


def check_printable(value: Any, place: str = "") -> None:
    """FileError for a text or a key with control characters (line ends and tabs aside): they would reach a terminal."""
    if isinstance(value, str):
        if not is_visible(value.translate(_LINES)):
            at = f" at {place[:_SHOWN]}" if place else ""
            raise FileError(f"holds a control character{at}; write text without them")
    elif isinstance(value, dict):
        for key, inner in value.items():
            check_printable(key, place)
            check_printable(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            check_printable(inner, f"{place}[{number}]")


_LINES = {ord(end): "" for end in LINES}
