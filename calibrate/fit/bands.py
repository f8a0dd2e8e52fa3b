"""Half-widths of intervals by class of question, from errors with whole sources left out of the fit.

What decides a width is how far sources lie apart, not how far the rows of one source do: rows of a source that was seen
promise 90 % and hold two thirds of the next source. So a width is a quantile over sources of each one's own 0.9
quantile, at 0.9 (1 + 1/S) of S sources as conformal prediction takes it for S exchangeable ones: with few sources the
widest. Or it is at 0.9, or each side by itself, or by a normal law: what holds sources left out with the best interval
score is used, by kind (docs/accuracy.md). A class of few sources leans on the wider one; of one source, or of few rows,
it gets none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp, sqrt
from pathlib import Path
from statistics import median

import numpy as np

from moesim.hwmodels.interval import Width

LEVEL = 0.9
NOISE = 0.04  # measured: the next software release of the same run differs by 1.5 % median, 5.8 % p90
_SOURCES, _ROWS = 2, 12  # a class needs that many to have a band of its own
_PARENT = 2.0  # sources that a class's wider one counts as beside its own: of 0, 1, 2 and 4 the best score left out
_OWN_SPREAD = 4  # rows from which a source has a spread of its own
_SIDE = 0.95  # what a side of a 90 % interval holds
_NORMAL_90, _MAD = 1.645, 1.4826  # of a normal distribution: its 90 % half-width, deviation over median absolute one


@dataclass(frozen=True, slots=True)
class Error:
    """A log error (predicted over measured) of a row whose source the fit had not seen; classes: narrow to wide."""

    classes: tuple[str, ...]
    source: str
    log_error: float
    stands_alone: str = ""  # the one of its classes that leans on no wider one: another population


@dataclass(frozen=True, slots=True)
class Band:
    """Width of a class, and what it rests on."""

    width: Width
    rows: int
    sources: int


Estimator = Callable[[Sequence[Error]], Width]


def weighted_quantile(values: Sequence[tuple[float, float]], level: float) -> float:
    """Quantile of (value, weight) pairs."""
    ordered = sorted(values)
    total = sum(w for _, w in ordered)
    running = 0.0
    for value, weight in ordered:
        running += weight
        if running >= level * total - 1e-12:
            return value
    return ordered[-1][0]


def by_source(errors: Iterable[Error]) -> dict[str, list[float]]:
    """Signed log errors of every source."""
    sources: dict[str, list[float]] = {}
    for error in errors:
        sources.setdefault(error.source, []).append(error.log_error)
    return sources


def by_kind(errors: Sequence[Error]) -> dict[str, list[Error]]:
    """Errors by their widest class, in order of its name; small sources of one team together."""
    kinds = sorted({e.classes[-1] for e in errors})
    return {kind: _small_ones_together([e for e in errors if e.classes[-1] == kind]) for kind in kinds}


def _small_ones_together(errors: Sequence[Error]) -> list[Error]:
    """Sources of fewer than _OWN_SPREAD rows as one of their team: one row says how rows differ, not how sources do."""
    rows = {name: len(of) for name, of in by_source(errors).items()}
    return [
        e if rows[e.source] >= _OWN_SPREAD else replace(e, source=f"{e.source.split(',')[0]}, small ones")
        for e in errors
    ]


def _sized(errors: Sequence[Error], power: float, level: float) -> Width:
    """Quantile of sizes over rows; the rows of a source weigh `power` of their number together."""
    rows = {name: len(of) for name, of in by_source(errors).items()}
    weighted = [(abs(e.log_error), rows[e.source] ** (power - 1.0)) for e in errors]
    return _alike(weighted_quantile(weighted, level))


def _alike(half: float) -> Width:
    return Width(half, half)


def _conformal(level: float, sources: int) -> float:
    return min(1.0, level * (1.0 + 1.0 / sources))


def pooled(errors: Sequence[Error]) -> Width:
    """Every row counts alike."""
    return _sized(errors, 1.0, LEVEL)


def by_root(errors: Sequence[Error]) -> Width:
    """Every source counts like the square root of its rows."""
    return _sized(errors, 0.5, LEVEL)


def sources_alike(errors: Sequence[Error]) -> Width:
    """Every source counts alike; the level of conformal prediction over sources."""
    return _sized(errors, 0.0, _conformal(LEVEL, len(by_source(errors))))


def _own_quantiles(errors: Sequence[Error]) -> list[float]:
    """Every source's own 0.9 quantile of sizes, between rows where it falls between them."""
    return [float(np.quantile(np.abs(of), LEVEL)) for of in by_source(errors).values()]


def of_quantiles(errors: Sequence[Error]) -> Width:
    """The 0.9 quantile over sources of each one's own."""
    return _alike(float(np.quantile(_own_quantiles(errors), LEVEL)))


def of_quantiles_conformal(errors: Sequence[Error]) -> Width:
    """The same at the level of conformal prediction over S sources: 0.9 (1 + 1/S), the largest where S < 9."""
    own = _own_quantiles(errors)
    return _alike(float(np.quantile(own, _conformal(LEVEL, len(own)))))


def of_sides(errors: Sequence[Error]) -> Width:
    """Each side by itself: the 0.9 quantile over sources of each one's own 0.95 quantile on that side.

    Runs are slower than a model of what they should do, seldom faster: one half-width for both sides is too wide on
    one of them.
    """
    sides = []
    for sign in (1.0, -1.0):  # errors are predicted over measured: a positive one is a value measured below
        own = [max(0.0, float(np.quantile(sign * np.array(of), _SIDE))) for of in by_source(errors).values()]
        sides.append(float(np.quantile(own, LEVEL)))
    return Width(*sides)


