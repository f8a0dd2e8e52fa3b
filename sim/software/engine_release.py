"""Versions of serving engines: how they are written, which come before which, and when each was released."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from moesim.hwmodels.facts import read_yaml
from moesim.hwmodels.nearest import nearest

Version = tuple[int, ...]
_NUMBER = re.compile(r"v?(\d+(?:\.\d+){1,3}|\d+$)", re.IGNORECASE)
_PARTS = 4
_MONTH = re.compile(r"(20\d\d)-(0[1-9]|1[0-2])(?:-\d\d)?")
_MAIN = re.compile(r"(nightly|main|latest|dev|master)\b", re.IGNORECASE)
_NEAREST = 3
_AHEAD = 12  # assumed: minor releases in the year or so that a list may be behind
_BUILDS = "builds"  # in the file of releases: images by name
_RELEASES = Path(__file__).parent / "engines" / "releases.yaml"


def _tag(text: str) -> str:
    """What a version or the name of an image says of itself: "v0.10.2" of "vllm/vllm-openai:v0.10.2"."""
    return text.strip().rpartition(":")[2]


def version_of(text: str) -> Version | None:
    """(0, 10, 2, 0) of "0.10.2", "v0.10.2rc1" or an image ("vllm/vllm-openai:v0.10.2"); None of what has no number."""
    found = _NUMBER.match(_tag(text))
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


def dated(text: str) -> int | None:
    """Month of an image that is known by its name ("glm5-hopper"); None of any other."""
    return month_of(_builds().get(_tag(text), ""))


@cache
def _builds() -> dict[str, str]:
    """Months of images by their names."""
    return {name: str(month) for name, month in read_yaml(_RELEASES)[_BUILDS].items()}


def month_written(month: int) -> str:
    """ "2025-10" of months since the year 0."""
    return f"{month // 12}-{month % 12 + 1:02d}"


@cache
def _releases() -> dict[str, list[tuple[Version, int, str]]]:
    """(version, month, as written) of each family, oldest first."""
    families = read_yaml(_RELEASES)
    return {
        family: sorted((version_of(str(v)) or (), month_of(str(month)) or 0, str(v)) for v, month in lines.items())
        for family, lines in families.items()
        if family != _BUILDS
    }


def is_of_main(text: str) -> bool:
    """Whether a version names a build of the main branch.

    Its day, where the name has one, is not read: constants of age were fitted with such builds undated.
    """
    return _MAIN.match(_tag(text)) is not None


def is_listed(family: str, version: str) -> bool:
    """Whether a version lies among the known releases of a family: not before the oldest, nor after the newest line."""
    number, lines = version_of(version), _releases().get(family, [])
    if number is None or not lines:
        return number is not None
    newest, _, written = lines[-1]
    parts = written.count(".") + 1
    return lines[0][0] <= number and (number <= newest or number[:parts] == newest[:parts])


def may_follow(family: str, version: str) -> bool:
    """Whether a version that is not listed may well exist: older than all, or soon after the newest."""
    number, lines = version_of(version), _releases().get(family, [])
    if number is None or not lines:
        return False
    newest = lines[-1][0]
    same, next_one = number[0] == newest[0], number[0] == newest[0] + 1
    return number < lines[0][0] or (same and number[1] <= newest[1] + _AHEAD) or (next_one and number[1] <= _AHEAD // 4)


def nearest_releases(family: str, version: str) -> list[tuple[str, int]]:
    """The three known releases that are nearest to a version, with months: by number, else by spelling and age."""
    number, lines = version_of(version), _releases().get(family, [])
    if number is not None:
        at = sum(listed <= number for listed, _, _ in lines)
        window = lines[max(0, min(at - 2, len(lines) - _NEAREST)) :][:_NEAREST]
        return [(written, month) for _, month, written in window]
    months = {written: month for _, month, written in reversed(lines)}  # of equals the newest first
    names = nearest(version, {written: month_written(month) for written, month in months.items()}, _NEAREST)
    return [(written, months[written]) for written in names]


def released(family: str, version: str) -> int | None:
    """Month in which a version of this family came out; None where that is not known."""
    number = version_of(version)
    if number is None:
        return None
    months = [month for listed, month, _ in _releases().get(family, ()) if listed <= number]
    return months[-1] if months else None
