"""Values that no key expects, and ways to break the bytes of a file."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

DIGITS = "@@5000 DIGITS@@"  # stands in a tree for a number that no library writes
NUMBERS: tuple[Any, ...] = (
    0,
    -0.0,
    -1,
    1,
    2,
    3,
    0.5,
    7,
    10**6,
    10**7,
    10**9,
    2**31,
    2**63,
    2**64,
    10**30,
    10**400,
    5e-324,
    1e-300,
    1e-9,
    1e15,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    DIGITS,
)
TEXTS = (
    "",
    " ",
    "\x1b]0;owned\x07",
    "\u202etxt.exe",
    "\x00",
    "a\nb",
    "a\rb",
    "$\\frac{",
    "$x^{$",
    "$$",
    "\\",
    "_^{}",
    "%s %d {0} {x}",
    "<script>alert(1)</script>",
    "'\"><img src=x>",
    "=cmd|'/C calc'!A0",
    "@SUM(1)",
    "+1",
    "-2+3",
    "[bold]x[/nope]",
    "[/]",
    "[link=x]",
    "x" * 10_000,
    "\U0001f600" * 200,
    "\ud800",
    "nan",
    "inf",
    "1e999",
    "-5 GB/s",
    "1 parsec",
    "1_0",
    "0x10",
    "010",
    "1:30",
    "yes",
    "~",
    "null",
    "../" * 60 + "etc/passwd",
    "/dev/zero",
    "/dev/stdin",
    "pipe.fifo",
    ".",
    "missing.yaml",
    "random.bin",
    "bomb.gz",
    "zero.dev",
    "a,b",
    "1,2,3",
    "64..1e30",
    "1..9999999999",
    "=",
    "a=",
    "=b",
    ":",
    "::::",
    "*",
    "{}",
    "[]",
    "&a *a",
    "!!python/object:os.system x",
    "C:\\x",
)


def nested(depth: int) -> Any:
    """Lists and mappings in each other."""
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def hostile(draw: Random) -> Any:
    """A value of any kind."""
    kind = draw.random()
    if kind < 0.5:
        return draw.choice(NUMBERS)
    if kind < 0.85:
        return draw.choice(TEXTS)
    return draw.choice(
        (
            None,
            True,
            False,
            [],
            {},
            [[]],
            {"": 1},
            [None],
            [1, "a"],
            nested(8),
            nested(60),
            list(range(2000)),
            {"a": {"b": 1}},
        )
    )


def places(tree: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a tree are, itself first."""
    yield here
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*here, key))


def put(tree: Any, place: tuple[Any, ...], value: Any) -> Any:
    """The tree with another value there; sections on the way are made."""
    if not place:
        return value
    key, rest = place[0], place[1:]
    if isinstance(key, int):
        held = list(tree) if isinstance(tree, list) else []
        held += [None] * (key + 1 - len(held))
        held[key] = put(held[key], rest, value)
        return held
    base = dict(tree) if isinstance(tree, dict) else {}
    return {**base, key: put(base.get(key), rest, value)}


def at(tree: Any, place: tuple[Any, ...]) -> Any:
    """The value there."""
    for key in place:
        tree = tree[key]
    return tree


def broken_tree(draw: Random, tree: Any) -> Any:
    """A tree with one to three things wrong."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        where = draw.choice(list(places(tree)))
        kind = draw.random()
        if kind < 0.6 or not where:
            tree = put(tree, where, hostile(draw)) if where or kind < 0.02 else tree
        elif kind < 0.75:
            tree = put(tree, where, at(tree, draw.choice(list(places(tree)))))
        elif kind < 0.87:
            if isinstance(at(tree, where[:-1]), dict):
                name = draw.choice(("extra", "", "\x1b[31m", "x" * 300))
                tree = put(tree, (*where[:-1], name), hostile(draw))
        else:
            owner = at(tree, where[:-1])
            without = {k: v for k, v in owner.items() if k != where[-1]} if isinstance(owner, dict) else owner[1:]
            tree = put(tree, where[:-1], without)
    return tree


_TOKEN = re.compile(rb"[-+]?[0-9][0-9.eE+-]*|[A-Za-z_][A-Za-z0-9_.-]*")


def broken_bytes(draw: Random, raw: bytes) -> bytes:
    """A file of text with something wrong in its bytes, lines or words."""
    kind = draw.randrange(8)
    lines = raw.split(b"\n")
    line = draw.randrange(len(lines))
    if kind == 0:
        return raw[: draw.randrange(len(raw) + 1)]
    if kind == 1:
        flipped = bytearray(raw)
        for _ in range(draw.choice((1, 4, 60))):
            if flipped:
                flipped[draw.randrange(len(flipped))] = draw.randrange(256)
        return bytes(flipped)
    if kind == 2:
        return b"\n".join([*lines[:line], *lines[line + 1 :]])
    if kind == 3:
        return b"\n".join([*lines[:line], lines[line], *lines[line:]])
    if kind == 4:
        return draw.choice(
            (b"", b"\n", b"\x00" * 100, b"\xff\xfe" + raw[:200], b"\xef\xbb\xbf" + raw, gzip.compress(raw))
        )
    if kind == 5 and len(raw) < 100_000:
        return raw + b"\n" + lines[line] * 2000
    words = list(_TOKEN.finditer(raw))
    for word in draw.sample(words, min(len(words), draw.choice((1, 1, 2, 5)))):
        raw = raw[: word.start()] + text_of(hostile(draw)) + raw[word.end() :]
    return raw


def text_of(value: Any) -> bytes:
    """A value as a word of a table or log."""
    if value == DIGITS:
        return b"9" * 5000
    return str(value).encode("utf-8", "surrogatepass")


def lay_traps(folder: Path) -> None:
    """Files that must not be read as they are: a pipe, a device, a bomb, noise, a folder."""
    os.mkfifo(folder / "pipe.fifo")
    (folder / "zero.dev").symlink_to("/dev/zero")
    (folder / "bomb.gz").write_bytes(_BOMB)
    (folder / "random.bin").write_bytes(Random(1).randbytes(5000))


_BOMB = gzip.compress(b"1,1\n" * 30_000_000, 1)
