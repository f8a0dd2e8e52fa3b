"""Versions of serving engines: how they are written, and which come before which."""

from __future__ import annotations

import re

Version = tuple[int, ...]
_NUMBER = re.compile(r"v?(\d+(?:\.\d+){0,3})", re.IGNORECASE)


def version_of(text: str) -> Version | None:
    """(0, 10, 2) of "0.10.2", "v0.10.2rc1" or "0.10.2.post1"; None of what does not begin with a number."""
    found = _NUMBER.match(text.strip())
    return tuple(int(part) for part in found.group(1).split(".")) if found else None


def is_before(version: Version | None, other: str) -> bool:
    """Whether a version is older than `other`; an unknown one is taken to be newer than all that has a name."""
    limit = version_of(other)
    return version is not None and limit is not None and version < limit
