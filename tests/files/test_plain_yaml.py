"""What people write is read as YAML 1.2 reads it, or refused in one line that repeats nothing of the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from moesim.files.plain_yaml import MAX_BYTES, FileError, parsed_plain, read_plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),  # YAML 1.1 says octal 8
        ("0o10", 8),
        ("0x10", 16),
        ("1:30", "1:30"),  # YAML 1.1 says 90
        ("190:20:30", "190:20:30"),
        ("1e12", 1e12),  # YAML 1.1 says text
        ("1.5e3", 1500.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("+3", 3),
        ("1_000_000", 1_000_000),
        ("10T", "10T"),
        ("2026-11-28", "2026-11-28"),  # YAML 1.1 says a date
        (".inf", float("inf")),
        ("true", True),
        ("~", None),
        ("[1, a, {b: 2}]", [1, "a", {"b": 2}]),
        ("'010'", "010"),
        ("! x", "x"),
    ],
)
def test_values(text: str, value: Any) -> None:
    found = parsed_plain(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "key 'a' is given twice"),
        ("a: &x 1\nb: *x", "aliases"),
        ("!!int ''", "tags"),
        ("!!python/object/apply:os.system ['true']", "tags"),
        ("!secret x", "tags"),
        ("5" * 301, "301 digits"),
        ("-" + "5" * 5000, "5,001 digits"),
        ("[" * 31 + "]" * 31, "nested deeper than 30"),
        ("[" * 100_000, "nested deeper than 30"),
        ('a: "\\e[31mred"', "control character at a"),
        ('a: {b: [1, "\\a"]}', r"control character at a\.b\[1\]"),
        ('"\\u202e": 1', "control character"),
        ("{[1]: 2}", "unhashable key at line 1"),
        ("[1, 2", "not valid YAML: .* at line 1, column 6"),
        ("a: secret: b", "mapping values are not allowed here at line 1"),
        ("\x07", "a character that YAML has not"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(FileError, match=message) as told:
        parsed_plain(text)
    assert "secret" not in str(told.value).replace("(!secret)", "") and len(str(told.value)) < 200


def test_thirty_levels_are_enough_and_read(tmp_path: Path) -> None:
    assert parsed_plain("[" * 30 + "]" * 30)


def test_only_plain_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big").write_text("a" * (MAX_BYTES + 1), encoding="utf-8")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "mark").write_bytes(b"\xef\xbb\xbfa: 1")
    for name, message in (
        ("pipe", "pipe or a device"),
        ("big", "at most 400,000"),
        ("binary", "UTF-8"),
        ("none", "is missing"),
        (".", "is missing"),
        ("x" * 300, "is missing"),
        ("a\0b", "is missing"),
    ):
        with pytest.raises(FileError, match=message):
            read_plain(tmp_path / name, "is missing")
    with pytest.raises(FileError, match="pipe or a device"):
        read_plain(Path("/dev/zero"), "is missing")
    assert read_plain(tmp_path / "mark", "is missing") == {"a": 1}
