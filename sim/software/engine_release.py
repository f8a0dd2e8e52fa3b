"""Versions of serving engines: how they are written, which come before which, and when each was released."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from moesim.hwmodels.facts import read_yaml

Version = tuple[int, ...]
_NUMBER = re.compile(r"v?(\d+(?:\.\d+){1,3}|\d+$)", re.IGNORECASE)
_PARTS = 4
_MONTH = re.compile(r"(20\d\d)-(0[1-9]|1[0-2])(?:-\d\d)?")
_RELEASES = Path(__file__).parent / "engines" / "releases.yaml"


def version_of(text: str) -> Version | None:
    """(0, 10, 2, 0) of "0.10.2", "v0.10.2rc1" or "0.10.2.post1"; None of what does not begin with a number."""
    found = _NUMBER.match(text.strip())
    if not found:
        return None
    parts = [int(part) for part in found.group(1).split(".")]
    return tuple(parts + [0] * (_PARTS - len(parts)))


def is_before(version: Version | None, other: str) -> bool:
    """Whether a version is older than `other`; an unknown one is taken to be newer than all that has a name."""
    limit = version_of(other)
    return version is not None and limit is not None and version < limit


def month_of(text: str) -> int | None:
    """Months since the year 0 of "2025-10" or "2025-10-06"; None of anything else."""
    found = _MONTH.fullmatch(text.strip())
    return 12 * int(found.group(1)) + int(found.group(2)) - 1 if found else None


@cache
def _releases() -> dict[str, list[tuple[Version, int]]]:
    """(version, month) of each family, oldest first."""
    families = read_yaml(_RELEASES)
    return {
        family: sorted((version_of(str(v)) or (), month_of(str(month)) or 0) for v, month in lines.items())
        for family, lines in families.items()
    }


def released(family: str, version: str) -> int | None:
    """Month in which a version of this family came out; None where that is not known."""
    number = version_of(version)
    if number is None:
        return None
    months = [month for listed, month in _releases().get(family, ()) if listed <= number]
    return months[-1] if months else None
