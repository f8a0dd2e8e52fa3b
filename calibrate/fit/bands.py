"""Interval half-widths by class of run, from left-out errors of the fit; written by calibrate/fit/training.py.

For each class (see sim/train/band.py) the median absolute left-out log error times 1.645 / 0.674, the ratio of a normal
distribution's 90 % half-width to its median: a stack that is three times off cannot stretch it. Never narrower than
the noise between reruns; classes with few rows or one family are left to their parent.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from pathlib import Path

_MEDIAN_TO_90 = 1.645 / 0.674
_NOISE = 0.04  # measured: the next software release of the same run differs by 1.5 % median, 5.8 % p90
_ROWS, _FAMILIES = 8, 4  # a class needs that many to have a band of its own


def weighted_quantile(values: Sequence[tuple[float, float]], level: float) -> float:
    """Quantile of (value, weight) pairs."""
    ordered = sorted(values)
    total = sum(w for _, w in ordered)
    running = 0.0
    for value, weight in ordered:
        running += weight
        if running >= level * total:
            return value
    return ordered[-1][0]


def family_weights(families: Sequence[str]) -> list[float]:
    """Each family counts like the square root of its rows, so that sweeps do not decide."""
    sizes: dict[str, int] = {}
    for family in families:
        sizes[family] = sizes.get(family, 0) + 1
    return [sizes[f] ** -0.5 for f in families]


def _weighted(errors: Sequence[float], families: Sequence[str]) -> list[tuple[float, float]]:
    """Absolute errors with the weights of their families."""
    return [(abs(e), w) for e, w in zip(errors, family_weights(families), strict=True)]


def describe(errors: Sequence[float], families: Sequence[str]) -> str:
    """'median / p90 %' of log errors."""
    weighted = _weighted(errors, families)
    median, high = (100.0 * (exp(weighted_quantile(weighted, q)) - 1.0) for q in (0.5, 0.9))
    return f"{median:.1f} / {high:.0f} % (median / p90)"


def bands(
    classes: Sequence[Sequence[str]], errors: Sequence[float], families: Sequence[str]
) -> dict[str, tuple[float, int, int]]:
    """class -> (half-width of the log, rows, families)."""
    members: dict[str, list[int]] = {}
    for i, keys in enumerate(classes):
        for key in dict.fromkeys(keys):
            members.setdefault(key, []).append(i)
    widths = {}
    for key, rows in sorted(members.items()):
        own = [families[i] for i in rows]
        if key not in ("dense", "moe") and (len(rows) < _ROWS or len(set(own)) < _FAMILIES):
            continue
        median = weighted_quantile(_weighted([errors[i] for i in rows], own), 0.5)
        widths[key] = (max(_NOISE, _MEDIAN_TO_90 * median), len(rows), len(set(own)))
    return widths


TRAINING_HEADER = (
    "# Log 90 % half-widths of predictions by class of run: kind, stack, GPU family, release age.",
    "# Written by calibrate/fit/training.py --bands from left-out errors: ",
)


def write_bands(
    widths: dict[str, tuple[float, int, int]], note: str, path: Path, header: tuple[str, str] = TRAINING_HEADER
) -> None:
    """Write the file that sim/train/band.py reads, or its counterpart with another header."""
    lines = [header[0], f"{header[1]}{note}."]
    lines += [
        f'"{key}": {{half_width: {width:.3f}, kind: fitted, rows: {rows}, families: {families}}}'
        for key, (width, rows, families) in widths.items()
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
