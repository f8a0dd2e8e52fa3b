"""Fit interval half-widths on published rows marked `fit`: `python -m calibrate.fit_bands ROWS.csv... --write FILE`

For each class of run (see sim/interval.py) a multiple of the median absolute log error, which a stack that is three
times off cannot stretch, and never narrower than the noise between reruns. The multiple is one number for all classes:
1.6 standard deviations of a normal error, times what unseen families of a class err more than fitted ones. Classes
with few rows or one family only are left to their parent. Rows marked `test` are never read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from math import log
from pathlib import Path

from calibrate.fit_training import Sample, load_samples
from calibrate.predict_row import simulate_row
from sim.interval import band_keys

_MEDIAN_TO_90 = 2.44  # 1.645 / 0.674: median absolute error to 90 % of a normal distribution
_IN_SAMPLE = 1.35  # constants were fitted on these rows; unseen families of the same class err more
_NOISE = 0.04  # measured: the next software release of the same run differs by 1.5 % median, 5.8 % p90
_ROWS, _FAMILIES = 5, 2  # a class needs that many to have a band of its own


def _error(sample: Sample) -> tuple[list[str], float, str] | None:
    try:
        result = simulate_row(sample.row)
    except ValueError:
        return None
    return band_keys(result.resolved.job), log(result.step.step_time_s / sample.measured_s), sample.family


def _quantile(errors: Sequence[tuple[float, float]], level: float) -> float:
    """Weighted quantile of (value, weight) pairs."""
    ordered = sorted(errors)
    total = sum(w for _, w in ordered)
    running = 0.0
    for value, weight in ordered:
        running += weight
        if running >= level * total:
            return value
    return ordered[-1][0]


def bands(samples: Sequence[Sample]) -> dict[str, tuple[float, int, int]]:
    """class -> (half-width, rows, families); families weigh alike so that large sweeps do not decide."""
    with ProcessPoolExecutor(2) as pool:
        found = [e for e in pool.map(_error, samples, chunksize=8) if e is not None]
    by_class: dict[str, list[tuple[float, str]]] = {}
    for keys, error, family in found:
        for key in dict.fromkeys(keys):
            by_class.setdefault(key, []).append((abs(error), family))
    widths = {}
    for key, errors in sorted(by_class.items()):
        sizes: dict[str, int] = {}
        for _, family in errors:
            sizes[family] = sizes.get(family, 0) + 1
        if key not in ("dense", "moe") and (len(errors) < _ROWS or len(sizes) < _FAMILIES):
            continue
        weighted = [(value, sizes[family] ** -0.5) for value, family in errors]
        width = _IN_SAMPLE * _MEDIAN_TO_90 * _quantile(weighted, 0.5)
        widths[key] = (max(_NOISE, width), len(errors), len(sizes))
    return widths


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="+", type=Path)
    parser.add_argument("--write", type=Path, required=True)
    options = parser.parse_args(arguments)
    head = [
        "# Relative (log) 90 % half-widths of predictions by class of run: kind, stack, GPU family, release age.",
        "# Written by calibrate/fit_bands.py from published rows marked fit; see docs/accuracy.md.",
    ]
    lines = [
        f'"{key}": {{half_width: {width:.3f}, kind: fitted, rows: {rows}, families: {families}}}'
        for key, (width, rows, families) in bands(load_samples(options.rows)).items()
    ]
    options.write.write_text("\n".join(head + lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