def normal_law(errors: Sequence[Error]) -> Width:
    """A variance between sources, from their medians, and one within them, from deviations; both robust, about zero."""
    sources = by_source(errors)
    between = _MAD * median(abs(median(of)) for of in sources.values())
    weighted = [(abs(u - median(of)), 1.0 / len(of)) for of in sources.values() for u in of]
    within = _MAD * weighted_quantile(weighted, 0.5)
    return _alike(_NORMAL_90 * sqrt(between**2 + within**2))


ESTIMATORS: dict[str, Estimator] = {
    "rows alike": pooled,
    "rows by the root of their source": by_root,
    "sources alike": sources_alike,
    "quantile over sources of their own quantiles": of_quantiles,
    "the same at the conformal level": of_quantiles_conformal,
    "the same, each side by itself": of_sides,
    "normal law of sources and rows": normal_law,
}
COVERS = 0.85  # share of left-out sources' errors that an estimator must hold to be chosen


def bands(
    errors: Sequence[Error], estimator: Estimator = of_quantiles_conformal, least: float = NOISE
) -> dict[str, Band]:
    """class -> its band, `least` wide or more each way; narrow classes lean on wider ones.

    The widest class (the last of each error) always has one.
    """
    members: dict[str, list[Error]] = {}
    parents: dict[str, list[str]] = {}  # wider classes of each, the next wider first
    for error in errors:
        classes = list(dict.fromkeys(error.classes))
        for i, key in enumerate(classes):
            members.setdefault(key, []).append(error)
            parents[key] = classes[i + 1 :]
    alone = {error.stands_alone for error in errors}
    found: dict[str, Band] = {}
    for key in sorted(members, key=lambda key: (len(parents[key]), key)):
        own = members[key]
        sources = len(by_source(own))
        if not parents[key] or (len(own) >= _ROWS and sources >= _SOURCES):
            width = estimator(own)
            width = Width(max(least, width.below), max(least, width.above))
            wider = next((found[p].width for p in parents[key] if p in found), None)
            found[key] = Band(
                width if wider is None or key in alone else _between(width, wider, sources), len(own), sources
            )
    return dict(sorted(found.items()))


def _between(own: Width, wider: Width, sources: int) -> Width:
    """A class of few sources is believed by as many, against _PARENT sources of the wider class; geometric."""
    share = sources / (sources + _PARENT)
    sides = ((own.below, wider.below), (own.above, wider.above))
    return Width(*(a**share * b ** (1.0 - share) for a, b in sides))


@dataclass(frozen=True, slots=True)
class Judged:
    """An estimator on sources that neither the constants nor the widths had seen; every source counts alike."""

    name: str
    coverage: float  # of errors inside
    half_width: float  # mean over sources and both sides, of the log
    score: float  # mean interval score: the whole width and 20 times what sticks out


def judged(errors: Sequence[Error], name: str) -> Judged:
    """Leave each source out, take widths from the others, and look at its rows."""
    verdicts: list[tuple[float, float, float]] = []
    for source in by_source(errors):
        found = bands([e for e in errors if e.source != source], ESTIMATORS[name])
        rows = []
        for error in (e for e in errors if e.source == source):
            key = next((k for k in error.classes if k in found), None)
            width = found[key].width if key else max((b.width for b in found.values()), key=lambda w: w.square)
            out = max(0.0, error.log_error - width.below, -error.log_error - width.above)
            whole = width.below + width.above
            rows.append((float(out == 0.0), whole / 2.0, whole + 2.0 / (1.0 - LEVEL) * out))
        covered, width, score = (sum(values) / len(rows) for values in zip(*rows, strict=True))
        verdicts.append((covered, width, score))
    coverage, half_width, mean_score = (sum(values) / len(verdicts) for values in zip(*verdicts, strict=True))
    return Judged(name, coverage, half_width, mean_score)


def chosen(errors: Sequence[Error]) -> str:
    """The estimator of the best score among those that hold enough of sources left out; the widest where none does."""
    verdicts = [judged(errors, name) for name in ESTIMATORS]
    fair = [v for v in verdicts if v.coverage >= COVERS]
    return (min(fair, key=lambda v: v.score) if fair else max(verdicts, key=lambda v: v.coverage)).name


def bands_by_root(errors: Sequence[Error], least: Callable[[str], float] = lambda root: NOISE) -> dict[str, Band]:
    """Bands of all classes, those below each widest class by the estimator that does best there."""
    found: dict[str, Band] = {}
    for root, own in by_kind(errors).items():
        found |= bands(own, ESTIMATORS[chosen(own)], least(root))
    return found


def family_weights(families: Sequence[str]) -> list[float]:
    """Each family counts like the square root of its rows, so that sweeps do not decide."""
    sizes: dict[str, int] = {}
    for family in families:
        sizes[family] = sizes.get(family, 0) + 1
    return [sizes[f] ** -0.5 for f in families]


def describe(errors: Sequence[float], families: Sequence[str]) -> str:
    """'median / p90 %' of log errors."""
    weighted = [(abs(e), w) for e, w in zip(errors, family_weights(families), strict=True)]
    middle, high = (100.0 * (exp(weighted_quantile(weighted, q)) - 1.0) for q in (0.5, 0.9))
    return f"{middle:.1f} / {high:.0f} % (median / p90)"


def write_bands(found: dict[str, Band], header: Sequence[str], path: Path) -> None:
    """The file that intervals are read from: one line per class."""
    lines = [f"# {line}" for line in header]
    lines += [
        f'"{key}": {{below: {b.width.below:.3f}, above: {b.width.above:.3f}, '
        f"kind: fitted, rows: {b.rows}, sources: {b.sources}}}"
        for key, b in found.items()
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
